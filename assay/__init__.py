"""Assay: attribution methods and failure detectors of image classifiers, measured.

In a checkout the project's folders (`harness`, `methods`, `metrics`, `datasets`) lie beside this one; in an installed
package they lie inside it. Either way they are imported as `assay.harness`, `assay.methods`, ...
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if not (Path(__path__[0]) / "harness").is_dir():  # a checkout; of site-packages nothing else becomes a part of assay
    __path__.append(str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from .api import Explanation as Explanation
    from .api import evaluate as evaluate
    from .api import explain as explain
    from .api import fit as fit
    from .api import load as load
    from .api import samples as samples
    from .harness.detectors.scorer import Scorer as Scorer
    from .harness.network import Network as Network

PUBLIC = {
    "assay.api": ("evaluate", "samples", "explain", "Explanation", "fit", "load"),
    "assay.harness.network": ("Network",),
    "assay.harness.detectors.scorer": ("Scorer",),
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: the command's help needs no torch."""
    from importlib import import_module

    for module, names in PUBLIC.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'assay' has no attribute {name!r}; it has {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return sorted(["__version__", *(name for names in PUBLIC.values() for name in names)])
