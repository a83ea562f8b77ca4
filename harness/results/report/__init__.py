"""The report: one HTML file that needs nothing else, made from the tidy table and the store."""

from .page import write_report

__all__ = ["write_report"]
