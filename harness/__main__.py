"""`python -m harness`: everything but computing."""

import sys

from assay.harness.commands.program import main  # by its one name: `python -m harness` runs this file under another

if __name__ == "__main__":
    sys.exit(main())
