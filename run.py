"""Evaluate attribution methods and failure detectors: model x dataset x method x metric -> tidy table.

Everything else (listing, planning, collecting, comparing) is `python -m harness --help`.
"""

import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules are loading: no traceback

ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH", "")]))

from assay.harness.console import evaluate  # noqa: E402  # no torch yet: --help and tab completion are quick

if __name__ == "__main__":
    evaluate()
