"""Statistics of several processes are joined to those of the split."""

from __future__ import annotations

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.sweep.module import Part, join

NAMES = Modalities(["a", "b"])


def part(*index: int) -> Part:
    """A batch whose samples all have ``a``, and ``b`` if their number is even; its statistic is the number."""
    number = torch.tensor(index)
    even = number % 2 == 0
    statistics = {(0, name): {"number": number[has]} for name, has in (("a", even | True), ("a+b", even)) if has.any()}
    digests = number[:, None].repeat(1, 16).to(torch.uint8)
    return Part(number, torch.stack([even | True, even], 1), statistics, digests)


def test_samples_that_fill_the_ranks_count_once() -> None:
    # five samples on two ranks: samples 1 and 4 are repeated
    joined = join([part(4, 0), part(2, 1), part(1), part(3, 4)], NAMES, padded=True)
    assert joined.index.tolist() == [0, 1, 2, 3, 4]
    assert joined.observed[:, 1].tolist() == [True, False, True, False, True]
    assert joined.targets[:, 0].tolist() == [0, 1, 2, 3, 4]
    for combination, samples in (("a", [0, 1, 2, 3, 4]), ("a+b", [0, 2, 4])):
        assert joined.statistics[0, combination]["number"].tolist() == samples
        assert joined.index[joined.rows[0, combination]].tolist() == samples


def test_a_sample_that_comes_twice_on_one_process_is_a_mistake() -> None:
    with pytest.raises(LightningMMError, match="3 samples have only 2 distinct values of 'index'"):
        join([part(0, 1), part(0)], NAMES, padded=False)
