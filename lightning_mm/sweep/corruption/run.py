"""Evaluates methods on damaged modalities, and on the same modalities declared absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, Trainer
from torch import nn

from lightning_mm.data.corrupt.base import SEVERITIES, Corruption
from lightning_mm.data.module import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.modality_names import SEPARATOR
from lightning_mm.results.corruption import CorruptionResult, CorruptionRow
from lightning_mm.results.corruption.result import CLEAN, LEFT_OUT
from lightning_mm.results.result import SweepResult
from lightning_mm.sweep.run import Task, sweep


def corruption_sweep(
    methods: Task | Mapping[str, Task],
    data: LightningDataModule,
    corruptions: Mapping[str, Sequence[Corruption]],
    severities: Sequence[int] = SEVERITIES,
    *,
    split: Literal["test", "val"] = "test",
    trainer: Trainer | None = None,
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    baseline: bool = True,
) -> CorruptionResult:
    """Evaluate methods with one damaged modality at a time, all others being there and clean.

    For each modality, corruption and severity there is one pass over the split, in which all modalities are declared
    available; and one pass over clean data for comparison, with everything and with each of these modalities declared
    absent. These rows never mix with those of a sweep: no mean over combinations holds them.

    Args:
        methods: As for :func:`~lightning_mm.sweep.sweep`; networks that lack a modality of the data are refused.
        data: A :class:`~lightning_mm.data.ModalityDropoutDataModule`; its own ``corrupt`` plays no role.
        corruptions: Modality to its corruptions; their own severity plays no role.
        severities: 1 to 5.
        split: ``"test"`` or ``"val"``.
        trainer: As for ``sweep``.
        bootstrap: Replicates for intervals over samples; 0 for none.
        level: Coverage of the intervals.
        seed: The seed of the run that trained the networks, written to every row.
        baseline: Whether the first task with an adapter also runs with its adapter off.

    Raises:
        LightningMMError: If a modality is unknown, nothing is to be damaged, the data module is another one, or a
            method does not take all modalities.
    """
    data, damages = check_corruptions(methods, data, corruptions, severities)
    names = data.modalities
    data.prepare_data()

    def run(combinations: Sequence[str], corrupt: Mapping[str, Corruption]) -> SweepResult:
        return sweep(
            methods,
            data.plain_dataloader(split, corrupt=corrupt),
            combinations=combinations,
            split=split,
            modalities=list(names),
            trainer=trainer,
            bootstrap=bootstrap,
            level=level,
            seed=seed,
            baseline=baseline,
        )

    without = _without(names, corruptions)
    clean = run([*without, names.full], {})
    rows = _rows(clean, names.full, "", CLEAN, 0)
    for combination, modality in without.items():
        rows += _rows(clean, combination, modality, LEFT_OUT, 0)
    for modality, one in damages:
        damaged = run([names.full], {modality: one})
        rows += _rows(damaged, names.full, modality, one.name, one.severity)
    return CorruptionResult(rows, clean.primary_metric, dict(clean.directions))


def check_corruptions(
    methods: Task | Mapping[str, Task],
    data: LightningDataModule,
    corruptions: Mapping[str, Sequence[Corruption]],
    severities: Sequence[int] = SEVERITIES,
) -> tuple[ModalityDropoutDataModule, list[tuple[str, Corruption]]]:
    """Return the data module, and modality and corruption of each pass; errors as in :func:`corruption_sweep`."""
    if not isinstance(data, ModalityDropoutDataModule):
        raise LightningMMError(
            f"corruptions: expected a ModalityDropoutDataModule, which damages samples, got a {type(data).__name__}"
        )
    names = data.modalities
    for name in corruptions:
        if name not in names:
            raise LightningMMError(f"corruptions: unknown modality {name!r}; the data has {list(names)}")
    damages = _damages(corruptions, severities)
    for name, task in methods.items() if isinstance(methods, Mapping) else [("", methods)]:
        own: Any = task
        if not isinstance(task, nn.Module) or set(own.modalities) != set(names):
            raise LightningMMError(f"corruptions: method {name!r} does not take all of {list(names)}; leave it out")
    return data, damages


def _damages(
    corruptions: Mapping[str, Sequence[Corruption]], severities: Sequence[int]
) -> list[tuple[str, Corruption]]:
    """Modality and corruption at each severity, without doubles."""
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise LightningMMError(f"severities: expected some of {list(SEVERITIES)}, got {list(severities)}")
    found: dict[tuple[str, str, int], Corruption] = {}
    for modality, kinds in corruptions.items():
        for kind in kinds:
            for severity in sorted(set(severities)):
                key = (modality, kind.name, severity)
                if key in found:
                    raise LightningMMError(f"corruptions: {kind.name!r} of {modality!r} occurs twice; leave one out")
                found[key] = kind.at(severity)
    if not found:
        raise LightningMMError("corruptions: expected one or more corruptions of a modality, got none")
    return [(modality, one) for (modality, _, _), one in found.items()]


def _without(names: Modalities, corruptions: Mapping[str, Any]) -> dict[str, str]:
    """Combination that lacks one of the damaged modalities, to this modality; none for a single modality."""
    if len(names) == 1:
        return {}
    return {SEPARATOR.join(name for name in names if name != lost): lost for lost in names if lost in corruptions}


def _rows(result: SweepResult, combination: str, modality: str, corruption: str, severity: int) -> list[CorruptionRow]:
    return [
        CorruptionRow(
            row.method, modality, corruption, severity, row.metric, row.value, row.n, row.seed, row.low, row.high
        )
        for row in result.rows
        if row.combination == combination
    ]
