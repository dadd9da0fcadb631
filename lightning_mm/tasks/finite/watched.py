"""Reads a scalar of the device without waiting for what the device still has to compute."""

from __future__ import annotations

import torch
from torch import Tensor


class Watched:
    """A scalar that is copied to the CPU in the background.

    On CUDA, :meth:`value` waits for the scalar alone: kernels that were launched after it (the backward pass after a
    loss) keep running, so asking for it costs no time of the device.

    Args:
        scalar: On any device.
    """

    def __init__(self, scalar: Tensor) -> None:
        scalar = scalar.detach()
        self._event = None
        if scalar.device.type == "cuda":
            # of the same shape and dtype, so that the copy is one transfer
            self._scalar = torch.empty(scalar.shape, dtype=scalar.dtype, pin_memory=True)
            self._scalar.copy_(scalar, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(scalar.device))
        else:
            self._scalar = scalar

    @property
    def at_once(self) -> bool:
        """Whether reading it now cannot make a device wait."""
        return self._event is None

    def value(self) -> float:
        """The scalar."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._scalar)
