"""Checks for networks of users, and small generated data with a learnable signal."""

from lightning_mm.testing.fake import FakeSegmentation
from lightning_mm.testing.invariance import assert_missing_invariant

__all__ = ["FakeSegmentation", "assert_missing_invariant"]
