"""``late_drop``: the mean of the logits of the auxiliary heads of available modalities, equal to a slow loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_mm.cli.lightning.export import export_task
from lightning_mm.data import ModalityDropoutDataModule, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from lightning_mm.tasks.checkpoints import load_weights
from lightning_mm.testing import assert_missing_invariant
from tests.support.late_heads import NAMES, build, inputs


@pytest.mark.parametrize("dense", [False, True])
def test_equals_a_slow_loop(dense: bool) -> None:
    task, values, masks = build(dense, late_drop=True), inputs(), NAMES.masks()[torch.arange(6) % 3]
    found = task(values, masks)
    assert found.shape == ((6, 3, 8, 8) if dense else (6, 3))
    heads: Any = task.auxiliary
    for row in range(6):
        logits = []
        for name in NAMES.parse(NAMES.name(masks[row])):
            one = heads.heads[name](task.model.encoders[name](values[name][row : row + 1]))  # type: ignore[union-attr,operator,index]
            logits.append(F.interpolate(one, (8, 8), mode="bilinear", align_corners=False) if dense else one)
        torch.testing.assert_close(found[row], torch.stack(logits).mean(0)[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(task(values), task(values, torch.ones(6, 2, dtype=torch.bool)))
    assert not torch.allclose(found, build(dense)(values, masks))
    assert_missing_invariant(task, NAMES, values)


def test_it_is_swept_with_the_heads_of_a_checkpoint(tmp_path: Path) -> None:
    samples = inputs(8)
    target = torch.arange(8) % 3
    rows = [{"inputs": {n: v[i] for n, v in samples.items()}, "target": target[i], "index": i} for i in range(8)]
    for row in rows:
        row["observed"] = row["available"] = torch.ones(2, dtype=torch.bool)
    loader: DataLoader[Any] = DataLoader(rows, batch_size=4)  # type: ignore[arg-type]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trained = build(False).train()
    trainer = Trainer(max_epochs=1, limit_val_batches=0, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(trained, loader, loader)
    trainer.save_checkpoint(tmp_path / "base.ckpt")
    task = build(False, late_drop=True)
    load_weights(task, tmp_path / "base.ckpt")
    result = sweep({"late_drop": task.eval(), "zero_fill": trained.eval()}, loader, modalities=list(NAMES), bootstrap=0)
    found = {row.combination: row.value for row in result.rows if (row.method, row.metric) == ("late_drop", "accuracy")}
    for combination in NAMES.combinations():
        logits = task(samples, NAMES.mask(combination).expand(8, -1))
        assert found[combination] == pytest.approx((logits.argmax(1) == target).float().mean().item())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match="late_drop: this task has no auxiliary heads; set auxiliary_weight"):
        build(False, auxiliary_weight=0.0, late_drop=True)
    task, masks = build(False, late_drop=True), torch.ones(6, 2, dtype=torch.bool)
    batch = {"inputs": inputs(), "available": masks, "observed": masks, "target": torch.zeros(6).long()}
    with pytest.raises(LightningMMError, match="late_drop is for evaluation"):
        task.training_step(batch, 0)
    data = ModalityDropoutDataModule(Scenes, list(NAMES))
    with pytest.raises(LightningMMError, match=r"auxiliary heads are a part of the task .* not exported"):
        export_task(Trainer(logger=False, accelerator="cpu"), task, data, str(tmp_path / "out"))
