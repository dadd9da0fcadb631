"""Augmentations of clips: all frames and both streams move together, and only the generator decides how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lightning_mm.data import Augmentation, Compose, CropClips, Dihedral, FlipClips, ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError

BOTH = Compose([CropClips(8, (0.5, 1.0)), FlipClips()])


def _sample(height: int = 10, width: int = 12) -> dict[str, Any]:
    """All frames of both streams show one picture, depth in negative, so that it can be read off if they agree."""
    picture = torch.arange(height * width).view(height, width).float()
    inputs = {"rgb": picture.repeat(3, 4, 1, 1), "depth": -picture.repeat(3, 6, 1, 1), "flow": None}
    return {"inputs": inputs, "target": 7, "extra": "kept"}


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("augment", [FlipClips(), CropClips(8), CropClips(9, (0.3, 0.6)), BOTH])
@pytest.mark.parametrize("seed", range(4))
def test_frames_and_streams_move_together(augment: Augmentation, seed: int) -> None:
    sample = _sample()
    out = augment(sample, _rng(seed))
    assert (out["target"], out["extra"], out["inputs"]["flow"]) == (7, "kept", None)
    picture = out["inputs"]["rgb"][0, 0]
    torch.testing.assert_close(out["inputs"]["rgb"], picture.expand_as(out["inputs"]["rgb"]))
    torch.testing.assert_close(out["inputs"]["depth"], -picture.expand_as(out["inputs"]["depth"]))
    assert torch.equal(sample["inputs"]["rgb"], _sample()["inputs"]["rgb"]), "not changed in place"


def test_what_is_absent_does_not_move_the_others() -> None:
    for seed in range(8):
        whole, part = _sample(), _sample()
        part["inputs"]["rgb"] = None
        assert torch.equal(BOTH(whole, _rng(seed))["inputs"]["depth"], BOTH(part, _rng(seed))["inputs"]["depth"])


def test_flip_is_left_to_right_and_half_of_the_time() -> None:
    original = _sample()["inputs"]["rgb"]
    flipped = [FlipClips()(_sample(), _rng(seed))["inputs"]["rgb"] for seed in range(60)]
    assert all(torch.equal(clip, original) or torch.equal(clip, original.flip(-1)) for clip in flipped)
    assert 15 < sum(torch.equal(clip, original) for clip in flipped) < 45
    assert torch.equal(FlipClips(0.0)(_sample(), _rng(0))["inputs"]["rgb"], original)
    assert torch.equal(FlipClips(1.0)(_sample(), _rng(0))["inputs"]["rgb"], original.flip(-1))


def test_a_crop_of_its_own_size_is_a_window_and_others_are_resized() -> None:
    original = _sample()["inputs"]["rgb"][0, 0]
    windows = original.unfold(0, 10, 1).unfold(1, 10, 1)[0]
    found = {
        next(
            left
            for left, window in enumerate(windows)
            if torch.equal(CropClips(10, (1.0, 1.0))(_sample(), _rng(seed))["inputs"]["rgb"][0, 0], window)
        )
        for seed in range(20)
    }
    assert found == {0, 1, 2}
    ramp = {"inputs": {"a": torch.linspace(0, 1, 16).expand(1, 2, 16, 16).clone()}, "target": 0}
    for size in (4, 11):
        for seed in range(10):
            out = CropClips(size, (0.5, 0.75))(ramp, _rng(seed))["inputs"]["a"]
            assert out.shape == (1, 2, size, size)
            assert 0.2 < (out[..., -1] - out[..., 0]).mean() < 0.8, "half to three quarters were kept"


class Clips(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _sample()


def test_the_key_alone_decides() -> None:
    def read(seed: int, epoch: int) -> list[torch.Tensor]:
        data = ModalityDropoutDataModule(lambda split: Clips(), ["rgb", "depth"], augment=BOTH, batch_size=3, seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batch = next(iter(loader))
        return [batch["inputs"]["rgb"][row] for row in batch["index"].argsort().tolist()]

    assert all(map(torch.equal, read(0, 0), read(0, 0)))
    assert not all(map(torch.equal, read(0, 0), read(0, 1)))
    assert not all(map(torch.equal, read(0, 0), read(1, 0)))
    assert repr(BOTH) == "Compose(augmentations=[CropClips(size=8, scale=(0.5, 1.0)), FlipClips(p=0.5)])"


def test_mistakes_are_named() -> None:
    with pytest.raises(LightningMMError, match="FlipClips: p must be between 0 and 1, got 2"):
        FlipClips(2)
    with pytest.raises(LightningMMError, match="CropClips: size must be a whole number of at least 1, got 0"):
        CropClips(0)
    for scale in [(0.0, 1.0), (0.9, 0.5), (0.5, 1.5)]:
        with pytest.raises(LightningMMError, match="CropClips: scale must be an ascending pair"):
            CropClips(4, scale)
    for value, message in [
        (
            torch.zeros(3, 8, 8),
            r"a: this augmentation takes clips, Float\[C, T, H, W\], got torch\.float32 \(3, 8, 8\)",
        ),
        (torch.zeros(3, 2, 8, 8).int(), "a: this augmentation takes clips, .* got torch.int32"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            BOTH({"inputs": {"a": value}, "target": 0}, _rng(0))
    sizes = {"inputs": {"a": torch.zeros(3, 2, 8, 8), "b": torch.zeros(3, 2, 8, 9)}, "target": 0}
    with pytest.raises(LightningMMError, match="clips must have one height and width"):
        BOTH(sizes, _rng(0))
    with pytest.raises(LightningMMError, match=r"takes inputs \[C, H, W\] and a target \[H, W\], got \(3, 2, 8, 8\)"):
        Dihedral()({"inputs": {"a": torch.zeros(3, 2, 8, 8)}, "target": torch.zeros(8, 8)}, _rng(0))
