"""Checks for graph recording by torch.compile, torch.export and torch.jit.trace."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def tracing() -> bool:
    """Return whether a graph is being recorded by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast; an empty one if autocast is already off, since entering has a cost.

    In torch.export the cost is high: it makes a graph of each context and puts all of them together again.
    """
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
