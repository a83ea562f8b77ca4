"""Papers' tables, regenerated: ours ± interval | reported | difference | n.

A table is a YAML file in conf/table/. Only text is read here, the tidy results and the published figures:
nothing is built, and torch is not imported.
"""

from .files import regenerate, summary
from .measured import read_tidy
from .rendering import render

__all__ = ["read_tidy", "regenerate", "render", "summary"]
