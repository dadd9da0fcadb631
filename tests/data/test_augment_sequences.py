"""Augmentations of sequences: form, types and lengths stay right, nothing changes in place, the generator decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lightning_mm.data import Augmentation, Collate, Compose, JitterSequences, ModalityDropoutDataModule, WarpSequences
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities

BOTH = Compose([JitterSequences(0.1, (0.5, 2.0)), WarpSequences((0.4, 1.0), (0.5, 2.0))])
CASES = [JitterSequences(0.1), WarpSequences((0.4, 0.9), (0.5, 2.0)), BOTH]


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _ramp(steps: int, channels: int = 2) -> torch.Tensor:
    """Every step tells its place on the time axis, 0 to 1."""
    return torch.linspace(0, 1, steps)[:, None].repeat(1, channels)


def _sample() -> dict[str, Any]:
    inputs = {
        "long": {"values": _ramp(40), "length": 40},
        "absent": None,
        "fixed": _ramp(16, 3).double(),
        "half": {"values": _ramp(20).half(), "length": torch.tensor(20)},
    }
    return {"inputs": inputs, "target": 3, "extra": "kept"}


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


@pytest.mark.parametrize("augment", CASES, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_form_types_and_lengths_stay_right_and_nothing_changes_in_place(augment: Augmentation, seed: int) -> None:
    sample, untouched = _sample(), _sample()
    out = augment(sample, _rng(seed))
    assert _equal(sample, untouched)
    assert (out["target"], out["extra"]) == (3, "kept")
    assert list(out["inputs"]) == list(sample["inputs"])
    assert out["inputs"]["absent"] is None
    assert out["inputs"]["fixed"].shape == (16, 3)
    assert out["inputs"]["fixed"].dtype == torch.float64
    for name, kind, dtype in (("long", int, torch.float32), ("half", torch.Tensor, torch.float16)):
        value = out["inputs"][name]
        assert list(value) == ["values", "length"]
        assert type(value["length"]) is kind
        assert value["values"].shape == (int(value["length"]), 2)
        assert value["values"].dtype == dtype
        assert value["values"].isfinite().all()
    assert out["inputs"]["half"]["length"].dtype == torch.int64
    assert not torch.equal(out["inputs"]["fixed"], sample["inputs"]["fixed"])


@pytest.mark.parametrize("augment", CASES, ids=repr)
def test_the_generator_alone_decides(augment: Augmentation) -> None:
    assert _equal(augment(_sample(), _rng(1)), augment(_sample(), _rng(1)))
    seen = [augment(_sample(), _rng(seed))["inputs"]["fixed"] for seed in range(6)]
    assert not any(torch.equal(first, second) for i, first in enumerate(seen) for second in seen[:i])


@pytest.mark.parametrize("augment", CASES, ids=repr)
def test_what_a_modality_gets_does_not_depend_on_the_others_being_observed(augment: Augmentation) -> None:
    whole, part = _sample(), _sample()
    part["inputs"]["long"] = None
    first, second = augment(whole, _rng(2)), augment(part, _rng(2))
    assert all(_equal(first["inputs"][name], second["inputs"][name]) for name in ("fixed", "half"))


def test_jitter_is_a_factor_and_noise_of_the_given_size() -> None:
    sample = {"inputs": {"a": torch.ones(4000, 2), "b": torch.ones(4000, 2)}, "target": 0}
    factors = []
    for seed in range(20):
        out = JitterSequences(0.2, (0.5, 1.5))(sample, _rng(seed))["inputs"]
        assert all(0.19 < value.std() < 0.21 for value in out.values())
        factors += [value.mean().item() for value in out.values()]
        assert not torch.allclose(out["a"] - out["a"].mean(), out["b"] - out["b"].mean())
    assert 0.49 < min(factors) < 0.7
    assert 1.3 < max(factors) < 1.51
    noiseless = JitterSequences(0.0, (0.5, 1.5))(sample, _rng(0))["inputs"]["a"]
    assert (noiseless == noiseless[0, 0]).all()


@pytest.mark.parametrize("augment", [JitterSequences(0.0, (1.0, 1.0)), WarpSequences((1.0, 1.0), (1.0, 1.0))], ids=repr)
def test_switched_off_it_is_the_identity(augment: Augmentation) -> None:
    sample = _sample()
    assert _equal(augment(sample, _rng(0)), sample)


def test_warping_keeps_one_stretch_for_all_modalities_evenly_sampled() -> None:
    lengths = set()
    for seed in range(30):
        out = WarpSequences((0.5, 0.8), (0.5, 2.0))(_sample(), _rng(seed))["inputs"]
        place = {"long": out["long"]["values"], "fixed": out["fixed"], "half": out["half"]["values"]}
        ends = [(values[0, 0].item(), values[-1, 0].item()) for values in place.values()]
        assert np.ptp(ends, axis=0).max() < 2e-3  # half precision
        start, end = ends[1]
        assert 0 <= start < end <= 1
        assert 0.5 - 1e-6 <= end - start <= 0.8 + 1e-6
        steps = place["fixed"][:, 0].diff()
        assert torch.allclose(steps, steps.mean().expand(15))
        lengths.add(out["long"]["length"])
        assert 40 * (end - start) / 2 - 1 <= out["long"]["length"] <= 40 * (end - start) * 2 + 1
    assert len(lengths) > 10


def test_speed_alone_changes_the_length_and_keeps_both_ends() -> None:
    for speed, length in ((2.0, 20), (0.5, 80), (1.0, 40), (1000.0, 1)):
        value = WarpSequences((1.0, 1.0), (speed, speed))(_sample(), _rng(0))["inputs"]["long"]
        assert value["length"] == length
        if length > 1:
            assert torch.allclose(value["values"], _ramp(length), atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_very_short_sequences(steps: int) -> None:
    inputs = {"a": _ramp(steps), "b": {"values": _ramp(steps), "length": steps}}
    out = BOTH({"inputs": inputs, "target": 0}, _rng(0))["inputs"]
    assert out["a"].shape == (steps, 2)
    assert out["b"]["length"] == len(out["b"]["values"])
    assert (out["b"]["length"] > 0) == (steps > 0)


class Ramps(Dataset[dict[str, Any]]):
    """Sequences of several lengths; modality ``b`` has one length and is absent from the last."""

    lengths = (7, 12, 9, 5)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        length = self.lengths[index]
        inputs = {"a": {"values": _ramp(length), "length": length}, "b": None if index == 3 else _ramp(6, 3)}
        return {"inputs": inputs, "target": 0}


def test_augmented_sequences_are_padded_and_loaded() -> None:
    dataset = Ramps()
    batch = Collate(Modalities(["a", "b"]))([BOTH(dataset[i], _rng(i)) for i in range(4)])
    assert batch["inputs"]["a"]["values"].shape == (4, batch["inputs"]["a"]["length"].max(), 2)
    data = ModalityDropoutDataModule(lambda split: dataset, ["a", "b"], augment=BOTH, batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert batch["inputs"]["b"].shape == (4, 6, 3)
    assert next(iter(data.val_dataloader()))["inputs"]["a"]["length"].tolist() == [
        7,
        12,
        9,
        5,
    ]  # training alone is augmented


@pytest.mark.parametrize("augment", [JitterSequences(), WarpSequences()], ids=repr)
def test_inputs_that_are_not_sequences(augment: Augmentation) -> None:
    cases: list[tuple[Any, str]] = [
        (torch.ones(3, 8, 8), r"a: this augmentation takes sequences, .* got torch.float32 \(3, 8, 8\); for images"),
        (torch.ones(5), r"got torch.float32 \(5,\)"),
        (torch.ones(5, 2, dtype=torch.int64), r"got torch.int64 \(5, 2\)"),
        (np.ones((5, 2)), "got ndarray"),
        ({"values": [1.0], "length": 1}, "got list"),
        ({"values": torch.ones(5, 2), "length": 4}, "a: length is 4, but there are 5 steps; give sequences before"),
        ({"values": torch.ones(5, 2)}, r"got keys \['values'\]"),
        ({"values": torch.ones(5, 2), "length": 5, "mask": torch.ones(5)}, r"got keys \['length', 'mask', 'values'\]"),
    ]
    for value, message in cases:
        with pytest.raises(LightningMMError, match=message):
            augment({"inputs": {"a": value}, "target": 0}, _rng(0))


def test_bad_settings() -> None:
    for std in (-0.1, float("nan"), float("inf")):
        with pytest.raises(LightningMMError, match="JitterSequences: std must be 0 or more and finite, got"):
            JitterSequences(std)
    for scale in [(1.1, 0.9), (-1.0, 1.0), (0.0, float("inf"))]:
        with pytest.raises(LightningMMError, match="JitterSequences: scale must be an ascending pair of at least 0"):
            JitterSequences(0.1, scale)
    for keep in [(0.9, 0.5), (0.0, 1.0), (0.5, 1.5)]:
        with pytest.raises(LightningMMError, match="WarpSequences: keep must be an ascending pair"):
            WarpSequences(keep)
    with pytest.raises(LightningMMError, match="WarpSequences: speed must be an ascending pair above 0"):
        WarpSequences(speed=(0.0, 1.0))
    assert repr(JitterSequences(0.1, (1.0, 2.0))) == "JitterSequences(std=0.1, scale=(1.0, 2.0))"
