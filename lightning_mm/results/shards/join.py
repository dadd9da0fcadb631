"""Puts the shards of a sweep together: the result is that of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_mm.errors import LightningMMError
from lightning_mm.provenance import joined_fingerprint
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import SweepRow
from lightning_mm.results.shards.shard import Shard


def join_shards(results: Sequence[SweepResult]) -> list[SweepResult]:
    """Put the shards of every sweep together; other results stay, and so does the order.

    A joined result equals that of one process: rows, samples, replicates and costs. Seconds of a prediction are the
    mean, and settings of the configuration in which shards differ (``shard``, ``out``) are ``None``.

    Raises:
        LightningMMError: If a shard is missing or there twice.
    """
    groups: dict[str, list[SweepResult]] = {}
    for result in results:
        if result.shard is not None:
            groups.setdefault(result.shard.sweep, []).append(result)
    _check_complete(list(groups.values()))
    joined: list[SweepResult] = []
    for result in results:
        if result.shard is None:
            joined.append(result)
        elif result.shard.sweep in groups:
            joined.append(_joined(groups.pop(result.shard.sweep)))
    return joined


def _check_complete(groups: Sequence[Sequence[SweepResult]]) -> None:
    for group in groups:
        numbers, shard = [_shard(one).number for one in group], _shard(group[0])
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        if twice:
            raise LightningMMError(
                f"shard {_listed(twice, shard.of)} of the {_name(group)} is there twice; give every shard once"
            )
        missing = sorted(set(range(1, shard.of + 1)) - set(numbers))
        if missing:
            others = "".join(
                f"; shard {_listed([_shard(one).number for one in other], _shard(other[0]).of)} is of another network, "
                "or of other data or settings"
                for other in groups
                if other is not group
            )
            raise LightningMMError(
                f"shard {_listed(missing, shard.of)} of the {_name(group)} is missing, without which its means would "
                f"be those of some combinations; run it with --shard {missing[0]}/{shard.of}, and give all "
                f"{shard.of} shards{others}"
            )


def _joined(group: Sequence[SweepResult]) -> SweepResult:
    parts = sorted(group, key=lambda one: _shard(one).number)
    first, cells = parts[0], {cell: place for place, cell in enumerate(_shard(parts[0]).cells)}
    joined_fingerprint([one.data_fingerprint for one in parts])

    def place(method: str, combination: str) -> int:
        return cells.get(f"{method}/{combination}", len(cells))

    rows: list[SweepRow] = [row for one in parts for row in one.rows]
    samples = {key: values for one in parts for key, values in one.samples.items()}
    bootstrap = first.bootstrap
    if bootstrap is not None:
        found = {key: values for one in parts if one.bootstrap for key, values in one.bootstrap.replicates.items()}
        ordered = sorted(found, key=lambda key: place(key[0], key[1]))
        bootstrap = replace(bootstrap, replicates={key: found[key] for key in ordered})
    seconds = {
        method: float(np.mean([one.inference_seconds[method] for one in parts if method in one.inference_seconds]))
        for method in first.inference_seconds
    }
    config = _common([one.config for one in parts])
    return replace(
        first,
        rows=sorted(rows, key=lambda row: place(row.method, row.combination)),
        samples={
            key: samples[key]
            for key in sorted(samples, key=lambda key: place(*key.split("/", 2)[:2]) if "/" in key else -1)
        },
        bootstrap=bootstrap,
        inference_seconds=seconds,
        notes=list(dict.fromkeys(note for one in parts for note in one.notes)),
        config={**config, "shard": None} if "shard" in config else config,
        shard=None,
    )


def _common(values: Sequence[Any]) -> Any:
    """What all agree on, ``None`` elsewhere."""
    if all(isinstance(value, Mapping) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _common([value.get(key) for value in values]) for key in keys}
    return values[0] if all(value == values[0] for value in values) else None


def _shard(result: SweepResult) -> Shard:
    assert result.shard is not None
    return result.shard


def _name(group: Sequence[SweepResult]) -> str:
    methods = dict.fromkeys(cell.partition("/")[0] for one in group for cell in _shard(one).cells)
    seeds = sorted({row.seed for one in group for row in one.rows})
    return f"sweep of {', '.join(methods)} (seed {', '.join(map(str, seeds))})"


def _listed(numbers: Sequence[int], of: int) -> str:
    shown = [f"{number}/{of}" for number in numbers[:8]] + [f"{len(numbers) - 8} more"] * (len(numbers) > 8)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
