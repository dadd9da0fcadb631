"""Checks for networks of users, and small generated data with a learnable signal."""

from lightning_mm.testing.check_result import CheckLine, CheckResult
from lightning_mm.testing.fake import FakeSegmentation
from lightning_mm.testing.invariance import assert_missing_invariant
from lightning_mm.testing.network_check import check

__all__ = ["CheckLine", "CheckResult", "FakeSegmentation", "assert_missing_invariant", "check"]
