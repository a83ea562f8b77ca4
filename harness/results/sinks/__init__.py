"""Where people keep results beside the folder of results: a file a sink, chosen with `sink=[NAME]`."""
