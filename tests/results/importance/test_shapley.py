"""Shapley values against all orders of the modalities, one by one."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.results import SweepResult, SweepRow, constant_rows, merge
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.importance import importance, sampled_combinations
from lightning_mm.results.per_sample import resampled
from tests.support.sweep_results import classified


def result_of(
    names: ModalityNames, seeds: int = 1, metric: str = "accuracy", combinations: tuple[str, ...] | None = None
) -> SweepResult:
    generator = np.random.default_rng(len(names))
    rows = [
        SweepRow("ssf", name, len(names.parse(name)), metric, float(generator.uniform()), 50, seed)
        for seed in range(seeds)
        for name in combinations or names.combinations()
    ]
    return SweepResult(rows, list(names), metric, directions={"mae": "min"})


def by_orders(names: ModalityNames, values: dict[str, float], empty: float) -> dict[str, float]:
    """What each modality adds, averaged over all orders in which modalities may come."""
    values, orders = {**values, "": empty}, list(permutations(names))
    total = dict.fromkeys(names, 0.0)
    for order in orders:
        for place, name in enumerate(order):
            before = names.canonical("+".join(order[:place])) if place else ""
            total[name] += values[names.canonical("+".join(order[: place + 1]))] - values[before]
    return {name: value / len(orders) for name, value in total.items()}


def fused(names: ModalityNames, values: dict[str, float], empty: float, pair: tuple[str, str]) -> float:
    """The interaction of a pair: Shapley of the pair as one player, less that of each without the other."""
    one, other = pair
    rest = [name for name in names if name not in pair]

    def worth(players: dict[str, tuple[str, ...]], of: str) -> float:
        small = ModalityNames(players)
        inside = {
            combination: values[
                names.canonical("+".join(p for player in small.parse(combination) for p in players[player]))
            ]
            for combination in small.combinations()
        }
        return by_orders(small, inside, empty)[of]

    singles = {name: (name,) for name in rest}
    together = worth({**singles, "pair": pair}, "pair")
    return together - worth({**singles, one: (one,)}, one) - worth({**singles, other: (other,)}, other)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("metric", ["accuracy", "mae"])
def test_values_are_those_of_all_orders_and_add_up(count: int, metric: str) -> None:
    names = ModalityNames(list("abcde"[:count]))
    result = result_of(names, metric=metric)
    found = importance(result, "ssf", empty=0.25)
    sign = 1 if metric == "accuracy" else -1
    for name, value in by_orders(names, result.values("ssf"), 0.25).items():
        assert found.shapley[name].value == pytest.approx(sign * value, abs=1e-12)
    total = sum(one.value for one in found.shapley.values())
    assert total == pytest.approx(sign * (found.full - found.empty), abs=1e-12)
    for pair, one in found.interactions.items():
        assert one.value == pytest.approx(sign * fused(names, result.values("ssf"), 0.25, pair), abs=1e-12)
    assert len(found.interactions) == count * (count - 1) // 2


def test_seeds_are_averaged_with_their_spread() -> None:
    names = ModalityNames(list("abc"))
    result = result_of(names, seeds=3)
    found = importance(result, "ssf", empty=0.0)
    alone = [by_orders(names, values, 0.0)["b"] for values in result.figures("ssf").values.values()]
    assert found.shapley["b"].value == pytest.approx(np.mean(alone))
    assert found.shapley["b"].std == pytest.approx(np.std(alone, ddof=1))
    assert found.shapley["b"].interval is None
    assert found.shapley["b"].seeds == (0, 1, 2)


def test_intervals_are_those_of_the_replicates() -> None:
    names = ModalityNames(list("abc"))
    result, generator = result_of(names), np.random.default_rng(1)
    draws = {name: generator.uniform(size=40) for name in names.combinations()}
    result.bootstrap = Bootstrap("key", {("ssf", name, "accuracy"): values for name, values in draws.items()})
    found = importance(result, "ssf", empty=0.1).shapley["a"].interval
    each = [by_orders(names, {name: values[r] for name, values in draws.items()}, 0.1)["a"] for r in range(40)]
    assert found == pytest.approx(tuple(np.percentile(each, [2.5, 97.5])))
    del result.bootstrap.replicates["ssf", "a", "accuracy"]
    assert importance(result, "ssf", empty=0.1).shapley["a"].interval is None


def test_many_modalities_are_sampled_and_still_add_up() -> None:
    names = ModalityNames(list("abcdefghijkl"))
    chosen = sampled_combinations(names, 8)
    assert len(chosen) <= 8 * 12
    found = importance(result_of(names, combinations=chosen), "ssf", empty=0.3)
    assert found.permutations >= 8
    assert found.interactions == {}
    assert sum(one.value for one in found.shapley.values()) == pytest.approx(found.full - 0.3)


def test_sampled_values_of_an_additive_network_are_exact() -> None:
    names = ModalityNames(list("abcdefghijkl"))
    worth = {name: 0.01 * (1 + place) for place, name in enumerate(names)}
    result = result_of(names, combinations=sampled_combinations(names, 4))
    rows = [
        SweepRow(
            "ssf",
            row.combination,
            row.n_available,
            "accuracy",
            sum(worth[n] for n in names.parse(row.combination)),
            9,
            0,
        )
        for row in result.rows
    ]
    found = importance(SweepResult(rows, list(names), "accuracy"), "ssf", empty=0.0)
    assert {name: one.value for name, one in found.shapley.items()} == pytest.approx(worth)


def test_without_any_modality_it_is_the_majority_or_what_is_given() -> None:
    names = ModalityNames(list("ab"))
    result = result_of(names)
    with pytest.raises(LightningMMError, match=r"what is accuracy without any modality.*--empty"):
        importance(result, "ssf")
    result.rows += constant_rows("majority", 0.4, "accuracy", like=result)
    assert importance(result, "ssf").empty == 0.4


def test_what_is_missing_is_said() -> None:
    names = ModalityNames(list("abc"))
    with pytest.raises(LightningMMError, match=r"no figures of method 'lora'; this sweep has \['ssf'\]"):
        importance(result_of(names), "lora", empty=0.0)
    with pytest.raises(LightningMMError, match="it lacks 'b' and 4 more"):
        importance(result_of(names, combinations=("a", "a+b+c")), "ssf", empty=0.0)
    with pytest.raises(LightningMMError, match="it lacks two permutations"):
        importance(result_of(ModalityNames(list("abcdefghijkl")), combinations=("a",)), "ssf", empty=0.0)


def test_only_seeds_with_all_combinations_count() -> None:
    names = ModalityNames(["a", "b", "c"])
    result = result_of(names, seeds=3)
    whole = result_of(names, seeds=2)
    result.rows = [row for row in result.rows if (row.seed, row.combination) != (2, "a+b")]
    found, expected = importance(result, "ssf", empty=0.1), importance(whole, "ssf", empty=0.1)
    assert found.left_out == (2,)
    assert found.left_out_note == "ssf: without seed 2, which lacks combinations"
    for name, figure in expected.shapley.items():
        assert found.shapley[name].value == pytest.approx(figure.value)
        assert found.shapley[name].std == pytest.approx(figure.std)
        assert found.shapley[name].seeds == (0, 1)
    assert found.full == pytest.approx(expected.full)
    assert (expected.left_out, expected.left_out_note) == ((), "")
    result.rows = [row for row in result.rows if (row.seed, row.combination) not in ((0, "a"), (1, "b"))]
    with pytest.raises(LightningMMError, match="Shapley values need all combinations"):
        importance(result, "ssf", empty=0.1)


def test_intervals_of_complete_seeds_are_drawn_again() -> None:
    parts = [classified(seed) for seed in range(3)]
    whole, partial = merge(parts[:2]), merge(parts)
    lost = "rgb"
    partial.rows = [row for row in partial.rows if (row.seed, row.combination) != (2, lost)]
    wanted = importance(whole, "adapted", "accuracy", 0.0, resampled(whole, "accuracy", replicates=30))
    found = importance(partial, "adapted", "accuracy", 0.0, resampled(partial, "accuracy", replicates=30))
    for name, figure in wanted.shapley.items():
        assert figure.interval is not None
        assert found.shapley[name].interval == pytest.approx(figure.interval)
