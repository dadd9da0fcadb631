"""The losses of the official code for BraTS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.tasks.losses import CrossEntropyLoss, DiceLoss
from lightning_mm.tasks.volume_losses import BatchDiceLoss, RareClassCrossEntropyLoss


@pytest.mark.parametrize("case", ["B1", "B2"])
def test_losses_are_those_of_the_official_code(case: str, golden_root: Path) -> None:
    with np.load(golden_root / "d3_brats_losses.npz") as data:
        logits, target = torch.from_numpy(data[f"{case}__prob"]).log(), torch.from_numpy(data[f"{case}__label"]).long()
        dice, weighted = data[f"{case}__dice_loss"][0], data[f"{case}__softmax_weighted_loss"][0]
    assert BatchDiceLoss()(logits, target).item() == pytest.approx(dice, rel=1e-4)
    assert RareClassCrossEntropyLoss()(logits, target).item() == pytest.approx(weighted, rel=1e-4)


@pytest.mark.parametrize("loss", [BatchDiceLoss, RareClassCrossEntropyLoss, DiceLoss, CrossEntropyLoss])
def test_volumes_equal_images_of_the_same_voxels_and_ignored_ones_do_not_count(loss: type[BatchDiceLoss]) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 2, 4, 4), torch.randint(0, 3, (2, 2, 4, 4))
    criterion = loss()
    value = criterion(logits, target)
    torch.testing.assert_close(value, criterion(logits.flatten(2, 3), target.flatten(1, 2)))
    target[0, 0] = 255
    changed = logits.clone()
    changed[0, :, 0] += 5.0
    assert torch.equal(criterion(logits, target), criterion(changed, target))
