"""The release, for `assay --version`, the record of a run and the wheel; pyproject.toml reads it here."""

__version__ = "0.1.0"
