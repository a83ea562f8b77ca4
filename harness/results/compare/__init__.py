"""Two methods on the same samples: paired differences with intervals."""

from .comparing import compare, left_out

__all__ = ["compare", "left_out"]
