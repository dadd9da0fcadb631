"""Run a task on trial, with its buffers and the global random state as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(task: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Restore buffers and the global random state at the end; yields copies of the buffers.

    A buffer that got another shape is left as it is: a table that the network makes for the sizes of its inputs.
    """
    buffers = {name: buffer.clone() for name, buffer in task.named_buffers()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield buffers
    finally:
        with torch.no_grad():
            for name, buffer in task.named_buffers():
                before = buffers.get(name)
                if before is not None and before.shape == buffer.shape and not torch.equal(buffer, before):
                    buffer.copy_(before)
