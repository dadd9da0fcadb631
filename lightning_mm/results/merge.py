"""Several sweeps (of other methods, seeds or dedicated networks) as one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.provenance import joined_fingerprint
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.per_sample.cells import split_key
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import SweepRow
from lightning_mm.results.shards.join import join_shards

Cost = TypeVar("Cost")


def merge(results: Sequence[SweepResult]) -> SweepResult:
    """Merge sweeps of other methods or seeds, on the same samples, into one result.

    Shards of a sweep are put together first, see :func:`~lightning_mm.results.shards.join.join_shards`. Parameters and
    seconds of one method and seed add up over sweeps of disjoint combinations if these are of different networks, and
    count once for sweeps of one network; sweeps of older releases do not say of which, and add up. Over seeds they do
    not: parameters are those of one seed, seconds the mean. Merge all parts at once rather than in steps: a merged
    result has costs per method, no longer per seed.

    If a method has several seeds, per-sample statistics are kept under ``seed<k>/<method>/<combination>/<name>``, and
    there are no bootstrap replicates: tables show the spread over seeds instead of intervals.

    Args:
        results: Sweeps of the same split; those of dedicated networks may have fewer modalities.

    Raises:
        LightningMMError: If there is nothing to merge, a shard is missing or there twice, one figure has two values, or
            the sweeps are of other data, by what they say of it: fingerprint, data set, split, metrics, the number of
            samples of a combination and their labels.
    """
    results = join_shards(results)
    if not results:
        raise LightningMMError("nothing to merge: expected one or more sweeps, got none")
    splits = sorted({str(result.config["split"]) for result in results if "split" in result.config})
    if len(splits) > 1:
        raise LightningMMError(f"these sweeps are of different splits ({', '.join(splits)}) and cannot be compared")
    data_sets = sorted({name for result in results for name in data_sets_of(result.config)})
    if len(data_sets) > 1:
        raise LightningMMError(
            f"these sweeps are of different data sets ({', '.join(data_sets)}) and cannot be compared"
        )
    _check_targets(results)
    largest = max(results, key=lambda result: len(result.modalities))
    other = next((result for result in results if not set(result.metrics) & set(largest.metrics)), None)
    if other is not None:
        raise LightningMMError(
            f"these sweeps have no metric in common ({', '.join(largest.metrics)}; {', '.join(other.metrics)}): they "
            "are of different tasks and cannot be compared"
        )
    names = list(dict.fromkeys([*largest.modalities, *(name for result in results for name in result.modalities)]))
    modalities = ModalityNames(names)
    rows: dict[tuple[str, str, str, int], SweepRow] = {}
    counts: dict[str, tuple[str, int]] = {}
    for result in results:
        for row in result.rows:
            row = replace(row, combination=modalities.canonical(row.combination))
            key = (row.method, row.combination, row.metric, row.seed)
            if key in rows and not np.isclose(rows[key].value, row.value, rtol=0, atol=1e-9, equal_nan=True):
                raise LightningMMError(
                    f"two values for method {row.method!r}, combination {row.combination!r}, metric {row.metric!r}, "
                    f"seed {row.seed}: {rows[key].value:.6g} and {row.value:.6g}; give one of the sweeps another "
                    f"method name or seed, or limit its combinations"
                )
            method, n = counts.setdefault(row.combination, (row.method, row.n))
            if n != row.n:
                raise LightningMMError(
                    f"combination {row.combination!r} was measured on {n} samples by {method!r} and on {row.n} by "
                    f"{row.method!r}: these figures cannot be compared; sweep both on the same split"
                )
            rows.setdefault(key, row)
    merged = SweepResult(
        rows=list(rows.values()),
        modalities=names,
        primary_metric=largest.primary_metric,
        directions={metric: way for result in reversed(results) for metric, way in result.directions.items()},
        parameters={
            method: next(iter(counts)) for method, counts in _costs(results, _parameters, _add_counts, names).items()
        },
        config=results[0].config if len(results) == 1 else {"merged": [result.config for result in results]},
        seconds={
            method: float(np.mean(seconds))
            for method, seconds in _costs(results, lambda result: result.seconds, lambda a, b: a + b, names).items()
        },
        notes=list(dict.fromkeys(note for result in results for note in result.notes)),
        inference={
            method: {key: round(value) for key, value in own.items()}
            for method, own in _means(results, lambda result: result.inference).items()
        },
        inference_seconds={
            method: own["seconds"]
            for method, own in _means(results, lambda result: _as_costs(result.inference_seconds)).items()
        },
        data_fingerprint=joined_fingerprint([result.data_fingerprint for result in results]),
        networks=_networks(results),
    )
    merged.samples = _merge_samples(results, merged.several_seeds, modalities)
    merged.bootstrap = None if merged.several_seeds else _merge_replicates(results, modalities)
    return merged


def data_sets_of(config: Any) -> list[str]:
    """Names of the data sets in the configuration of a result, or of the results that it was merged from."""
    if not isinstance(config, Mapping):
        return []
    found = [name for part in config.get("merged") or () for name in data_sets_of(part)]
    data = config.get("data")
    named = config.get("data_set") or (data.get("dataset") if isinstance(data, Mapping) else None)
    path = named.get("class_path") if isinstance(named, Mapping) else named
    return [*found, path.rpartition(".")[2]] if isinstance(path, str) else found


def _check_targets(results: Sequence[SweepResult]) -> None:
    """Raise a LightningMMError if samples of the same index have other labels in another sweep."""
    labels: dict[tuple[str, bytes], NDArray[Any]] = {}
    for result in results:
        index = np.asarray(result.samples.get("index", ())).astype(np.int64).tobytes()
        for key, target in result.samples.items():
            _, rest = split_key(key)
            if rest.count("/") == 2 and rest.endswith("/target"):
                combination = ModalityNames(result.modalities).canonical(rest.split("/")[1])
                known = labels.setdefault((combination, index), target)
                if known.shape == target.shape and not np.array_equal(known, target):
                    raise LightningMMError(
                        f"combination {combination!r}: samples of the same index have other labels in another sweep, "
                        "so they are of different data and cannot be compared"
                    )


def check_samples(results: Sequence[SweepResult]) -> None:
    """Check that a combination counts the same samples in all sweeps, as far as they say.

    :func:`merge` takes sweeps whose samples have other numbers, and then keeps no statistics of them.

    Raises:
        LightningMMError: If a combination counts samples of another ``index``.
    """
    known: dict[str, NDArray[Any]] = {}
    for result in results:
        index, observed = result.samples.get("index"), result.samples.get("observed")
        if index is None or observed is None or observed.shape != (len(index), len(result.modalities)):
            continue
        names = ModalityNames(result.modalities)
        for combination in result.combinations:
            columns = [names.index(name) for name in names.parse(combination)]
            own = np.sort(index[observed[:, columns].astype(bool).all(axis=1)].astype(np.int64))
            # sorted by name: another sweep may have the modalities in another order
            other = known.setdefault("+".join(sorted(names.parse(combination))), own)
            if not np.array_equal(own, other):
                raise LightningMMError(
                    f"combination {combination!r} was measured on other samples (`index`) in another sweep, so these "
                    "figures cannot be compared; sweep all on the same split"
                )


def constant_rows(method: str, value: float, metric: str, like: SweepResult) -> list[SweepRow]:
    """Make rows of a method that predicts the same whatever is available, e.g. ``majority``, the most frequent label.

    Args:
        method: The name of its column.
        value: Its value, the same for every combination.
        metric: The metric of the value.
        like: The result that the rows will be added to; has the combinations and numbers of samples.

    Raises:
        LightningMMError: If ``like`` has no figure of this metric.

    Example:
        >>> from lightning_mm.results import SweepResult, SweepRow, constant_rows
        >>> result = SweepResult([SweepRow("zero_fill", "rgb", 1, "accuracy", 0.7, n=9, seed=0)], ["rgb"], "accuracy")
        >>> result.rows += constant_rows("majority", 0.5, "accuracy", like=result)
        >>> result.value("majority", "rgb")
        0.5
    """
    known: dict[str, SweepRow] = {}
    for row in sorted(like.rows, key=lambda row: row.seed):
        if row.metric == metric:
            known.setdefault(row.combination, row)
    if not known:
        raise LightningMMError(f"no figures of metric {metric!r} to compare with; this sweep has {like.metrics}")
    # One seed only: a constant has no spread.
    seed = min(row.seed for row in known.values())
    return [
        replace(known[name], method=method, value=float(value), seed=seed, low=None, high=None)
        for name in like.combinations
        if name in known
    ]


def renamed(result: SweepResult, names: Mapping[str, str]) -> SweepResult:
    """Rename methods of a result, e.g. ``{"adapted": "adapted_on_dropout"}``; the result given stays as it is."""
    replicates = result.bootstrap.replicates if result.bootstrap else {}
    return replace(
        result,
        rows=[replace(row, method=names.get(row.method, row.method)) for row in result.rows],
        parameters={names.get(method, method): counts for method, counts in result.parameters.items()},
        seconds={names.get(method, method): seconds for method, seconds in result.seconds.items()},
        inference={names.get(method, method): costs for method, costs in result.inference.items()},
        inference_seconds={names.get(method, method): value for method, value in result.inference_seconds.items()},
        networks={names.get(method, method): own for method, own in result.networks.items()},
        shard=result.shard and result.shard.renamed(names),
        samples={_renamed_key(key, names): values for key, values in result.samples.items()},
        bootstrap=result.bootstrap
        and replace(result.bootstrap, replicates={(names.get(m, m), c, k): v for (m, c, k), v in replicates.items()}),
    )


def _renamed_key(key: str, names: Mapping[str, str]) -> str:
    """A key of :attr:`SweepResult.samples` with another method; keys without a method stay."""
    seed, rest = split_key(key)
    method, *others = rest.split("/")
    return seed + "/".join([names.get(method, method), *others]) if others else key


def _keys_with_seed(result: SweepResult) -> dict[str, str]:
    """Key of per-sample statistics to the same key with its seed in front.

    Statistics of an unknown seed (a method of several seeds without it in the key) are left out.
    """
    seeds: dict[str, set[int]] = {}
    for row in result.rows:
        seeds.setdefault(row.method, set()).add(row.seed)
    found: dict[str, str] = {}
    for key in result.samples:
        seed, rest = split_key(key)
        own = seeds.get(rest.split("/")[0], set())
        if seed:
            found[key] = key
        elif "/" in rest and len(own) == 1:
            found[key] = f"seed{min(own)}/{rest}"
    return found


def _parameters(result: SweepResult) -> Mapping[str, dict[str, int]]:
    return result.parameters


def _add_counts(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Counts of two networks of a method together.

    Networks that are trained as a whole add up; a base with adapters is shared and counts once, and so do the
    parameters of a single combination.
    """
    whole = all(counts.get("trained", 0) >= counts.get("base", 0) for counts in (one, other))
    added = ("trained", "base") if whole else ("trained",)
    return {
        key: one.get(key, 0) + other.get(key, 0) if key in added else max(one.get(key, 0), other.get(key, 0))
        for key in dict.fromkeys([*one, *other])
    }


def _costs(
    results: Sequence[SweepResult],
    costs: Callable[[SweepResult], Mapping[str, Cost]],
    add: Callable[[Cost, Cost], Cost],
    names: Sequence[str],
) -> dict[str, list[Cost]]:
    """Method to its cost in each seed that covers the most combinations; seeds that lack some are left out.

    Args:
        results: Sweeps, each of some combinations of some methods and seeds.
        costs: Method to cost of one sweep.
        add: The cost of two networks together.
        names: Modalities in the order of the merged result.
    """
    modalities = ModalityNames(names)
    found: dict[tuple[str, int], tuple[set[str], Cost]] = {}
    counted: dict[tuple[str, int], set[str]] = {}
    for result in results:
        own = costs(result)
        parts: dict[tuple[str, int], set[str]] = {}
        for row in result.rows:
            if row.method in own:
                parts.setdefault((row.method, row.seed), set()).add(row.combination)
        for (method, seed), written in parts.items():
            combinations = {modalities.canonical(combination) for combination in written}
            networks = set(result.networks.get(method, ()))
            known = counted.setdefault((method, seed), set())
            again = bool(networks) and networks <= known  # of the same networks
            known |= networks
            if (method, seed) not in found:
                found[method, seed] = combinations, own[method]
            else:
                covered, cost = found[method, seed]
                if covered.isdisjoint(combinations):
                    found[method, seed] = covered | combinations, cost if again else add(cost, own[method])
    most: dict[str, int] = {}
    for (method, _), (covered, _) in found.items():
        most[method] = max(most.get(method, 0), len(covered))
    return {
        method: [cost for (name, _), (covered, cost) in found.items() if name == method and len(covered) == count]
        for method, count in most.items()
    }


def _networks(results: Sequence[SweepResult]) -> dict[str, list[str]]:
    """Method to all of its networks."""
    found: dict[str, list[str]] = {}
    for result in results:
        for method, networks in result.networks.items():
            found[method] = list(dict.fromkeys([*found.get(method, ()), *networks]))
    return found


def _as_costs(seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {method: {"seconds": value} for method, value in seconds.items()}


def _means(
    results: Sequence[SweepResult], costs: Callable[[SweepResult], Mapping[str, Mapping[str, float]]]
) -> dict[str, dict[str, float]]:
    """Method to the means of its costs of one prediction, over its seeds and dedicated networks, each counted once."""
    found: dict[str, dict[str, list[float]]] = {}
    counted: set[tuple[str, frozenset[str | int]]] = set()
    for result in results:
        for method, values in costs(result).items():
            networks = result.networks.get(method, ())
            seeds = (row.seed for row in result.rows if row.method == method)
            who = method, frozenset([*networks, *seeds])
            if networks and who in counted:
                continue
            counted.add(who)
            for key, value in values.items():
                found.setdefault(method, {}).setdefault(key, []).append(value)
    return {method: {key: float(np.mean(values)) for key, values in own.items()} for method, own in found.items()}


def _merge_samples(
    results: Sequence[SweepResult], several_seeds: bool, modalities: ModalityNames
) -> dict[str, NDArray[Any]]:
    """Statistics of all sweeps, if they are of the same samples."""
    if any("index" not in result.samples for result in results):
        return {}
    first = results[0].samples["index"]
    if any(not np.array_equal(first, result.samples["index"]) for result in results):
        return {}
    largest = max(results, key=lambda result: len(result.modalities))
    merged = {key: value for key, value in largest.samples.items() if "/" not in key}
    for result in results:
        if result.modalities == largest.modalities:  # what a policy drew
            merged |= {key: value for key, value in result.samples.items() if key.startswith("available.")}
    columns: dict[str, NDArray[Any]] = {}
    for result in results:
        observed = result.samples.get("observed", np.empty((0, 0)))
        if observed.shape == (len(first), len(result.modalities)):
            columns = {**dict(zip(result.modalities, observed.T)), **columns}
        keys = _keys_with_seed(result) if several_seeds else {key: key for key in result.samples if "/" in key}
        for key, name in keys.items():
            seed, rest = split_key(name)
            if rest.count("/") < 2:
                continue  # of no combination
            method, combination, statistic = rest.split("/", 2)
            merged.setdefault(f"{seed}{method}/{modalities.canonical(combination)}/{statistic}", result.samples[key])
    if "observed" in merged and set(columns) == set(modalities):
        merged["observed"] = np.stack([columns[name] for name in modalities], axis=1)
    return merged


def _merge_replicates(results: Sequence[SweepResult], modalities: ModalityNames) -> Bootstrap | None:
    """Replicates of all sweeps, if they come from the same resampling."""
    merged: Bootstrap | None = None
    for result in results:
        own = result.bootstrap
        if own is None or (merged is not None and own.key != merged.key):
            return None
        if merged is None:
            merged = replace(own, replicates={})
        for (method, combination, metric), values in own.replicates.items():
            figure = method, modalities.canonical(combination), metric
            if not np.array_equal(merged.replicates.setdefault(figure, values), values, equal_nan=True):
                return None
    return merged
