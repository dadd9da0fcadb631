"""Folded networks of a check: whether they agree with the hooks, and what they cost.

Shapes: B samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_mm.adapters.folded.network import Folded, fold_network
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.errors import LightningMMError
from lightning_mm.testing.check_result import CombinationCost
from lightning_mm.testing.check_runs import Subject, Wrong, bare

TIMED = 3
"""Timed calls; the fastest counts."""


class Folding:
    """Folds combinations and collects their costs.

    Args:
        subject: The network with its adapter.
        combinations: Incomplete combinations, then the full one.
        hurry: Whether to stop, asked after each combination.
    """

    def __init__(self, subject: Subject, combinations: Sequence[str], hurry: Callable[[], bool]) -> None:
        self.subject, self.combinations, self.hurry = subject, list(combinations), hurry
        self.operations: dict[str, int | None] = {}

    @property
    def possible(self) -> bool:
        """Whether the kind folds at all; if not, its banks say why."""
        banks = (bank for bank in self.subject.adapter.banks.values() if isinstance(bank, Bank))
        return all(bank.foldable for bank in banks)

    def check(self) -> str:
        """Compare the folded network of every combination with the hooks; counts its operations."""
        subject, largest, at_output = self.subject, 0.0, 0
        looked: list[str] = []
        for combination in self.combinations:
            if looked and self.hurry():
                break
            mask = subject.adapter.modalities.mask(combination).expand_as(subject.masks)
            expected = subject.run(mask)
            folded = self._fold(combination)
            found = bare(folded, subject.call(mask))
            apart = subject.apart(found, expected)
            if not apart <= subject.tolerance(expected):
                raise Wrong(
                    f"the outputs with hooks from the network folded for {combination!r}",
                    f"a difference of {apart:.2g} of the largest output",
                    "keep the hooks, or leave out the layer that the network uses in another way with `exclude`",
                )
            largest = max(largest, apart)
            at_output = max(at_output, len(getattr(folded, "at_output", ())))
            self.operations[combination] = count(folded, subject.call(mask[:1], subject.rows(torch.tensor([0]))))
            looked.append(combination)
        more = f"; {at_output} layers keep their adapter at the output" if at_output else ""
        return f"{', '.join(looked)}: largest difference {largest:.1g} of the largest output{more}"

    def _fold(self, combination: str) -> Folded:
        """Fold, with encoders of absent modalities as constants where this is possible."""
        base, adapter, call = self.subject.base, self.subject.adapter, self.subject.example.call
        try:
            return fold_network(base, adapter, combination, call)
        except LightningMMError:
            return fold_network(base, adapter, combination)
        finally:
            self.subject.state.restore()

    def costs(self) -> tuple[CombinationCost, ...]:
        """Return the parameters and, where they were counted, the operations of every combination."""
        adapter = self.subject.adapter
        numbers = sum(one.numel() for one in adapter.banks.parameters())
        rows = len(adapter.basis.names)
        found = []
        for combination in self.combinations:
            mask = adapter.modalities.mask(combination).unsqueeze(0).to(adapter.device)
            used = 0 if bool(mask.all()) else int(adapter.basis.weights(mask).sum())
            found.append(CombinationCost(combination, used * numbers // rows, self.operations.get(combination)))
        return tuple(found)


def count(network: Any, call: Any) -> int | None:
    """Count the operations of one call; None if something in it cannot be counted."""
    from torch.utils.flop_counter import FlopCounterMode  # it imports much of torch that others need not wait for

    counter = FlopCounterMode(display=False)
    try:
        with counter:
            bare(network, call)
    except Exception:  # of any library; the cost is left out
        return None
    return counter.get_total_flops()


def slowdown(subject: Subject) -> float:
    """Measure the time of a call with hooks on the mixed batch, relative to that of the base alone."""

    def timed(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def with_hooks() -> Tensor | Any:
        with torch.no_grad():
            return subject.forward(subject.masks)

    def alone() -> Any:
        args, kwargs = subject.call(subject.full)
        with torch.no_grad():
            return subject.base(*args, **kwargs)

    with_hooks()
    hooked = min(timed(with_hooks) for _ in range(TIMED))
    subject.adapter.detach()
    training = subject.base.training
    try:
        subject.base.eval()
        alone()
        base = min(timed(alone) for _ in range(TIMED))
    finally:
        subject.base.train(training)
        subject.adapter.attach(subject.base)
        subject.state.restore()
    return hooked / base
