"""Papers' tables, regenerated: ours ± interval | reported | difference | n.

A table is a YAML file in conf/table/. Only text is read here, the tidy results and the published figures:
nothing is built, and torch is not imported.
"""

from .empty import empty_lines
from .files import regenerate, summary
from .kinds import render
from .measured import read_tidy

__all__ = ["empty_lines", "read_tidy", "regenerate", "render", "summary"]
