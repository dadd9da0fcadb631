"""UniversalTask in fits: with crops, in other precisions, resumed in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mm.callbacks import KeyedSeed
from lightning_mm.data.module import ModalityDropoutDataModule
from lightning_mm.missing import MissingRates
from tests.support.universal import NAMES, QUIET, Squares, build, data


class Crops(Squares):
    """Shows a part of a sample, another one in every epoch, as BraTS does."""

    def draw_sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sample, (top, left) = self[index], rng.integers(0, 5, 2).tolist()
        parts = {name: one[:, top : top + 4, left : left + 4] for name, one in sample["inputs"].items()}
        target = sample["target"][top : top + 4, left : left + 4]
        return {"inputs": parts, "target": target, "corner": torch.tensor([top, left])}


def test_the_template_is_the_mean_of_whole_samples_where_training_sees_crops(tmp_path: Path) -> None:
    task = build(stage="reconstruct", template_lr=0.0, template_weight=0.0)
    module = ModalityDropoutDataModule(Crops, list(NAMES), batch_size=4)
    trainer = Trainer(default_root_dir=tmp_path, max_steps=1, enable_checkpointing=False, limit_val_batches=0, **QUIET)
    trainer.fit(task, module)
    means = torch.cat([values.mean(0) for values in Squares("train").inputs.values()])
    torch.testing.assert_close(task.model.template.values[0], means)


@pytest.mark.parametrize(("precision", "kind"), [("bf16-true", "moments"), ("64-true", "hist")])
def test_both_stages_train_in_another_precision(precision: Any, kind: Any, tmp_path: Path) -> None:
    torch.save(build(stage="reconstruct").model.state_dict(), tmp_path / "first.pt")
    for task in (
        build(stage="reconstruct", distribution=kind),
        build(base_ckpt=str(tmp_path / "first.pt"), hyper=True, prototypes=0.1, ema=0.9),
    ):
        trainer = Trainer(
            default_root_dir=tmp_path, max_epochs=1, enable_checkpointing=False, precision=precision, **QUIET
        )
        trainer.fit(task, data(train_observed=MissingRates(0.4)))
        assert trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("stage", ["reconstruct", "segment"])
def test_a_run_that_stopped_in_an_epoch_goes_on_as_if_it_had_not(stage: Any, tmp_path: Path) -> None:
    torch.save(build(stage="reconstruct").model.state_dict(), tmp_path / "first.pt")
    more = {"base_ckpt": str(tmp_path / "first.pt"), "ema": 0.5} if stage == "segment" else {}
    states = []
    for checkpoint in (None, tmp_path / "step=1.ckpt"):
        task = build(stage=stage, **more).train(checkpoint is None)  # in eval mode a network is trained alike
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False)
        trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=[KeyedSeed(3), saver], **QUIET)
        trainer.fit(task, data(train_observed=MissingRates(0.4)), ckpt_path=checkpoint)
        states.append(dict(task.state_dict()))
    assert any(name.startswith(("distribution.", "averaged.")) for name in states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
