"""How far a program is from the network: by its worst number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_mm.export.checks import difference, largest_difference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        ([1, 2, 4], [1, 2, 4], 0),
        ([0.5, 0, 0.25], [0.5, 0, 0], 0.25),  # absolute below one
        ([1, 2, 5], [1, 2, -4], 9 / 4),  # relative to the largest above
        ([1, NAN, INF], [1, NAN, INF], 0),
        ([1, NAN, 2], [1, 3, 2], INF),
        ([1, INF, 2], [1, -INF, 2], INF),
        ([], [], 0),
    ],
)
def test_the_difference_is_that_of_the_worst_number(found: list[float], expected: list[float], apart: float) -> None:
    assert difference(torch.tensor(found), torch.tensor(expected)) == pytest.approx(apart)


def test_the_difference_of_a_program_is_that_of_its_worst_output_and_case() -> None:
    def program(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0], tensors[0] / 2]

    cases = [({"x": torch.tensor([size])}, [torch.tensor([size])] * 2) for size in (0.0, 0.5, 0.1)]
    assert largest_difference(program, ["x"], cases, "the program") == pytest.approx(0.25)
