"""Assay: attribution methods and failure detectors of image classifiers, measured.

In a checkout the project's folders (`harness`, `methods`, `metrics`, `datasets`) lie beside this one; in an installed
package they lie inside it. Either way they are imported as `assay.harness`, `assay.methods`, ...
"""

from pathlib import Path

from .version import __version__ as __version__

if not (Path(__path__[0]) / "harness").is_dir():  # a checkout; of site-packages nothing else becomes a part of assay
    __path__.append(str(Path(__file__).resolve().parent.parent))
