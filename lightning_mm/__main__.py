"""``python -m lightning_mm`` is the same as ``lightning-mm``."""

import sys

from lightning_mm.cli import main

if __name__ == "__main__":
    sys.exit(main())
