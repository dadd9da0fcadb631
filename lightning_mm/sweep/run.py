"""The function :func:`sweep`: every batch is loaded once and run through all combinations and all methods."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import nn
from torch.utils.data import DataLoader

from lightning_mm.callbacks.resuming.slurm import leave_requeueing_to_us
from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import MissingnessPolicy
from lightning_mm.modalities import Modalities
from lightning_mm.results.bootstrap import Bootstrap, resample_counts
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.policies import MASKS
from lightning_mm.results.rows import ADAPTED, ZERO_FILL, SweepRow
from lightning_mm.results.shards.shard import Shard
from lightning_mm.sweep.drawn.policies import check_policies, drawn
from lightning_mm.sweep.fingerprint import fingerprint_of
from lightning_mm.sweep.identity import identity_of, networks_of
from lightning_mm.sweep.module import Collected, Run, SweepableTask, SweepModule
from lightning_mm.sweep.replicates import replicate_metrics
from lightning_mm.tasks.finite.weights import check_network

MOST_COMBINATIONS = 1023
"""The most combinations that are run if none are chosen: those of ten modalities."""
DRAW_SEED = 0
"""Seed of the draw from more than these; fixed, so that sweeps can be compared."""

Task = nn.Module
"""A module with the interface of :class:`lightning_mm.sweep.module.SweepableTask`."""


def sweep(
    methods: Task | Mapping[str, Task | Sequence[Task]],
    data: LightningDataModule | DataLoader[Any],
    *,
    combinations: Sequence[str] | None = None,
    split: Literal["test", "val"] = "test",
    modalities: Sequence[str] | None = None,
    trainer: Trainer | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    bootstrap_seed: int = 0,
    baseline: bool = True,
    dedicated_to: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    reuse: bool = True,
    shard: str | None = None,
    policies: Mapping[str, MissingnessPolicy] | None = None,
) -> SweepResult:
    """Evaluate methods on every combination of available modalities in one pass over a split.

    A sample counts for a combination if it observed all of its modalities. A method with fewer modalities than the data
    runs on the combinations of its modalities.

    Args:
        methods: One task (called ``zero_fill``, or ``adapted`` if it has an ``adapter``), or name to task. The first
            task with an adapter also runs with its adapter off, as ``zero_fill``, unless a method has this name. A list
            of tasks is for dedicated networks: each runs only on the combination of all of its modalities, or on the
            combinations in ``dedicated_to``.
        data: A data module, or a loader of batches ``{"inputs", "target", "observed", "index"}``; its policies of
            missingness are not applied, only ``observed`` counts (``available`` in batches that have no ``observed``).
        combinations: The combinations; default: all 2^M - 1, or a fixed draw of 1,023 if there are more.
        split: ``"test"``, or ``"val"`` to choose settings.
        modalities: The columns of ``observed``; default: the modalities of the data module, or else those of the task
            with the most.
        trainer: Sets devices, precision and strategy; of its callbacks, only progress bars are used.
        bootstrap: Replicates of the resampling of samples for intervals; 0 for none.
        level: Coverage of the intervals.
        seed: The seed of the run that trained the networks, written to every row.
        bootstrap_seed: Seed of the resampling; sweeps that are compared need the same one.
        baseline: Whether the first task with an adapter also runs with its adapter off, as described above.
        dedicated_to: The combinations that dedicated networks were trained for, if they have inputs for more
            modalities, which are filled.
        config: The configuration of the run in plain types, written to ``sweep.json``.
        reuse: Whether modules that get the same input in several combinations, such as encoders, run once per batch for
            all of these. They are found by a trial on the first samples, which must not change any output;
            ``reused`` in the configuration of the result names them, or says why there is none: sweeps of fewer than
            128 samples do not try.
        shard: Which part of the sweep to run, e.g. ``"2/4"`` for every fourth combination from the second one on;
            default: all of it. :func:`~lightning_mm.results.merge` puts all parts together, and the result is that of
            one process, costs included.
        policies: Name to a policy to evaluate under, from the same pass: what each draws for the samples of the split,
            with the seed of the data module, is kept in ``samples`` of the result, and
            :func:`lightning_mm.results.robust.policy_figures` computes the metric of all methods from it.

    Returns:
        The figures, the same in every process of a distributed run.

    Raises:
        LightningMMError: If a combination has an unknown modality, no method can run any combination, a name is used
            twice, there are more shards than combinations, or the batches have another form.
    """
    part = None if shard is None else Shard.parse(shard)
    if split not in ("test", "val"):
        raise LightningMMError(f"split must be 'test' or 'val', got {split!r}")
    if bootstrap < 0 or not 0 < level < 1:
        raise LightningMMError(f"expected bootstrap >= 0 and 0 < level < 1, got {bootstrap} and {level}")
    named: dict[str | None, Task | Sequence[Task]] = {}
    if isinstance(methods, nn.Module):
        named[None] = methods
    else:
        named.update({name: one for name, one in methods.items()})  # noqa: C416 - dict is invariant in its keys
    if not named:
        raise LightningMMError("expected one or more methods to sweep, got none")
    groups = {name: [one] if isinstance(one, nn.Module) else list(one) for name, one in named.items()}
    tasks = [_checked(task) for group in groups.values() for task in group]
    known = Modalities(modalities or getattr(data, "modalities", None) or max((t.modalities for t in tasks), key=len))
    wanted, config = _wanted(known, combinations, config or {})
    own = None if dedicated_to is None else known.select(dedicated_to)
    runs = _plan(groups, named, known, wanted, baseline, own)
    planned = [f"{run.method}/{combination}" for run in runs for combination in run.combinations]
    if part is not None:
        mine = part.take([one for one in wanted if any(one in run.combinations for run in runs)])
        runs = [_part_of(run, mine) for run in runs]
    for run in runs:
        check_network(cast(nn.Module, tasks[run.task]), f"the network of method {run.method!r}")

    check_policies(policies or {}, data, split, known)
    networks = networks_of(tasks, runs)
    trainer = trainer or Trainer(
        accelerator="auto", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    leave_requeueing_to_us(trainer)
    collected = _collect(cast(list[nn.Module], tasks), runs, known, data, split, trainer, reuse)

    rows, samples = _figures(tasks, runs, known, collected, seed)
    for name, policy in (policies or {}).items():
        samples[f"{MASKS}{name}"] = drawn(policy, data, split, known, collected.index)
    if not rows:
        which = "" if part is None else f" of shard {part.text}; use fewer shards, or leave these combinations out"
        raise LightningMMError(f"no sample observed all modalities of any of the combinations{which}")
    replicates = _resample(tasks, runs, collected, bootstrap, bootstrap_seed, level)
    if replicates:
        rows = [_with_interval(row, replicates) for row in rows]
    directions: dict[str, Any] = {}
    for task in tasks:
        directions.update(getattr(task, "metric_directions", {}))
    data_fingerprint = fingerprint_of(known, collected.index, collected.observed, collected.targets)
    if part is not None:
        resampled = replicates and [replicates.key, replicates.level]
        shared = {"networks": networks, "split": split, "seed": seed, "bootstrap": resampled, "of": part.of}
        sweep_id = identity_of(cells=planned, data=data_fingerprint.content(), **shared)
        part = replace(part, sweep=sweep_id, cells=tuple(planned))
    return SweepResult(
        rows=rows,
        modalities=list(known),
        primary_metric=tasks[0].primary_metric,
        directions=directions,
        parameters=_parameters(tasks, runs),
        config={"split": split, "seed": seed, **({"reused": collected.reused} if collected.reused else {}), **config},
        samples=samples,
        bootstrap=replicates,
        notes=_remarks(data, split),
        inference={name: {key: int(own[key]) for key in ("flops", "memory")} for name, own in collected.costs.items()},
        inference_seconds={name: own["seconds"] for name, own in collected.costs.items()},
        data_fingerprint=data_fingerprint,
        networks=networks,
        shard=part,
    )


def _part_of(run: Run, mine: Sequence[str]) -> Run:
    """A run on some of its combinations, which may be none; its costs are those of the whole sweep."""
    return replace(run, combinations=tuple(one for one in run.combinations if one in mine), planned=run.combinations)


def _remarks(data: object, split: str) -> list[str]:
    """What the data module says of the split, if it says something; see ``ModalityDropoutDataModule.remarks``."""
    remarks = getattr(data, "remarks", None)
    return list(remarks(split)) if isinstance(data, LightningDataModule) and callable(remarks) else []


def _wanted(
    known: Modalities, combinations: Sequence[str] | None, config: Mapping[str, Any]
) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return the combinations to run, and the configuration with how they were drawn if there are too many."""
    every = 2 ** len(known) - 1
    if combinations is not None or every <= MOST_COMBINATIONS:
        return known.select(combinations), config
    drawn = known.sampled(MOST_COMBINATIONS, DRAW_SEED)
    warnings.warn(
        f"{len(known)} modalities have {every:,} combinations; the sweep runs {len(drawn):,} of them: the full one, "
        f"those of one modality, those that lack one, and others drawn with seed {DRAW_SEED}. Means and worst cases "
        "are over these; choose with `combinations`",
        stacklevel=3,
    )
    return drawn, {"combinations_drawn": {"number": len(drawn), "of": every, "seed": DRAW_SEED}, **config}


def _checked(task: Any) -> SweepableTask:
    needed = ("modalities", "primary_metric", "sample_statistics", "metrics_from")
    absent = [name for name in needed if not hasattr(task, name)]
    if absent:
        raise LightningMMError(
            f"{type(task).__name__} cannot be swept: it has no {absent[0]!r}; expected a task of lightning_mm.tasks or "
            f"a module with {', '.join(needed)}"
        )
    return cast(SweepableTask, task)


def _plan(
    groups: Mapping[str | None, Sequence[nn.Module]],
    named: Mapping[str | None, Task | Sequence[Task]],
    known: Modalities,
    wanted: Sequence[str],
    baseline: bool,
    dedicated_to: Sequence[str] | None,
) -> list[Run]:
    """Decide which task runs on which combinations, and under which name."""
    runs: list[Run] = []
    idle: list[str] = []
    position = 0
    for name, group in groups.items():
        if name is not None and (not name or "/" in name):
            raise LightningMMError(f"a method's name must be non-empty and without '/', got {name!r}")
        dedicated = not isinstance(named[name], nn.Module)
        for task in group:
            unknown = [own for own in cast(SweepableTask, task).modalities if own not in known]
            if unknown:
                raise LightningMMError(f"method {name!r} needs modality {unknown[0]!r}; the data has {list(known)}")
            own = Modalities(cast(SweepableTask, task).modalities)
            runnable = tuple(one for one in wanted if set(known.parse(one)) <= set(own))
            if dedicated:
                trained_for = [known.canonical(own.full)] if dedicated_to is None else dedicated_to
                runnable = tuple(one for one in runnable if one in trained_for)
                if not runnable:
                    idle.extend(trained_for)
            adapted = getattr(task, "adapter", None) is not None
            off_too = baseline and adapted and not dedicated
            off_too = off_too and ZERO_FILL not in {*named, *(run.method for run in runs)}
            if runnable and off_too:
                runs.append(Run(ZERO_FILL, position, runnable, disabled=True))
            if runnable:
                runs.append(Run(name or (ADAPTED if adapted else ZERO_FILL), position, runnable))
            position += 1
    if not runs:
        only = f"; dedicated networks are only for {sorted(set(idle))}" if idle else ""
        raise LightningMMError(f"no method can run any of the combinations {list(wanted)}{only}")
    figures = [(run.method, combination) for run in runs for combination in run.combinations]
    twice = [figure for figure in figures if figures.count(figure) > 1]
    if twice:
        raise LightningMMError(
            f"method {twice[0][0]!r} occurs twice for combination {twice[0][1]!r}; rename one of them"
        )
    return runs


def _collect(
    tasks: Sequence[nn.Module],
    runs: Sequence[Run],
    known: Modalities,
    data: LightningDataModule | DataLoader[Any],
    split: str,
    trainer: Trainer,
    reuse: bool,
) -> Collected:
    """Run the trainer over the split; strategies that start processes pass the result in a file."""
    with tempfile.TemporaryDirectory(prefix="lightning_mm-sweep-") as folder:
        scratch = Path(folder) / "collected.pt"
        module = SweepModule(tasks, runs, known, scratch, reuse)
        evaluate = trainer.test if split == "test" else trainer.validate
        with _progress_bars_only(trainer):
            if isinstance(data, LightningDataModule):
                evaluate(module, datamodule=data, verbose=False)
            else:
                evaluate(module, dataloaders=data, verbose=False)
        if module.collected is None and scratch.is_file():
            module.collected = Collected(**torch.load(scratch, weights_only=True))
    if module.collected is None:
        raise LightningMMError(f"the data has no samples in split {split!r}, or its loader is limited to none")
    return module.collected


@contextmanager
def _progress_bars_only(trainer: Trainer) -> Iterator[None]:
    """Disable all other callbacks: checkpoints and adapters belong to the training of a task, not to its sweep."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [one for one in callbacks if isinstance(one, ProgressBar)]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]


def _figures(
    tasks: Sequence[SweepableTask], runs: Sequence[Run], known: Modalities, collected: Collected, seed: int
) -> tuple[list[SweepRow], dict[str, Any]]:
    rows: list[SweepRow] = []
    samples: dict[str, Any] = {"index": collected.index.numpy(), "observed": collected.observed.numpy()}
    for position, run in enumerate(runs):
        for combination in run.combinations:
            statistics = collected.statistics.get((position, combination))
            if statistics is None:
                # No sample observed all of these modalities.
                continue
            n = len(collected.rows[position, combination])
            for metric, value in tasks[run.task].metrics_from(statistics).items():
                rows.append(
                    SweepRow(run.method, combination, len(known.parse(combination)), metric, float(value), n, seed)
                )
            written = getattr(tasks[run.task], "samples_from", dict)
            for name, values in written(statistics).items():
                samples[f"{run.method}/{combination}/{name}"] = values.numpy()
    return rows, samples


def _resample(
    tasks: Sequence[SweepableTask], runs: Sequence[Run], collected: Collected, replicates: int, seed: int, level: float
) -> Bootstrap | None:
    if not replicates:
        return None
    index = collected.index.numpy()
    drawn = resample_counts(len(index), replicates, seed)
    found = Bootstrap(Bootstrap.key_of(index, replicates, seed), level=level)
    for (position, combination), statistics in collected.statistics.items():
        run, task = runs[position], tasks[runs[position].task]
        counts = drawn[:, collected.rows[position, combination].numpy()]
        summable = bool(getattr(task, "summable_statistics", False))
        for metric, values in replicate_metrics(task.metrics_from, statistics, counts, summable).items():
            found.replicates[run.method, combination, metric] = values
    return found


def _with_interval(row: SweepRow, replicates: Bootstrap) -> SweepRow:
    low, high = replicates.interval(row.method, row.combination, row.metric) or (None, None)
    return replace(row, low=low, high=high)


def _parameters(tasks: Sequence[SweepableTask], runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Count the parameters that a method trains (none if its adapter is off), and the parameters of the network.

    Heads of auxiliary losses (``task.auxiliary``) are not part of the network; they count as an adapter does if they
    decide on incomplete samples (``task.late_share``). An adapter may have ``parameters_per_combination``, the number
    of its parameters that one combination uses.
    """
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        task = cast(nn.Module, tasks[run.task])
        adapter = cast("nn.Module | None", getattr(task, "adapter", None))
        extras = [adapter, cast("nn.Module | None", getattr(task, "auxiliary", None))]
        own = {id(parameter) for extra in extras if extra is not None for parameter in extra.parameters()}
        base = sum(parameter.numel() for parameter in task.parameters() if id(parameter) not in own)
        counts = {"trained": 0 if run.disabled else base, "base": base}
        if adapter is not None and not run.disabled:
            counts["trained"] = sum(parameter.numel() for parameter in adapter.parameters())
            per_combination = getattr(adapter, "parameters_per_combination", None)
            if per_combination is not None:
                counts["per_combination"] = round(per_combination() if callable(per_combination) else per_combination)
        if getattr(task, "late_share", 0) and not run.disabled:
            heads = cast(Any, task.auxiliary)
            own_trained = counts["trained"] if adapter is not None else 0
            counts["trained"] = own_trained + sum(parameter.numel() for parameter in heads.parameters())
            counts["per_combination"] = counts.get("per_combination", 0) + heads.parameters_per_combination()
        if run.method not in found:
            found[run.method] = counts
        else:
            # the sum over all dedicated networks
            found[run.method] = {key: found[run.method].get(key, 0) + counts.get(key, 0) for key in counts}
    return found
