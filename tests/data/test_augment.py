"""Augmentations: inputs and target move together, and only the generator decides how."""

import numpy as np
import pytest
import torch

from lightning_mm.data import Augmentation, Compose, Dihedral, RandomCropResize
from lightning_mm.errors import LightningMMError


def _sample(height: int = 8, width: int = 8) -> dict:
    """Every input shows the target, so that it can be read off whether they still agree."""
    target = torch.arange(height * width).view(height, width)
    inputs = {"a": target[None].float().repeat(3, 1, 1), "b": None, "c": -target[None].float()}
    return {"inputs": inputs, "target": target, "extra": "kept"}


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("augment", [Dihedral(), RandomCropResize(8, (0.99, 1.0)), Compose([Dihedral(), Dihedral()])])
@pytest.mark.parametrize("seed", range(8))
def test_inputs_and_target_stay_aligned(augment: Augmentation, seed: int) -> None:
    sample = _sample()
    out = augment(sample, _rng(seed))
    assert out["inputs"]["b"] is None
    assert out["extra"] == "kept"
    for channel in (*out["inputs"]["a"], -out["inputs"]["c"][0]):
        assert torch.equal(channel.round().long(), out["target"])
    assert torch.equal(sample["target"], _sample()["target"])  # not changed in place


def test_dihedral_reaches_all_eight_and_nothing_else() -> None:
    target = _sample()["target"]
    turned = [torch.rot90(flipped, k) for flipped in (target, target.flip(1)) for k in range(4)]
    expected = {tuple(image.flatten().tolist()) for image in turned}
    seen = {tuple(Dihedral()(_sample(), _rng(seed))["target"].flatten().tolist()) for seed in range(100)}
    assert seen == expected


def test_dihedral_keeps_the_shape_of_oblong_images() -> None:
    targets = [Dihedral()(_sample(4, 6), _rng(seed))["target"] for seed in range(40)]
    assert {tuple(target.shape) for target in targets} == {(4, 6)}
    assert len({tuple(target.flatten().tolist()) for target in targets}) == 4


@pytest.mark.parametrize("size", [4, 11])
def test_crop_resize(size: int) -> None:
    augment = RandomCropResize(size, (0.5, 0.75))
    ramp = torch.linspace(0, 1, 16).expand(16, 16)
    sample = {"inputs": {"a": ramp[None].clone()}, "target": (ramp * 1000).long()}
    for seed in range(20):
        out = augment(sample, _rng(seed))
        image, target = out["inputs"]["a"][0], out["target"]
        assert image.shape == target.shape == (size, size)
        assert set(target.unique().tolist()) <= set(sample["target"].unique().tolist())  # labels are never mixed
        assert (image - target / 1000).abs().max() < 0.08  # one place in both
        spread = (image[0, -1] - image[0, 0]).item()
        assert 0.25 < spread < 0.78  # half to three quarters were kept


def test_full_crop_at_the_same_size_is_the_identity() -> None:
    sample = _sample()
    out = RandomCropResize(8, (1.0, 1.0))(sample, _rng(0))
    assert torch.equal(out["inputs"]["a"], sample["inputs"]["a"])
    assert torch.equal(out["target"], sample["target"])


def test_the_generator_alone_decides() -> None:
    augment = Compose([RandomCropResize(8, (0.5, 1.0)), Dihedral()])
    assert torch.equal(augment(_sample(), _rng(1))["target"], augment(_sample(), _rng(1))["target"])
    assert len({tuple(augment(_sample(), _rng(s))["target"].flatten().tolist()) for s in range(10)}) > 5
    assert repr(augment) == "Compose(augmentations=[RandomCropResize(size=8, scale=(0.5, 1.0)), Dihedral()])"


def test_errors() -> None:
    with pytest.raises(LightningMMError, match="size must be a whole number of at least 1, got 0"):
        RandomCropResize(0)
    for scale in [(0.0, 1.0), (0.9, 0.5), (0.5, 1.5)]:
        with pytest.raises(LightningMMError, match="ascending pair"):
            RandomCropResize(4, scale)
    with pytest.raises(LightningMMError, match=r"takes inputs \[C, H, W\] and a target \[H, W\], got \(5,\)"):
        Dihedral()({"inputs": {"a": torch.ones(5)}, "target": torch.ones(2, 2)}, _rng(0))
    with pytest.raises(LightningMMError, match="one height and width"):
        Dihedral()({"inputs": {"a": torch.ones(1, 4, 4)}, "target": torch.ones(2, 2)}, _rng(0))
    with pytest.raises(LightningMMError, match="target: this augmentation takes"):
        Dihedral()({"inputs": {"a": torch.ones(1, 4, 4)}, "target": 3}, _rng(0))
