"""The generated data: the same every time, and with a signal."""

from __future__ import annotations

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.testing import FakeSegmentation

CHANNELS = {"rgb": 3, "depth": 1}


def test_samples_are_a_function_of_seed_split_and_index() -> None:
    data = FakeSegmentation("train", CHANNELS, length=4)
    first, again = data[1], FakeSegmentation("train", CHANNELS, length=9)[1]
    assert torch.equal(first["target"], again["target"])
    assert torch.equal(first["inputs"]["rgb"], again["inputs"]["rgb"])
    others = [data[2], FakeSegmentation("val", CHANNELS)[1], FakeSegmentation("train", CHANNELS, seed=1)[1]]
    assert all(not torch.equal(first["inputs"]["rgb"], other["inputs"]["rgb"]) for other in others)
    assert [sample["target"].shape for sample in data] == [(32, 32)] * 4


def test_the_nearest_colour_tells_the_class_in_every_split() -> None:
    for split in ("train", "val", "test"):
        data = FakeSegmentation(split, CHANNELS, noise=0.1)
        image, target = data[0]["inputs"]["rgb"], data[0]["target"]
        colours = FakeSegmentation("train", CHANNELS).colours["rgb"]
        distance = (image.movedim(0, -1)[..., None, :] - colours).norm(dim=-1)
        assert (distance.argmin(-1) == target).float().mean() > 0.95


def test_unobserved_modalities_are_none_but_never_all() -> None:
    data = FakeSegmentation("train", CHANNELS, p_unobserved=0.9, length=40)
    present = [sum(value is not None for value in sample["inputs"].values()) for sample in data]
    assert min(present) == 1
    assert sum(present) < 60


def test_mistakes() -> None:
    with pytest.raises(LightningMMError, match="split must be"):
        FakeSegmentation("training", CHANNELS)
    with pytest.raises(LightningMMError, match="multiple of 4, got 30"):
        FakeSegmentation("train", CHANNELS, size=30)
    with pytest.raises(IndexError, match="index 16 of a data set of 16"):
        FakeSegmentation("train", CHANNELS)[16]
