"""Scenes: deterministic, the promised confusions of each modality, and errors."""

import numpy as np
import pytest
import torch

from lightning_mm.data.datasets.scenes import _SIGNATURES, CLASS_NAMES, Scenes
from lightning_mm.errors import LightningMMError


def _equal(first: dict, second: dict) -> bool:
    same = all(torch.equal(first["inputs"][name], second["inputs"][name]) for name in first["inputs"])
    return same and torch.equal(first["target"], second["target"])


def test_shapes_types_and_scale() -> None:
    samples = [Scenes("train", size=40)[i] for i in range(32)]
    assert samples[0]["inputs"].keys() == Scenes.channels.keys()
    for name, channels in Scenes.channels.items():
        stacked = torch.stack([sample["inputs"][name] for sample in samples])
        assert stacked.shape == (32, channels, 40, 40)
        assert stacked.dtype == torch.float32
        assert stacked.mean().abs() < 0.4
        assert 0.6 < stacked.std() < 1.5
    target = torch.stack([sample["target"] for sample in samples])
    assert target.dtype == torch.int64
    assert set(target.unique().tolist()) == set(range(len(CLASS_NAMES)))


def test_a_sample_depends_on_seed_split_and_index_only() -> None:
    first = Scenes("train", size=24)
    assert _equal(first[3], Scenes("train", size=24, train_length=7)[3])  # neither on the length nor on earlier reads
    second = Scenes("train", size=24)
    assert all(_equal(first[i], second[i]) for i in (5, 0, 3))
    for other in (first[4], Scenes("val", size=24)[3], Scenes("train", size=24, seed=1)[3]):
        assert not _equal(first[3], other)


@pytest.mark.parametrize(
    ("columns", "confused"),
    [
        ([0, 1, 2], {("person", "sign"), ("rock", "vent")}),
        ([3], {("ground", "puddle"), ("person", "rock")}),
        ([4], {("ground", "rock"), ("person", "vent")}),
    ],
    ids=["rgb", "depth", "thermal"],
)
def test_each_modality_confuses_exactly_the_documented_classes(columns: list[int], confused: set) -> None:
    table = _SIGNATURES[:, columns]
    same = {
        (CLASS_NAMES[i], CLASS_NAMES[j])
        for i in range(len(table))
        for j in range(i + 1, len(table))
        if np.array_equal(table[i], table[j])
    }
    assert same == confused


def test_measured_class_means_agree_with_the_table() -> None:
    """What the table promises is in the rendered pixels: means over scenes, relative to the ground of each scene."""
    dataset = Scenes("train", size=48)
    sums, counts = torch.zeros(len(CLASS_NAMES)), torch.zeros(len(CLASS_NAMES))
    for i in range(60):
        sample = dataset[i]
        heat = sample["inputs"]["thermal"][0] * 0.65
        heat = heat - heat[sample["target"] == 0].median()
        for label in sample["target"].unique():
            sums[label] += heat[sample["target"] == label].mean()
            counts[label] += 1
    means = sums / counts
    expected = torch.from_numpy(_SIGNATURES[:, 4].copy())
    assert (means - expected).abs().max() < 0.35
    assert torch.corrcoef(torch.stack([means, expected]))[0, 1] > 0.97


def test_noise_can_be_switched_off() -> None:
    clean, noisy = (Scenes("test", size=24, noise=noise)[0] for noise in (0.0, 1.0))
    assert torch.equal(clean["target"], noisy["target"])
    assert not torch.equal(clean["inputs"]["depth"], noisy["inputs"]["depth"])


def test_errors_name_what_came() -> None:
    with pytest.raises(LightningMMError, match=r"split must be one of \['train', 'val', 'test'\], got 'dev'"):
        Scenes("dev")
    with pytest.raises(LightningMMError, match="size must be a whole number of at least 16, got 8"):
        Scenes("train", size=8)
    with pytest.raises(LightningMMError, match="val_length must be a whole number of at least 0, got -1"):
        Scenes("train", val_length=-1)
    with pytest.raises(IndexError, match="index 5 is outside of the 5 samples"):
        Scenes("train", train_length=5)[5]
    assert len(Scenes("train", train_length=0)) == 0
