"""Writes a record into a run of Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lightning_mm.tracking.record.artifacts import AdapterFiles, BaseFiles, clean, declare_base
from lightning_mm.tracking.record.charts import pictures, tables_and_charts
from lightning_mm.tracking.record.content import SweepRecord

Line = Mapping[str, Any]


def write_record(
    run: Any,
    record: SweepRecord | None,
    *,
    adapters: Sequence[AdapterFiles] = (),
    base: BaseFiles | None = None,
    produced_base: bool = False,
    summary: Mapping[str, Any] | None = None,
    fixed_steps: bool = False,
) -> None:
    """Write figures, table, charts, pictures, artifacts and summary, in this order.

    Args:
        run: An open run.
        record: The figures; none for a run that only trained a base.
        adapters: Saved adapters, logged as artifacts that the run produced.
        base: The base of these adapters.
        produced_base: Whether the run trained the base, rather than used it.
        summary: Further entries of the summary.
        fixed_steps: Whether line k of the history has step k. A resumed run then has no line twice: those that the
            server has are dropped, their media are sent again under the same names.
    """
    if record is not None:
        _define(run, record)
        for step, line in enumerate(_lines(record)):
            content = line()
            _bind_tables(run, content, step if fixed_steps else run.step)
            run.log(content, **({"step": step} if fixed_steps else {}))
    if base is not None and produced_base:
        run.log_artifact(base.artifact())
    elif base is not None:
        declare_base(run, base)
    for adapter in adapters:
        run.log_artifact(adapter.artifact())
    run.summary.update({**(record.summary() if record is not None else {}), **(summary or {})})


def _bind_tables(run: Any, line: Line, step: int) -> None:
    """Send the tables of a line under names that are the same each time.

    W&B itself would make an artifact of every table, under a name that is drawn: a second one if a run is completed.
    """
    import wandb

    for key, value in line.items():
        if isinstance(value, wandb.Table):
            artifact = wandb.Artifact(clean(f"run-{run.id}-{key}"), "table")
            artifact.add(value, clean(key))
            run.log_artifact(artifact)
            value.bind_to_run(run, key, step)
        elif hasattr(value, "spec") and hasattr(value, "table"):  # a chart
            value.set_key(key)
            value.table.bind_to_run(run, value.spec.table_key, step)


def _define(run: Any, record: SweepRecord) -> None:
    """Say how each key is summed up: the best value of a metric is the highest or the lowest one."""
    for key, aggregate in record.aggregates.items():
        run.define_metric(key, summary=aggregate)
    for key in dict.fromkeys(key for line in record.curve() for key in line if key != "curve/missing"):
        run.define_metric(key, step_metric="curve/missing", summary="none")


def _lines(record: SweepRecord) -> Iterator[Callable[[], Line]]:
    """The lines of the history: the same ones for the same record."""
    yield lambda: record.figures
    if record.charts:
        yield lambda: tables_and_charts(record)
    if record.pictures or record.heat_map is not None:
        yield lambda: pictures(record)
    for line in record.curve():
        yield lambda line=line: line  # type: ignore[misc]
