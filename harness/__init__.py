"""The machinery of Assay: it imports no particular method, metric or dataset."""
