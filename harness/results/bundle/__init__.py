"""Results as one file for others: a paper's supplement, a reviewer, an archive."""
