"""`python -m assay`: the console command where nothing is installed."""

from .console import main

if __name__ == "__main__":
    main()
