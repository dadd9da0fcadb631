"""What one prediction of a method costs: operations, memory, and seconds, measured on one sample.

Shapes: B samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lightning_mm.sweep.undisturbed import undisturbed
from lightning_mm.tree import tensors_of

SAMPLES = 1
"""How many samples are measured at once."""
TIMED = 2
"""Timed passes; the fastest counts."""


@dataclass(frozen=True)
class Cost:
    """Costs of one prediction.

    Args:
        flops: Floating-point operations of matrix products, convolutions and attention, as
            :mod:`torch.utils.flop_counter` counts them: a multiplication and an addition are two.
        memory: Bytes of the tensors that are alive at once, at most, without weights and inputs.
        seconds: Seconds per sample.
    """

    flops: int
    memory: int
    seconds: float


def measure(task: nn.Module, run: Callable[[], object], size: int, device: torch.device) -> Cost | None:
    """Measure a forward pass: one that is counted and warms up, then :data:`TIMED` that are timed.

    Buffers of the task and the global random state are as before.

    Args:
        task: What runs.
        run: Runs it on some samples.
        size: Number of samples B.
        device: Where it runs.

    Returns:
        Its costs, ``None`` if it cannot run here: the sweep itself says why, or it runs in another way (compiled,
        spread over devices) that cannot be counted.
    """
    try:
        with undisturbed(task):
            counter, alive = FlopCounterMode(display=False), _Alive()
            with _plain_attention(), counter, alive:
                run()
            seconds = min(_timed(run, device) for _ in range(TIMED))
    except Exception:  # one sample may not run where a whole batch does
        return None
    return Cost(round(counter.get_total_flops() / size), round(alive.peak / size), seconds / size)


def mean_cost(costs: Sequence[Cost]) -> dict[str, float]:
    """The mean over several networks, such as those of ``dedicated``, of which one makes a prediction."""
    return {
        "flops": round(sum(one.flops for one in costs) / len(costs)),
        "memory": round(sum(one.memory for one in costs) / len(costs)),
        "seconds": sum(one.seconds for one in costs) / len(costs),
    }


def _timed(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention in its parts: the fused operations of inference are not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Alive(TorchDispatchMode):
    """Sums the bytes of tensors that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._found: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for reference, _ in _storages((args, dict(kwargs))):
            if reference.cdata not in self._made:
                self._found[reference.cdata] = reference  # kept: its number is not used again
        output = func(*args, **kwargs)
        for reference, size in _storages(output):
            if reference.cdata not in self._found:
                self._made.setdefault(reference.cdata, (reference, size))
        self._made = {key: one for key, one in self._made.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return output


def _storages(nest: Any) -> list[tuple[StorageWeakRef, int]]:
    found = []
    for tensor in tensors_of(nest):
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            found.append((StorageWeakRef(storage), storage.nbytes()))
    return found
