"""The bases: which rows a combination uses, what combinations without a row do, and that rows never meet others."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from lightning_mm import Modalities
from lightning_mm.adapters import Additive, Basis, Hyper, OneHot, Pairwise, Shared
from lightning_mm.errors import LightningMMError

NAMES = Modalities(["a", "b", "c"])
BASES = [OneHot, Additive, Pairwise, Shared]
ROWS = {
    OneHot: {"a": ["a"], "b": ["b"], "c": ["c"], "a+b": ["a+b"], "a+c": ["a+c"], "b+c": ["b+c"]},
    Additive: {
        "a": ["without b", "without c"],
        "b": ["without a", "without c"],
        "c": ["without a", "without b"],
        "a+b": ["without c"],
        "a+c": ["without b"],
        "b+c": ["without a"],
    },
    Pairwise: {
        "a": ["without b", "without c", "without b and c"],
        "b": ["without a", "without c", "without a and c"],
        "c": ["without a", "without b", "without a and b"],
        "a+b": ["without c"],
        "a+c": ["without b"],
        "b+c": ["without a"],
    },
    Shared: {name: ["incomplete"] for name in NAMES.incomplete()},
}


def bound(basis: Basis) -> Basis:
    basis.bind(NAMES)
    return basis


def used(basis: Basis, combination: str) -> list[str]:
    weights = basis.weights(NAMES.masks([combination]))
    return [name for name, flag in zip(basis.names, weights[0].tolist()) if flag]


@pytest.mark.parametrize("kind", BASES)
def test_rows_of_every_combination(kind: type[Basis]) -> None:
    basis = bound(kind())
    assert {name: used(basis, name) for name in NAMES.incomplete()} == ROWS[kind]
    assert used(basis, NAMES.full) == []


@pytest.mark.parametrize("kind", BASES)
def test_mix_adds_the_rows_in_use_and_gather_lists_them(kind: type[Basis]) -> None:
    basis, masks = bound(kind()), NAMES.masks()
    table = torch.randn(len(basis.names), 4)
    route, weights = basis.route(masks), basis.weights(masks)
    expected = torch.stack([table[row].sum(0) for row in weights])
    torch.testing.assert_close(basis.mix(route, table), expected)
    torch.testing.assert_close(basis.gather(route, table).sum(1), expected)


@pytest.mark.parametrize("kind", [*BASES, Hyper])
def test_a_row_that_is_not_finite_reaches_only_those_who_use_it(kind: type[Basis]) -> None:
    basis, masks = bound(kind()), NAMES.masks()
    for row in range(len(basis.names)):
        table = torch.ones(len(basis.names), 2)
        table[row] = torch.nan
        touched = basis.mix(basis.route(masks), table).isnan().any(1)
        assert torch.equal(touched, basis.weights(masks)[:, row])
        gathered = basis.gather(basis.route(masks), table).isnan().flatten(1).any(1)
        assert torch.equal(gathered, touched)


@pytest.mark.parametrize(
    ("rows", "unseen", "expected"),
    [
        (["a", "a+b"], "base", {"b": [], "c": [], "a+c": [], "b+c": []}),
        (["a", "a+b"], "superset", {"b": ["a+b"], "c": [], "a+c": [], "b+c": []}),
        (["a", "a+b"], "subset", {"b": [], "c": [], "a+c": ["a"], "b+c": []}),
        (["b+c", "a+b"], "superset", {"a": ["a+b"], "b": ["a+b"], "c": ["b+c"], "a+c": []}),
        (["c", "b"], "subset", {"a": [], "a+b": ["b"], "a+c": ["c"], "b+c": ["b"]}),
    ],
)
def test_one_hot_follows_its_rule_for_combinations_without_a_row(
    rows: list[str], unseen: Any, expected: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightning_mm"):
        basis = bound(OneHot(rows, unseen))
    assert {name: used(basis, name) for name in expected} == expected
    assert used(basis, NAMES.full) == []
    for name, near in expected.items():
        assert f"{name} uses {near[0] if near else 'the base'}" in caplog.text


def test_nothing_available_is_no_combination_and_uses_no_row_of_one_hot() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert not bound(OneHot(unseen="superset")).weights(nothing).any()
    assert bound(Additive()).weights(nothing).all()


@pytest.mark.wrong_types
def test_mistakes_are_named() -> None:
    with pytest.raises(
        LightningMMError, match=r"OneHot: unseen must be one of \['base', 'superset', 'subset'\], got 'near'"
    ):
        OneHot(unseen="near")  # type: ignore[arg-type]
    with pytest.raises(LightningMMError, match="has no incomplete combination to adapt to"):
        bound(OneHot(["a+b+c"]))


def test_many_modalities_need_few_rows_or_are_refused_with_the_number() -> None:
    many = Modalities([f"m{place}" for place in range(20)])
    with pytest.raises(
        LightningMMError, match=r"OneHot of 20 modalities needs 1,048,574 rows .*Additive\(\) \(20 rows\)"
    ):
        OneHot().bind(many)
    for kind, most in ((Additive, 19), (Pairwise, 190), (Shared, 1)):
        basis = kind()
        basis.bind(many)
        assert basis.most_rows() == most
    twelve = OneHot()
    twelve.bind(Modalities(list("abcdefghijkl")))
    assert len(twelve.names) == 4094


@pytest.mark.parametrize("unseen", ["base", "superset", "subset"])
def test_chosen_combinations_of_many_modalities_route_as_those_of_few(unseen: Any, caplog: Any) -> None:
    chosen = ["a", "b", "a+b", "b+c", "a+b+d", "a+c+d"]
    few, many = Modalities(list("abcd")), Modalities([*"abcd", *(f"m{place}" for place in range(66))])
    small, large = OneHot(chosen, unseen=unseen), OneHot(chosen, unseen=unseen)
    small.bind(few)
    with caplog.at_level(logging.WARNING):
        large.bind(many)
    assert f"{2**70 - 8:,} combinations have no row" in caplog.text
    masks = few.masks(few.incomplete())
    wide = torch.cat([masks, torch.zeros(len(masks), 66, dtype=torch.bool)], 1)
    assert torch.equal(large.route(wide), small.route(masks))
    assert large.route(torch.ones(1, 70, dtype=torch.bool)).tolist() == [6]
    assert large.most_rows() == 1
