"""What a search may choose: draws stay inside, follow their distribution, and mistakes are told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lightning_mm.compare.tuning.parameters import Parameter, parameter
from lightning_mm.errors import LightningMMError

PLACES = [number / 1000 for number in range(1000)]


def test_values_are_drawn_equally_often() -> None:
    drawn = [Parameter("a", values=("x", None, 3)).draw(place) for place in PLACES]
    assert [drawn.count(value) for value in ("x", None, 3)] == [334, 333, 333]


def test_whole_numbers_include_both_ends() -> None:
    drawn = [parameter("f", "a", {"min": 2, "max": 5}).draw(place) for place in PLACES]
    assert [drawn.count(value) for value in (2, 3, 4, 5)] == [250] * 4
    assert all(isinstance(value, int) for value in drawn)


def test_numbers_stay_inside_and_follow_their_distribution() -> None:
    content = {"min": 1e-4, "max": 0.123456789, "distribution": "log_uniform_values"}
    drawn = [parameter("f", "a", content).draw(place) for place in [*PLACES, 1 - 1e-16]]
    assert drawn == sorted(drawn)
    assert drawn[0] == 1e-4
    assert drawn[-1] <= 0.123456789
    assert drawn[500] == pytest.approx(math.sqrt(1e-4 * 0.123456789), rel=1e-5)
    flat = [parameter("f", "a", {"min": 0, "max": 2.0}).draw(place) for place in PLACES]
    assert flat == pytest.approx([2 * place for place in PLACES])


def test_numbers_that_yaml_reads_as_text() -> None:
    found = parameter("f", "a", {"min": "1e-4", "max": "1E-2"})
    assert (found.low, found.high, found.distribution) == (1e-4, 1e-2, "uniform")
    assert parameter("f", "a", {"values": ["1e-3", "adam"]}).values == (1e-3, "adam")


def test_what_a_search_holds_is_what_a_wandb_sweep_takes() -> None:
    for content in ({"values": [1, "a"]}, {"distribution": "int_uniform", "min": 1, "max": 3}):
        assert parameter("f", "a", content).content() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "f: a: expected {values"),
        ({"value": 3}, "unknown key 'value'; did you mean 'values'"),
        ({"values": 3}, "expected {values"),
        ({"values": []}, "expected {values"),
        ({"values": [1], "min": 0}, "expected {values"),
        ({"values": [0.1, "0.1"]}, "expected distinct values"),
        ({"min": 1}, "expected numbers with min below max, got min 1 and max None"),
        ({"min": 2, "max": 1}, "expected numbers with min below max"),
        ({"min": 0.0, "max": float("inf")}, "expected numbers with min below max"),
        ({"min": False, "max": True}, "expected numbers with min below max"),
        ({"min": "low", "max": 1}, "expected numbers with min below max, got min 'low'"),
        ({"min": 1, "max": 2, "distribution": "normal"}, "expected one of uniform, log_uniform_values, int_uniform"),
        ({"min": 1, "max": 2, "distribution": "log_uniform"}, "takes exponents for min and max; write log_uniform_val"),
        ({"min": 1.5, "max": 2, "distribution": "int_uniform"}, "int_uniform needs whole numbers"),
        ({"min": 0, "max": 2, "distribution": "log_uniform_values"}, "needs a min above 0"),
    ],
)
def test_mistakes_are_told(content: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        parameter("f", "a", content)
