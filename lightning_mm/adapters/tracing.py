"""Whether a graph is being recorded, and what must not be done then."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def tracing() -> bool:
    """Whether a graph is being recorded, by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on; entering it costs more than a small product."""
    off: AbstractContextManager[Any] = torch.autocast(device, enabled=False)
    return off if tracing() or torch.is_autocast_enabled(device) else nullcontext()
