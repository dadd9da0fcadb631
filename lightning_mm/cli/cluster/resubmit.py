"""``lightning-mm resubmit STUDY``: queue what is open in a submitted study."""

from __future__ import annotations


def run_resubmit(args: list[str]) -> None:
    """Queue cells that are neither finished nor queued."""
    raise SystemExit(args)
