"""`place` under all strategies, and adapters that keep some of their layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_mm.adapters import SSF, Adapted, LayerSensitivity, LoRA, adapt, keep_layers, place
from lightning_mm.adapters.adapter import bank_key
from lightning_mm.adapters.placement.choose import STRATEGIES, Strategy, budget_parameters
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import MIXED_INPUTS, MIXED_NAMES, MixedNetwork, mixed_call, randomise

pytestmark = pytest.mark.filterwarnings("ignore:.*layers are left out of the adapter")

LAYERS = [
    LayerSensitivity("a", 30, 0.1, 60.0),
    LayerSensitivity("b", 10, 0.9, 10.0),
    LayerSensitivity("c", 20, math.nan, 80.0),
    LayerSensitivity("d", 10, 0.5, 5.0),
]
TOTAL = 10_000


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("0.25 %", 25), ("0.29%", 29), (" .5 % ", 50), ("100 %", 10_000), (0.0029, 29), (1.0, 10_000), (1, 1), (7, 7)],
)
def test_budgets(budget: Any, expected: int) -> None:
    assert budget_parameters(budget, TOTAL) == expected


@pytest.mark.wrong_types
@pytest.mark.parametrize("budget", ["0.25", "much", "-1 %", "0 %", "101 %", 0, -3, 1.5, 0.0, math.nan, True, None, [1]])
def test_wrong_budgets_are_named(budget: Any) -> None:
    with pytest.raises(LightningMMError, match=r"budget: expected percent .* such as '0\.25 %'.*, got "):
        budget_parameters(budget, TOTAL)


@pytest.mark.parametrize(
    ("strategy", "budget", "expected"),
    [
        ("gain", 50, ["a", "c"]),
        ("gain", 49, ["b", "c", "d"]),
        ("gain", 19, ["b"]),
        ("disturbance", 20, ["b", "d"]),
        ("disturbance", 50, ["a", "b", "d"]),
        ("last", 30, ["c", "d"]),
        ("last", 25, ["b", "d"]),
        ("all", 70, ["a", "b", "c", "d"]),
        ("all", None, ["a", "b", "c", "d"]),
    ],
)
def test_strategies(strategy: Strategy, budget: int | None, expected: list[str]) -> None:
    assert place(LAYERS, budget, TOTAL, strategy) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_budgets_are_kept_and_used(strategy: Strategy) -> None:
    for budget in range(70 if strategy == "all" else 10, 81):
        chosen = place(LAYERS, budget, TOTAL, strategy, seed=budget)
        used = sum(one.parameters for one in LAYERS if one.name in chosen)
        assert used <= budget
        assert all(used + one.parameters > budget for one in LAYERS if one.name not in chosen), "another one would fit"
        assert chosen == sorted(chosen), "in forward order"


def test_random_depends_on_the_seed_alone() -> None:
    drawn = [place(LAYERS, 20, TOTAL, "random", seed) for seed in range(20)]
    torch.manual_seed(5)
    assert drawn == [place(LAYERS, 20, TOTAL, "random", seed) for seed in range(20)]
    assert len({tuple(one) for one in drawn}) > 1


def test_too_small_a_budget_names_the_smallest_that_would_do() -> None:
    with pytest.raises(
        LightningMMError,
        match=r"budget of 9 parameters per combination \(0\.09 % of the network\) is too small for any "
        r"layer; the smallest sufficient budget is 10 parameters per combination \(0\.1 % of the network\), for "
        r"layer 'b'",
    ):
        place(LAYERS, "0.09 %", TOTAL)
    with pytest.raises(LightningMMError, match=r"is too small for all 4 layers, which need 70 parameters"):
        place(LAYERS, 69, TOTAL, "all")
    with pytest.raises(LightningMMError, match=r"strategy 'gain' needs a budget"):
        place(LAYERS, None, TOTAL)
    with pytest.raises(LightningMMError, match="no layer to place"):
        place([], 3, TOTAL)


@pytest.mark.wrong_types
def test_unknown_strategies_are_named() -> None:
    message = r"strategy must be one of \['gain', 'disturbance', 'random', 'last', 'all'\], got"
    with pytest.raises(LightningMMError, match=message):
        place(LAYERS, 3, TOTAL, "best")  # type: ignore[arg-type]


CALL = mixed_call()
MASK = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0]], dtype=torch.bool)
SOME = ["image.0", "frames", "head"]


def mixed(targets: list[str] | None = None) -> Adapted:
    torch.manual_seed(0)
    network = MixedNetwork().train()
    return adapt(network, MIXED_NAMES, LoRA(rank=2), inputs=MIXED_INPUTS, example=CALL, targets=targets)


def test_an_adapter_that_keeps_some_layers_is_one_that_was_built_for_them() -> None:
    kept, built = mixed(), mixed(SOME)
    banks = [kept.adapter.banks[bank_key(name)] for name in SOME]
    keep_layers(kept.adapter, kept.base, SOME)
    assert [kept.adapter.banks[bank_key(name)] for name in SOME] == banks, "the same objects"
    assert kept.adapter.sites == built.adapter.sites
    assert list(kept.adapter.state_dict()) == list(built.adapter.state_dict())
    randomise(built.adapter)
    kept.adapter.load_state_dict(built.adapter.state_dict())
    args, kwargs = CALL
    assert torch.equal(kept(*args, **kwargs, available=MASK), built(*args, **kwargs, available=MASK))
    assert kept.adapter.parameters_per_combination() == built.adapter.parameters_per_combination()
    assert not any(parameter.requires_grad for parameter in kept.base.parameters())
    network = kept.remove()
    assert all(module.training for module in network.modules()), "as it was before"
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_of_a_former_choice_come_back() -> None:
    adapted, order = mixed(), [site.name for site in mixed().adapter.sites]
    keep_layers(adapted.adapter, adapted.base, ["head"])
    keep_layers(adapted.adapter, adapted.base, list(reversed(order)))
    assert [site.name for site in adapted.adapter.sites] == order
    assert list(adapted.adapter.banks) == [bank_key(name) for name in order]
    args, kwargs = CALL
    with adapted.adapter.disabled():
        expected = adapted(*args, **kwargs, available=MASK)
    torch.testing.assert_close(adapted(*args, **kwargs, available=MASK), expected)


def test_names_that_are_no_layers_are_refused() -> None:
    adapted = adapt(MixedNetwork(), MIXED_NAMES, SSF(), inputs=MIXED_INPUTS, example=CALL)
    for names, got in ((["tail"], r"\['tail'\]"), ([], "none")):
        with pytest.raises(
            LightningMMError, match=f"that this adapter was built for, got {got}; these have names like"
        ):
            keep_layers(adapted.adapter, adapted.base, names)
