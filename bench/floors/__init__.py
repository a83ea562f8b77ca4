"""What each method is timed against: the bare passes that no implementation of it avoids. No peers; any device."""
