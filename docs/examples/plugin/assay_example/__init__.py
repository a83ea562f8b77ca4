"""A plug-in of Assay: each module adds one thing, which a file of conf/ names."""
