"""The console command `assay`: `assay run ...` is run.py, every other word is the other command. Imports no torch."""

import sys

BOTH = """assay run KEY=VALUE ...   evaluate methods: model x dataset x method x metric (more: assay run --help)
assay COMMAND ...         everything else, as below (more: assay COMMAND --help)
"""


def main() -> None:
    """Entry point of `assay` and `python -m assay`; ends the process with the command's exit code."""
    if sys.argv[1:2] == ["run"]:
        from assay.harness.console import evaluate

        del sys.argv[1]
        evaluate()
    from assay.harness.commands.program import main as other

    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        sys.argv[1:] = ["--help"]
        print(BOTH, flush=True)
    sys.exit(other("assay"))
