"""Two methods on the same samples: paired differences with intervals."""

from .comparing import compare

__all__ = ["compare"]
