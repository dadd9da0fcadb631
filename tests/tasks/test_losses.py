"""Losses against loops written here, torch, and the official numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightning_mm.tasks.losses import CrossEntropyLoss, DiceLoss, OhemCrossEntropyLoss

WEIGHT = [0.5, 1.0, 2.0]


def sample(ignored: float = 0.2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(3, (2, 4, 5), generator=generator)
    target[torch.rand(2, 4, 5, generator=generator) < ignored] = 255
    return logits, target


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_is_that_of_torch(weight: list[float] | None) -> None:
    logits, target = sample()
    expected = F.cross_entropy(logits, target, None if weight is None else torch.tensor(weight), ignore_index=255)
    torch.testing.assert_close(CrossEntropyLoss(255, weight)(logits, target), expected)


@pytest.mark.parametrize(("per_sample", "skip_absent"), [(True, True), (True, False), (False, True), (False, False)])
def test_dice_against_a_slow_loop(per_sample: bool, skip_absent: bool) -> None:
    logits, target = sample()
    target[0][target[0] == 2] = 1  # class 2 is absent from the first sample
    probability = logits.softmax(1)
    groups = [[0], [1]] if per_sample else [[0, 1]]
    losses = []
    for group in groups:
        for label in range(3):
            hit = size = 0.0
            for b in group:
                for y in range(4):
                    for x in range(5):
                        if target[b, y, x] != 255:
                            truth = float(target[b, y, x] == label)
                            hit += truth * probability[b, label, y, x].item()
                            size += truth + probability[b, label, y, x].item()
            if (target[group] == label).any() or not skip_absent:
                losses.append(1 - 2 * hit / size)
    loss = DiceLoss(255, per_sample, skip_absent, smooth=1e-9)(logits, target)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_ohem_against_a_sort(share: float) -> None:
    logits, target = sample()
    valid = target != 255
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none")[valid].sort(descending=True).values
    hard = int((losses > -np.log(0.3)).sum())
    kept = max(hard, int(share * len(losses)))
    loss = OhemCrossEntropyLoss(threshold=0.3, min_kept=share)(logits, target)
    torch.testing.assert_close(loss, losses[:kept].mean())


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), DiceLoss(), DiceLoss(per_sample=True), OhemCrossEntropyLoss()])
def test_ignored_pixels_have_no_say(loss: torch.nn.Module) -> None:
    logits, target = sample()
    other = torch.where((target == 255)[:, None], 50.0, logits).requires_grad_()
    torch.testing.assert_close(loss(other, target), loss(logits, target))
    loss(other, target).backward()
    assert other.grad is not None
    assert (other.grad.movedim(1, -1)[target == 255] == 0).all()


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(),
        CrossEntropyLoss(weight=WEIGHT),
        DiceLoss(),
        DiceLoss(skip_absent=False),
        OhemCrossEntropyLoss(),
    ],
)
def test_a_batch_of_ignored_pixels_is_zero_loss_with_a_zero_gradient(loss: torch.nn.Module) -> None:
    logits, target = sample()
    logits.requires_grad_()
    value = loss(logits, torch.full_like(target, 255))
    value.backward()
    assert value.item() == pytest.approx(0.0)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [CrossEntropyLoss(weight=WEIGHT), DiceLoss(), OhemCrossEntropyLoss(weight=WEIGHT)])
def test_losses_leave_no_trace_in_checkpoints(loss: torch.nn.Module) -> None:
    assert not loss.state_dict()
    assert loss(*sample()).dtype == torch.float32
    assert loss(sample()[0].bfloat16(), sample()[1]).dtype == torch.float32


def golden(root: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(root / f"{name}.npz") as data:
        return dict(data)


@pytest.mark.parametrize("case", ["hard", "easy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_official_ohem_and_cross_entropy(golden_root: Path, case: str, weighted: bool) -> None:
    data = golden(golden_root, "d2_ohem")
    weight = data["class_weight"].tolist() if weighted else None
    suffix = f"{case}_weighted" if weighted else case
    logits, labels = torch.from_numpy(data[f"logits_{case}"]).requires_grad_(), torch.from_numpy(data["labels"])
    ohem = OhemCrossEntropyLoss(weight=weight)(logits, labels)
    assert ohem.item() == pytest.approx(data[f"ohem_{suffix}"].item(), rel=1e-4)
    assert CrossEntropyLoss(255, weight)(logits, labels).item() == pytest.approx(data[f"ce_{suffix}"].item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(ohem, logits)
    assert gradient.abs().sum().item() == pytest.approx(data[f"ohem_{suffix}__grad_sum_abs"].item(), rel=1e-4)
    touched = (gradient.abs().sum(1) > 0).sum().item()
    assert touched == data[f"ohem_{suffix}__grad_nonzero_pixels"].item()
    if not weighted:
        torch.testing.assert_close(
            gradient[0, :, 0], torch.from_numpy(data[f"ohem_{case}__grad_image0_row0"]), rtol=1e-4, atol=1e-8
        )


@pytest.mark.parametrize(
    ("name", "loss", "cases", "shares"),
    [
        ("ohem_tuple", OhemCrossEntropyLoss(), ["hard", "easy"], [1.0, 1.0]),
        ("ce_tuple3", CrossEntropyLoss(), ["hard", "easy", "hard"], [1.0, 0.4, 0.4]),
    ],
)
def test_official_losses_of_several_outputs(
    golden_root: Path, name: str, loss: torch.nn.Module, cases: list[str], shares: list[float]
) -> None:
    """The official losses take the outputs of all heads of a network; networks here have one, so the test adds up."""
    data = golden(golden_root, "d2_ohem")
    labels = torch.from_numpy(data["labels"])
    outputs = [torch.from_numpy(data[f"logits_{case}"]) for case in cases]
    total = sum(share * loss(logits, labels).item() for share, logits in zip(shares, outputs))
    assert total == pytest.approx(data[name].item(), rel=1e-4)


def test_official_dice(golden_root: Path) -> None:
    data = golden(golden_root, "d2_ohem")
    loss = DiceLoss(per_sample=True, skip_absent=False)
    value = loss(torch.from_numpy(data["logits_hard"]), torch.from_numpy(data["dice_labels"]))
    assert value.item() == pytest.approx(data["dice_loss"].item(), rel=1e-4)
