"""Augmentations of the segmentation recipes: aligned, keyed, and as torchvision has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_mm.data import (
    Augmentation,
    ColorJitter,
    Compose,
    GaussianBlur,
    HorizontalFlip,
    RandomCrop,
    RandomScaleCrop,
)
from lightning_mm.data.readers.images import IMAGENET_MEAN, IMAGENET_STD
from lightning_mm.errors import LightningMMError
from tests.support.repository import REPOSITORY

MEAN, STD = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _sample(height: int = 12, width: int = 16) -> dict[str, Any]:
    """Every input shows the target, so that it can be read off whether they still agree."""
    target = torch.arange(height * width).view(height, width)
    inputs = {"rgb": target[None].float().repeat(3, 1, 1), "nir": None, "dolp": -target[None].float()}
    return {"inputs": inputs, "target": target, "extra": "kept"}


def _picture(height: int = 12, width: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(3, height, width, generator=generator) for name in ("rgb", "nir", "dolp")}
    return {"inputs": images, "target": torch.zeros(height, width, dtype=torch.long)}


@pytest.mark.parametrize("augment", [HorizontalFlip(), RandomCrop((8, 8)), RandomCrop((14, 20))])
@pytest.mark.parametrize("seed", range(6))
def test_inputs_and_target_stay_aligned(augment: Augmentation, seed: int) -> None:
    sample = _sample()
    out = augment(sample, _rng(seed))
    assert out["inputs"]["nir"] is None
    assert out["extra"] == "kept"
    padded = out["target"] == 255
    padded &= out["inputs"]["rgb"][0] == 0
    for channel in (*out["inputs"]["rgb"], -out["inputs"]["dolp"][0]):
        assert torch.equal(channel.long()[~padded], out["target"][~padded])
    assert torch.equal(sample["target"], _sample()["target"])  # not changed in place


def test_flip_happens_half_of_the_time() -> None:
    outs = [HorizontalFlip()(_sample(), _rng(seed))["target"] for seed in range(200)]
    flipped = [torch.equal(out, _sample()["target"].flip(1)) for out in outs]
    assert all(is_flipped or torch.equal(out, _sample()["target"]) for out, is_flipped in zip(outs, flipped))
    assert 70 < sum(flipped) < 130


def test_crops_reach_every_place_and_keep_what_fits() -> None:
    corners = {int(RandomCrop((10, 14))(_sample(), _rng(seed))["target"][0, 0]) for seed in range(200)}
    assert corners == {16 * row + column for row in range(3) for column in range(3)}
    assert torch.equal(RandomCrop((12, 16))(_sample(), _rng(0))["target"], _sample()["target"])
    out = RandomCrop((14, 10))(_sample(), _rng(0))
    assert out["target"].shape == (14, 10)
    assert out["target"][12:].eq(255).all()
    assert out["inputs"]["rgb"][:, 12:].eq(0).all()
    assert not out["target"][:12].eq(255).all()


@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (0.5, 2.0)])
def test_scale_and_crop(scale: tuple[float, float]) -> None:
    """A ramp tells how far it was stretched, and the target whether it moved along; labels are never mixed."""
    ramp = torch.linspace(0, 1, 32).expand(24, 32)
    sample = {"inputs": {"rgb": ramp[None].clone()}, "target": (ramp * 1000).long()}
    for seed in range(10):
        out = RandomScaleCrop((24, 32), scale)(sample, _rng(seed))
        image, target = out["inputs"]["rgb"][0], out["target"]
        assert image.shape == target.shape == (24, 32)
        assert set(target.unique().tolist()) <= {*sample["target"].unique().tolist(), 255}
        inside = out["target"] != 255
        assert (image - target / 1000)[inside].abs().max() < 0.04
        step = (image[0, 10] - image[0, 5]).item() / 5
        assert 0.9 / scale[1] < step * 31 < 1.1 / scale[0]
        assert inside.all() or scale[0] < 1


def test_padding_of_a_small_picture_is_void() -> None:
    out = RandomScaleCrop((24, 32), (0.5, 0.5))(_sample(12, 16), _rng(0))
    assert out["target"][:12, :16].ne(255).any()
    for part in (out["target"][12:], out["target"][:, 16:]):
        assert part.eq(255).all()
    assert out["inputs"]["dolp"][:, 12:].eq(0).all()


def test_scale_one_at_the_same_size_is_the_identity() -> None:
    out = RandomScaleCrop((12, 16), (1.0, 1.0))(_sample(), _rng(3))
    assert torch.equal(out["target"], _sample()["target"])
    assert torch.equal(out["inputs"]["rgb"], _sample()["inputs"]["rgb"])


def test_the_shorter_side_counts_whatever_the_shape_of_the_picture() -> None:
    """As in the recipe of MCubeS: 1024 x 1032 to a shorter side of 512 before 512 x 512 are cut out."""
    sample = _picture(64, 80)
    out = RandomScaleCrop((32, 32), (1.0, 1.0))(sample, _rng(0))
    assert out["target"].shape == (32, 32)
    assert out["target"].eq(0).all()  # nothing padded


@pytest.mark.parametrize(("std", "kernel_size"), [(0.8, 3), (1.5, 7), (0.5, 5)])
def test_blur_is_that_of_torchvision(std: float, kernel_size: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    sample = _picture()
    out = GaussianBlur(["rgb", "nir"], (std, std), kernel_size, p=1.0)(sample, _rng(0))
    for name in ("rgb", "nir"):
        expected = functional.gaussian_blur(sample["inputs"][name], [kernel_size] * 2, [std] * 2)
        assert torch.allclose(out["inputs"][name], expected, atol=1e-6)
    assert torch.equal(out["inputs"]["dolp"], sample["inputs"]["dolp"])
    assert torch.equal(out["target"], sample["target"])


def test_blur_keeps_the_mean_and_takes_its_width_from_the_standard_deviation() -> None:
    impulse = torch.zeros(1, 41, 41)
    impulse[0, 20, 20] = 1
    sample = {"inputs": {"rgb": impulse}, "target": torch.zeros(41, 41, dtype=torch.long)}
    for std in (1.0, 2.0):  # narrower ones are too coarsely sampled
        out = GaussianBlur(["rgb"], (std, std), p=1.0)(sample, _rng(0))["inputs"]["rgb"][0]
        assert math.isclose(out.sum(), 1, rel_tol=1e-5)
        spread = (out.sum(0) * (torch.arange(41) - 20) ** 2).sum().sqrt().item()
        assert math.isclose(spread, std, rel_tol=0.02)
    tiny = {"inputs": {"rgb": torch.rand(1, 2, 2)}, "target": torch.zeros(2, 2, dtype=torch.long)}
    assert GaussianBlur(["rgb"], (3.0, 3.0), p=1.0)(tiny, _rng(0))["inputs"]["rgb"].shape == (1, 2, 2)


@pytest.mark.parametrize("seed", range(5))
def test_colours_are_those_of_torchvision(seed: int) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    sample = _picture()
    raw = sample["inputs"]["rgb"]
    sample["inputs"]["rgb"] = (raw - MEAN) / STD
    out = ColorJitter(["rgb"], p=1.0)(sample, _rng(seed))["inputs"]["rgb"] * STD + MEAN
    brightness, contrast, saturation = _rng(seed).uniform(0.5, 1.5, 3)
    expected = functional.adjust_brightness(raw, brightness)
    expected = functional.adjust_contrast(expected, contrast)
    expected = functional.adjust_saturation(expected, saturation)
    assert torch.allclose(out, expected, atol=1e-5)


def test_colours_leave_other_modalities_alone_and_can_do_nothing() -> None:
    sample = _picture()
    out = ColorJitter(["rgb"], p=1.0)(sample, _rng(0))
    assert torch.equal(out["inputs"]["nir"], sample["inputs"]["nir"])
    same = ColorJitter(["rgb"], 0, 0, 0, p=1.0, mean=(0, 0, 0), std=(1, 1, 1))(sample, _rng(0))
    assert torch.allclose(same["inputs"]["rgb"], sample["inputs"]["rgb"], atol=1e-6)
    changed = [not torch.equal(ColorJitter(["rgb"])(sample, _rng(seed))["inputs"]["rgb"], sample["inputs"]["rgb"])
               for seed in range(200)]  # fmt: skip
    assert 20 < sum(changed) < 65


def test_one_key_one_result_and_what_is_absent_changes_nothing() -> None:
    augment = Compose(
        [
            ColorJitter(["rgb"], p=0.5),
            HorizontalFlip(),
            GaussianBlur(["rgb", "nir"], p=0.5),
            RandomScaleCrop((8, 8)),
        ]
    )
    seen = set()
    for seed in range(10):
        one, again = augment(_picture(), _rng(seed)), augment(_picture(), _rng(seed))
        assert all(torch.equal(value, again["inputs"][name]) for name, value in one["inputs"].items())
        lacking = _picture()
        lacking["inputs"]["nir"] = None
        del lacking["inputs"]["dolp"]
        assert torch.equal(augment(lacking, _rng(seed))["inputs"]["rgb"], one["inputs"]["rgb"])
        seen.add(tuple(one["inputs"]["rgb"].flatten().tolist()))
    assert len(seen) == 10


def test_errors() -> None:
    for make, message in [
        (lambda: HorizontalFlip(1.5), r"HorizontalFlip: p must be between 0 and 1, got 1.5"),
        (lambda: RandomCrop((0, 4)), r"RandomCrop: size must be a positive height and width, got \(0, 4\)"),
        (lambda: RandomScaleCrop((4, 4), (2.0, 1.0)), "scale must be an ascending pair above 0"),
        (lambda: GaussianBlur(["rgb"], (-1.0, 1.0)), "std must be an ascending pair of at least 0"),
        (lambda: GaussianBlur(["rgb"], kernel_size=4), "kernel_size must be a positive odd number, got 4"),
        (lambda: ColorJitter(["rgb"], contrast=2.0), r"contrast must be between 0 and 1, got 2.0"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            make()
    with pytest.raises(LightningMMError, match=r"dolp should be \[3, H, W\], red, green, blue"):
        ColorJitter(["dolp"], p=1.0)(_sample(), _rng(0))
    for augment in (HorizontalFlip(), RandomCrop((4, 4)), RandomScaleCrop((4, 4)), GaussianBlur(["rgb"])):
        with pytest.raises(LightningMMError, match="one height and width"):
            augment({"inputs": {"a": torch.ones(1, 4, 4)}, "target": torch.ones(2, 2)}, _rng(0))


@pytest.mark.parametrize(("family", "size"), [("mfnet", (480, 640)), ("nyudv2", (480, 640)), ("mcubes", (512, 512))])
def test_the_augmentations_of_the_experiments(family: str, size: tuple[int, int]) -> None:
    """As configs name them, on one sample of each set's modalities."""
    data = yaml.safe_load((REPOSITORY / "experiments" / family / "base.yaml").read_text())["data"]
    parser = ArgumentParser()
    parser.add_argument("--augment", type=Augmentation)
    augment = parser.instantiate_classes(parser.parse_object({"augment": data["augment"]})).augment
    images = {name: torch.rand(3, 48, 70) for name in data["modalities"]}
    out = augment({"inputs": images, "target": torch.zeros(48, 70, dtype=torch.long)}, _rng(0))
    assert {tuple(value.shape) for value in out["inputs"].values()} == {(3, *size)}
    assert out["target"].shape == size
