"""One pass over the data; every batch runs through all combinations and all methods.

Shapes: B samples in a batch, M modalities of the data, N samples in the split, n of them count for one combination.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as distributed
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.sweep.costs import SAMPLES as COSTED
from lightning_mm.sweep.costs import Cost, mean_cost, measure
from lightning_mm.sweep.fingerprint import target_digests
from lightning_mm.sweep.observed import observed_of
from lightning_mm.sweep.repeated import SAMPLES, Repeated, find_repeated
from lightning_mm.sweep.reuse import Memory
from lightning_mm.sweep.switching import switched, using
from lightning_mm.tasks.finite.culprit import describe, find
from lightning_mm.tasks.training.strategies import has_whole_network
from lightning_mm.tree import batch_size, take_rows, tensors_of

Batch = Mapping[str, Any]
Statistics = dict[str, Tensor]
Figures = tuple[int, str]
"""Position of a run, and the combination."""
FEWEST_SAMPLES = 128
"""The fewest samples of a sweep that tries which modules can be reused: a trial takes as long as ten of them."""
FEWEST_COSTED = 32
"""The fewest samples of a sweep that measures what a prediction costs, which takes as long as some ten predictions."""
FEWEST_KEPT = 4
"""How many calls of a module are kept; as many as there are modalities if these are more."""


@runtime_checkable
class SweepableTask(Protocol):
    """The interface that the sweep needs; every task of :mod:`lightning_mm.tasks` has it.

    A task may also have ``adapter`` (with the context managers ``disabled()`` and, for networks with a forward that
    takes no ``available``, ``using(available)``), ``auxiliary`` (a module for training only), ``metric_directions``,
    ``summable_statistics`` (True if its metrics depend only on the sums of the statistics over samples) and
    ``samples_from``, from the statistics of a whole split to what is written of each sample (all of them otherwise).
    """

    modalities: Sequence[str]
    primary_metric: str

    def __call__(self, inputs: Mapping[str, Any], available: Tensor) -> Any: ...
    def sample_statistics(self, outputs: Any, target: Any) -> Statistics: ...
    def metrics_from(self, statistics: Statistics) -> dict[str, float]: ...


@dataclass(frozen=True)
class Run:
    """One method on some combinations.

    Args:
        method: Its name in the table.
        task: Position in :attr:`SweepModule.tasks`.
        combinations: Canonical names, with modalities in the order of the data; in a shard maybe none.
        disabled: Whether the task's adapter is switched off.
        planned: Its combinations in the whole sweep: costs and the trial of what is reused are the same in all shards.
    """

    method: str
    task: int
    combinations: tuple[str, ...]
    disabled: bool = False
    planned: tuple[str, ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """The combinations of the whole sweep, of which a shard runs some."""
        return self.planned or self.combinations


@dataclass(frozen=True)
class Part:
    """Statistics of one batch.

    Args:
        index: ``Int[B]``.
        observed: ``Bool[B, M]``.
        statistics: (position of the run, combination) to ``{name: [b, ...]}``, for the b samples that observed it.
        targets: Digests of the targets, ``UInt8[B, 16]``.
    """

    index: Tensor
    observed: Tensor
    statistics: dict[Figures, Statistics]
    targets: Tensor


@dataclass(frozen=True)
class Collected:
    """Per-sample statistics of the whole split, on the CPU, ordered by index, every sample once.

    Args:
        index: ``Int[N]``.
        observed: ``Bool[N, M]``.
        targets: Digests of the targets, ``UInt8[N, 16]``.
        costs: Method to what one prediction costs: ``flops``, ``memory`` and ``seconds``; empty for a sweep of fewer
            than :data:`FEWEST_COSTED` samples.
        statistics: (position of the run, combination) to ``{name: [n, ...]}``.
        rows: (position of the run, combination) to the positions of these n samples in ``index``, ``Int[n]``.
        reused: Method to the modules that ran once for several combinations, or to the reason why none did.
    """

    index: Tensor
    observed: Tensor
    targets: Tensor
    costs: dict[str, dict[str, float]]
    statistics: dict[Figures, Statistics]
    rows: dict[Figures, Tensor]
    reused: dict[str, list[str] | str] = field(default_factory=dict)


class SweepModule(LightningModule):
    """Runs tasks under ``trainer.test`` or ``trainer.validate``, with its precision, devices and strategy.

    Args:
        tasks: The networks, see :class:`SweepableTask`.
        runs: Which task runs on which combinations.
        modalities: The modalities of the data: the columns of ``observed``.
        scratch: A file for the result of strategies that start processes.
        reuse: Whether modules with the same input in several combinations run once for these.
    """

    def __init__(
        self,
        tasks: Sequence[nn.Module],
        runs: Sequence[Run],
        modalities: Sequence[str],
        scratch: Path,
        reuse: bool = True,
    ) -> None:
        super().__init__()
        # In a list, tasks keep their own trainer: Lightning sets the trainer of direct children.
        self.tasks = nn.ModuleList(tasks)
        self.runs = list(runs)
        self.modalities = Modalities(modalities)
        self.scratch, self.reuse = scratch, reuse
        self.collected: Collected | None = None
        self._home = os.getpid()
        self._parts: list[Part] = []
        self._costs: dict[str, dict[str, float]] = {}
        self._seen = 0
        self._begin_reuse()

    def _begin_reuse(self) -> None:
        most = max(FEWEST_KEPT, len(self.modalities))
        self._memories = {self._owner(run): Memory(most) for run in self.runs}
        self._repeated: dict[int, Repeated] = {}

    def _owner(self, run: Run) -> tuple[int, bool]:
        """Runs with the same owner share a memory: those of one task, if what its adapter changes is known."""
        known = isinstance(getattr(self.tasks[run.task], "adapter", None), Adapter)
        return run.task, run.disabled and not known

    def on_test_epoch_start(self) -> None:
        self._parts, self._costs, self._seen, self.collected = [], {}, 0, None
        self._begin_reuse()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        index, observed = self._index_and_observed(batch)
        if not batch_idx and not self._parts:
            self._measure(batch, observed)
        statistics: dict[Figures, Statistics] = {}
        for position, run in enumerate(self.runs):
            task: Any = self.tasks[run.task]
            memory = self._memories[self._owner(run)]
            with switched(task, run.disabled), memory.used_by(self._repeated_in(position, batch, observed)):
                for combination in run.combinations:
                    mask = self.modalities.mask(combination).to(observed.device)
                    counts = observed[:, mask].all(dim=1)
                    size = int(counts.sum())
                    if size == 0:
                        continue
                    outputs, found = self._evaluate(task, combination, batch, counts.nonzero()[:, 0], len(counts))
                    if _not_finite(outputs, found):
                        raise _error(batch, counts, run.method, combination)
                    statistics[position, combination] = {name: value.detach().cpu() for name, value in found.items()}
                    wrong = [name for name, value in found.items() if value.shape[:1] != (size,)]
                    if wrong:
                        raise LightningMMError(
                            f"sample_statistics of {type(task).__name__} returned {wrong[0]!r} of shape "
                            f"{tuple(found[wrong[0]].shape)} for {size} samples; expected one row per sample"
                        )
            if all(self._owner(run) != self._owner(later) for later in self.runs[position + 1 :]):
                memory.end_batch()
        self._parts.append(Part(index.cpu(), observed.cpu(), statistics, target_digests(batch["target"], len(index))))

    def _evaluate(self, task: Any, combination: str, batch: Batch, rows: Tensor, size: int) -> tuple[Any, Statistics]:
        """Run some samples of a batch, ``Int[n]`` of ``size``, with the modalities of a combination."""
        inputs, target = {name: batch["inputs"][name] for name in task.modalities}, batch["target"]
        if len(rows) < size:
            inputs, target = take_rows((inputs, target), rows, size)
        columns = [self.modalities.index(name) for name in task.modalities]
        available = self.modalities.mask(combination)[columns].to(rows.device).repeat(len(rows), 1)
        with using(task, available):
            outputs = task(inputs, available)
        return outputs, task.sample_statistics(outputs, target)

    def _repeated_in(self, position: int, batch: Batch, observed: Tensor) -> list[nn.Module]:
        """The modules of a run that run once for several combinations; found by trial in the first batch."""
        run = self.runs[position]
        task: Any = self.tasks[run.task]
        columns = [self.modalities.index(name) for name in task.modalities]
        complete = observed[:, columns].all(dim=1).nonzero()[:, 0]
        if not self.reuse or len(run.whole) < 2:
            return []
        if not has_whole_network(self.trainer.strategy):
            self._repeated[position] = Repeated(reason="processes that share a network must all run it")
        elif self._samples(len(observed)) < FEWEST_SAMPLES:
            self._repeated[position] = Repeated(reason="in a short sweep a trial takes longer than it saves")
        elif position not in self._repeated and len(complete):
            rows = complete[:SAMPLES]

            def evaluate(combination: str) -> tuple[Any, Statistics]:
                return self._evaluate(task, combination, batch, rows, len(observed))

            self._repeated[position] = find_repeated(task, run.whole, evaluate, self._memories[self._owner(run)].most)
        return list(self._repeated[position].modules.values()) if position in self._repeated else []

    def _samples(self, batch_size: int) -> float:
        """The number of samples that are swept, up to the last batches; infinite if it is not known."""
        trainer = self.trainer
        batches = sum(trainer.num_test_batches if trainer.testing else trainer.num_val_batches)
        return batches * batch_size * trainer.world_size

    def on_test_epoch_end(self) -> None:
        parts = self._parts
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        reused = {self.runs[position].method: one.record() for position, one in self._repeated.items()}
        joined = join(parts, self.modalities, padded=self.trainer.world_size > 1)
        self.collected = replace(joined, reused=reused, costs=self._costs)
        self._begin_reuse()
        if self._home != os.getpid() and self.trainer.is_global_zero:
            torch.save(vars(self.collected), self.scratch)

    on_validation_epoch_start = on_test_epoch_start
    validation_step = test_step
    on_validation_epoch_end = on_test_epoch_end

    def _measure(self, batch: Batch, observed: Tensor) -> None:
        """Measure one prediction of every method, on a sample that lacks all but one modality where it may."""
        if not has_whole_network(self.trainer.strategy) or self._samples(len(observed)) < FEWEST_COSTED:
            return
        found: dict[str, list[Cost]] = {}
        for run in self.runs:
            task: Any = self.tasks[run.task]
            mask = self.modalities.mask(run.whole[0])
            rows = observed[:, mask.to(observed.device)].all(dim=1).nonzero()[:COSTED, 0]
            if len(rows):
                inputs = take_rows({name: batch["inputs"][name] for name in task.modalities}, rows, len(observed))
                columns = [self.modalities.index(name) for name in task.modalities]
                available = mask[columns].to(observed.device).repeat(len(rows), 1)
                with switched(task, run.disabled), using(task, available):
                    cost = measure(task, partial(task, inputs, available), len(rows), self.device)
                if cost is not None:
                    found.setdefault(run.method, []).append(cost)
        self._costs = {method: mean_cost(costs) for method, costs in found.items()}

    def _index_and_observed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if not isinstance(batch, Mapping) or "inputs" not in batch or "target" not in batch:
            came = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise LightningMMError(
                f"the sweep expects batches {{'inputs': {{modality: tensor}}, 'target': ...}}, got {came}; "
                "ModalityDropoutDataModule makes them from any data set of dict samples"
            )
        if not isinstance(batch["inputs"], Mapping):
            raise LightningMMError(
                f"the sweep expects inputs {{modality: tensor}}, got a {type(batch['inputs']).__name__}"
            )
        absent = [name for name in self.modalities if name not in batch["inputs"]]
        if absent:
            raise LightningMMError(f"batch has no input {absent[0]!r}; it has {list(batch['inputs'])}")
        size = batch_size([batch["inputs"][name] for name in self.modalities])
        if size is None:
            raise LightningMMError(
                f"the inputs of {list(self.modalities)} hold nothing with one row per sample; expected tensors, "
                "arrays or lists of texts, batch first"
            )
        observed = observed_of(batch, size, self.modalities)
        if observed is None:
            observed = torch.ones(size, len(self.modalities), dtype=torch.bool, device=self.device)
        index = batch.get("index")
        if isinstance(index, (Sequence, np.ndarray)):
            index = torch.as_tensor(index) if all(isinstance(one, Integral) for one in index) else index
        if index is not None and (not isinstance(index, Tensor) or index.shape != (size,) or index.is_floating_point()):
            form = tuple(index.shape) if isinstance(index, Tensor) else f"a {type(index).__name__}"
            raise LightningMMError(
                f"expected `index` Int[{size}], the positions of the samples in the data set, got {form}; ids of other "
                "kinds belong into a key of another name"
            )
        if index is None or (size and bool((index == -1).all())):  # Collate's, of samples without index
            if self.trainer.world_size > 1:
                raise LightningMMError(
                    "batches have no 'index', which several processes need to count every sample once; add the "
                    "sample's position in the data set, or sweep on one device"
                )
            index = torch.arange(self._seen, self._seen + size)
        self._seen += size
        return index, observed


def join(parts: Sequence[Part], modalities: Modalities, padded: bool) -> Collected:
    """Join the batches of all processes, ordered by sample index.

    Args:
        parts: The batches.
        modalities: The columns of ``observed``.
        padded: Whether samplers may have repeated samples (several processes); repeats are then dropped.

    Raises:
        LightningMMError: If there is no sample, or an index occurs twice although no sampler pads.
    """
    if not parts:
        raise LightningMMError("the split that was swept has no samples")
    index = torch.cat([part.index for part in parts])
    unique, owner = torch.unique(index, return_inverse=True)
    if len(unique) != len(index) and not padded:
        raise LightningMMError(
            f"{len(index)} samples have only {len(unique)} distinct values of 'index'; it must be the position of a "
            "sample in the data set, and the loader must not repeat samples"
        )
    observed = torch.cat([part.observed for part in parts])
    statistics: dict[Figures, Statistics] = {}
    rows: dict[Figures, Tensor] = {}
    for key in dict.fromkeys(key for part in parts for key in part.statistics):
        # Statistics have one row per sample that observed the combination, in the order of `index`.
        counts = observed[:, modalities.mask(key[1])].all(dim=1)
        rows[key], keep = _first_of_each(owner[counts])
        found = [part.statistics[key] for part in parts if key in part.statistics]
        statistics[key] = {name: torch.cat([one[name] for one in found])[keep] for name in found[0]}
    first = _first_of_each(owner)[1]
    targets = torch.cat([part.targets for part in parts])[first]
    return Collected(unique, observed[first], targets, {}, statistics, rows)


def _first_of_each(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct values, ascending, and the first position of each."""
    ordered, order = torch.sort(values, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first], order[first]


def _error(batch: Batch, counts: Tensor, method: str, combination: str) -> LightningMMError:
    """The error about outputs that are not finite, with the samples at fault among those that count, ``Bool[B]``."""
    inputs = {name: batch["inputs"][name] for name in combination.split("+")}
    findings = find({**batch, "inputs": inputs, "observed": counts[:, None].expand(-1, len(inputs))}, inputs)
    start = f"method {method!r} returns values that are not finite for {combination!r}"
    if not findings:
        return LightningMMError(
            f"{start}, while inputs, targets and weights are finite: the network computes them; try another "
            "trainer.precision"
        )
    return LightningMMError(
        f"{start}: {describe(findings, batch)}; correct these values, or pass a modality that cannot be used as absent "
        "(None)"
    )


def _not_finite(outputs: Any, statistics: Statistics) -> bool:
    """Whether outputs hold NaN or statistics of samples NaN or infinity; logits of minus infinity are allowed."""
    floats = [tensor for tensor in tensors_of(outputs) if tensor.is_floating_point()]
    wrong = [tensor.isnan().any() for tensor in floats]
    wrong += [~value.isfinite().all() for value in statistics.values() if value.is_floating_point()]
    return bool(torch.stack(wrong).any()) if wrong else False
