"""The command line, one file per verb."""

from lightning_mm.cli.dispatch import main

__all__ = ["main"]
