"""Corruptions: severity 0 is the input, more severity is more damage, and only what may be damaged is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import Blur, Corruption, DroppedFrames, GaussianNoise, MissingPixels, Occlusion, RandomCorruption
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import leaves_of

IMAGE = torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(0))
SEQUENCE = {"values": torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), "length": 40}
TEXT = {"input_ids": torch.tensor([101, *range(7, 27), 102, 0, 0]), "attention_mask": torch.tensor([1] * 22 + [0] * 2)}
CASES: list[tuple[Corruption, Any]] = [
    *((kind(), value) for kind in (GaussianNoise, Blur, Occlusion, MissingPixels) for value in (IMAGE, SEQUENCE)),
    (DroppedFrames(), SEQUENCE),
    (DroppedFrames(), SEQUENCE["values"]),
    (DroppedFrames(), TEXT),
    (DroppedFrames(axis=-1), IMAGE),
]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(one: Any, other: Any) -> bool:
    """Whether two nests hold the same bits."""
    return [(path, torch.as_tensor(leaf).tolist()) for path, leaf in leaves_of(one)] == [
        (path, torch.as_tensor(leaf).tolist()) for path, leaf in leaves_of(other)
    ]


def distance(value: Any, damaged: Any) -> float:
    """How far a damaged input is from the clean one; for dropped frames how many are gone."""
    if isinstance(value, dict) and len(damaged["length"] if "length" not in damaged else damaged["values"]) < 40:
        return 40.0 - len(damaged["values"])
    clean, other = (nest["values"] if isinstance(nest, dict) else nest for nest in (value, damaged))
    return float((clean - other).abs().sum())


@pytest.mark.parametrize(("corruption", "value"), CASES, ids=lambda one: getattr(one, "name", ""))
def test_severity_zero_is_the_input_and_five_draws_repeat(corruption: Corruption, value: Any) -> None:
    before = [torch.as_tensor(leaf).clone() for _, leaf in leaves_of(value)]
    assert corruption.at(0)(value, rng()) is value
    for severity in range(1, 6):
        one, other = (corruption.at(severity)(value, rng()) for _ in range(2))
        assert same(one, other)
        assert not same(one, value)
    assert corruption(None, rng()) is None
    assert all(torch.equal(a, torch.as_tensor(b)) for a, (_, b) in zip(before, leaves_of(value))), "changed in place"


@pytest.mark.parametrize(("corruption", "value"), [case for case in CASES if case[1] is not TEXT])
def test_each_severity_is_worse(corruption: Corruption, value: Any) -> None:
    found = [distance(value, corruption.at(severity)(value, rng())) for severity in range(1, 6)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_realised_amounts() -> None:
    big = torch.ones(2, 200, 200)
    assert GaussianNoise(4)(big, rng()).std() == pytest.approx(1.15, rel=0.02)
    missing = MissingPixels(2)(big, rng()) == 0
    assert torch.equal(missing[0], missing[1])
    assert missing.float().mean() == pytest.approx(0.3, abs=4 * (0.21 / 40_000) ** 0.5)
    for severity, share in zip(range(1, 6), Occlusion.amounts):
        assert (Occlusion(severity)(big, rng()) == 0).float().mean() == pytest.approx(share, abs=0.01)
    starts = {int((Occlusion(3)(torch.ones(10, 1), rng(seed)) == 0).nonzero()[0, 0]) for seed in range(200)}
    assert starts == set(range(7)), "every place of a box of 4 in 10"


def test_blur_is_a_weighted_mean_of_neighbours() -> None:
    """Against sums written out, for each axis a matrix; beyond the border the last place counts again."""

    def matrix(size: int) -> torch.Tensor:
        std = 0.03 * size
        found = torch.zeros(size, size, dtype=torch.float64)
        for place in range(size):
            for offset in range(-20, 21):
                found[place, min(max(place + offset, 0), size - 1)] += math.exp(-0.5 * (offset / std) ** 2)
        return found / found.sum(1, keepdim=True)

    rows, columns = matrix(16), matrix(20)
    torch.testing.assert_close(Blur(3)(IMAGE, rng()).double(), rows @ IMAGE.double() @ columns.T, atol=1e-3, rtol=0)
    steps = SEQUENCE["values"].double()
    torch.testing.assert_close(Blur(3)(SEQUENCE, rng())["values"].double(), matrix(40) @ steps, atol=1e-3, rtol=0)


def test_masks_lengths_and_padding_stay() -> None:
    padded = {
        "values": torch.ones(10, 3),
        "length": torch.tensor(6),
        "frame_mask": torch.ones(10),
        "id": torch.arange(10),
    }
    for corruption in (GaussianNoise(5), MissingPixels(5), Occlusion(5)):
        out = corruption(padded, rng())
        assert not torch.equal(out["values"][:6], padded["values"][:6])
        assert torch.equal(out["values"][6:], padded["values"][6:])
        assert all(torch.equal(out[key], padded[key]) for key in ("length", "frame_mask", "id"))


def test_dropped_frames_of_a_sequence_are_gone_and_the_rest_keeps_its_order() -> None:
    steps = torch.arange(40.0)[:, None]
    value = {"values": steps, "ids": torch.arange(40), "length": np.int64(40), "level": torch.ones(3)}
    out = DroppedFrames(3)(value, rng())
    assert out["length"] == len(out["values"]) == len(out["ids"]) < 40
    assert isinstance(out["length"], np.int64)
    assert torch.equal(out["values"][:, 0].long(), out["ids"])
    assert out["ids"].tolist() == sorted(set(out["ids"].tolist()))
    assert torch.equal(out["level"], value["level"])
    least = DroppedFrames(5, [1.0] * 5)
    assert least({"values": steps, "length": 40}, rng())["length"] == 1
    padded = least({"values": steps, "length": torch.tensor(7)}, rng())
    assert padded["values"].shape == (40, 1)
    assert padded["length"] == 1
    assert padded["values"][1:].eq(0).all()
    assert (DroppedFrames(5, [1.0] * 5)(steps + 1, rng()) != 0).sum() == 1


def test_dropped_tokens_move_up_and_their_mask_is_zero() -> None:
    out = DroppedFrames(3)(TEXT, rng())
    ids, mask = out["input_ids"], out["attention_mask"]
    left = int(mask.sum())
    assert 2 < left < 22
    assert mask.tolist() == [1] * left + [0] * (24 - left)
    assert ids[0] == 101
    assert ids[left - 1] == 102
    assert ids[left:].eq(0).all()
    assert ids[1 : left - 1].tolist() == sorted(set(ids[1 : left - 1].tolist()))
    assert DroppedFrames(5, [1.0] * 5)(TEXT, rng())["input_ids"][:3].tolist() == [101, 102, 0]
    nested = DroppedFrames(3)({"title": TEXT, "body": [TEXT]}, rng())
    assert same(nested["title"], out)
    assert not same(nested["body"][0], out)


def test_random_corruption_draws_among_all() -> None:
    corrupt = RandomCorruption([MissingPixels(), GaussianNoise()], p=0.5, severities=[1, 5])
    assert [repr(one) for one in corrupt.choices] == [
        "MissingPixels(severity=1)", "MissingPixels(severity=5)",
        "GaussianNoise(severity=1)", "GaussianNoise(severity=5)",
    ]  # fmt: skip
    out = [corrupt(IMAGE, rng(seed)) for seed in range(400)]
    untouched = sum(one is IMAGE for one in out)
    assert abs(untouched - 200) < 4 * 10
    assert abs(sum(bool((one == 0).any()) for one in out) - 100) < 4 * 9
    assert RandomCorruption([Blur()], p=0.0)(IMAGE, rng()) is IMAGE


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: GaussianNoise(6), r"GaussianNoise: severity must be 0 \(clean\) to 5, got 6"),
        (lambda: Blur(-1), "Blur: severity must be a whole number of at least 0"),
        (lambda: Occlusion(1, [5, 10, 20, 40, 80]), "Occlusion: amounts must be shares of at most 1, got"),
        (lambda: MissingPixels(1, [0, 0, 0, 0, 1.5]), "MissingPixels: amounts must be shares of at most 1, got"),
        (lambda: DroppedFrames(1, [0, 0, 0, 0, 1.5]), "DroppedFrames: amounts must be shares of at most 1, got"),
        (lambda: Blur(1, [1.0]), "Blur: amounts must be five finite numbers of 0 or more"),
        (lambda: RandomCorruption([]), "expected one or more corruptions"),
        (lambda: RandomCorruption([Blur()], p=2), "p must be between 0 and 1"),
        (lambda: GaussianNoise()(TEXT, rng()), r"got \['torch.int64 \(24,\)', .*there is DroppedFrames"),
        (lambda: Blur()(torch.ones(3), rng()), r"with 2 or more axes, got \['torch.float32 \(3,\)'\]"),
        (lambda: DroppedFrames()(IMAGE, rng()), r"got torch.float32 \(3, 16, 20\).* give the axis of time"),
        (lambda: DroppedFrames()("text", rng()), "DroppedFrames takes .* got str"),
    ],
)
def test_mistakes_are_explained(wrong: Any, text: str) -> None:
    with pytest.raises(LightningMMError, match=text):
        wrong()


@pytest.mark.parametrize("kind", [GaussianNoise, Blur, Occlusion, MissingPixels, DroppedFrames])
@pytest.mark.parametrize("padded", [0, 4])
def test_a_sequence_without_steps_stays(kind: type[Corruption], padded: int) -> None:
    value = {"values": torch.zeros(padded, 3), "length": 0}
    out = kind(5)(value, rng())
    assert out["length"] == 0
    assert torch.equal(out["values"], value["values"])
