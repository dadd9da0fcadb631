"""The checks of settings that the whole package shares, and their texts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError, check_choice, check_fraction, check_whole


def test_a_choice() -> None:
    check_choice("split", "val", ("train", "val"))
    check_choice("val_patient", None, ["07", None])
    with pytest.raises(LightningMMError, match=r"^Ombria: split must be one of \['train', 'val'\], got 'dev'$"):
        check_choice("Ombria: split", "dev", ("train", "val"))
    with pytest.raises(LightningMMError, match=r"must be one of \['a'\], got \[1\]"):
        check_choice("kind", [1], {"a": 0})


@pytest.mark.parametrize("value", [0, -3, 1.5, 2.0, "2", None, math.nan])
def test_no_whole_number(value: object) -> None:
    with pytest.raises(LightningMMError, match=rf"^size must be a whole number of at least 1, got {value!r}$"):
        check_whole("size", value, 1)


def test_whole_numbers() -> None:
    for value in (1, 7, np.int64(3)):
        check_whole("size", value, 1)
    check_whole("gap", 0, 0)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_no_fraction(value: float) -> None:
    with pytest.raises(LightningMMError, match=rf"^p must be between 0 and 1, got {value}$"):
        check_fraction("p", value)


def test_fractions() -> None:
    for value in (0, 0.5, 1):
        check_fraction("p", value)
    check_fraction("p", 0.0, below_one=True)
    with pytest.raises(LightningMMError, match=r"^p must be at least 0 and below 1, got 1\.0$"):
        check_fraction("p", 1.0, below_one=True)
