"""Resume at an epoch boundary equals the uninterrupted run; the frozen base is the same bits through all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import Dihedral, ModalityDropoutDataModule, Scenes
from lightning_mm.missing import RotatingCombinations, UniformCombinations
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.tasks import SemanticSegmentationTask
from tests.support.adapter_networks import trained_statistics

CHANNELS = {"rgb": 3, "depth": 1, "thermal": 1}
pytestmark = [
    # a run is resumed from the checkpoint of another one's folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def data(workers: int = 0) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(
        lambda split: Scenes(split, size=32, train_length=12, val_length=6),
        list(CHANNELS),
        train_policy=UniformCombinations(),
        val_policy=RotatingCombinations(),
        augment=Dihedral(),
        batch_size=4,
        num_workers=workers,
        seed=5,
    )


def task() -> SemanticSegmentationTask:
    torch.manual_seed(0)
    network = MultiEncoderSegmenter(CHANNELS, 6, "resnet18", encoder_depth=3, decoder_channels=[16, 8, 8])
    trained_statistics(network)
    network.decoder.register_forward_hook(_Dropout())
    return SemanticSegmentationTask(model=network, modalities=list(CHANNELS), num_classes=6)


class _Dropout:
    """Random numbers from the global state, which a resumed run must draw alike."""

    def __call__(self, module: torch.nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.nn.functional.dropout(output, 0.2, training=torch.is_grad_enabled())


def fit(
    folder: Path, made: SemanticSegmentationTask, adapter: bool, ckpt_path: Path | None = None, workers: int = 0
) -> None:
    callbacks: list[Any] = [KeyedSeed(3), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)]
    callbacks += [FrozenBackboneAdapter(SSF(), Additive())] if adapter else []
    trainer = Trainer(
        default_root_dir=folder, max_epochs=3, callbacks=callbacks, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(made, data(workers), ckpt_path=ckpt_path)
    assert trainer.current_epoch == 3


@pytest.mark.parametrize(
    ("adapter", "workers"),
    [
        pytest.param(False, 0, id="base"),
        pytest.param(True, 0, id="adapter"),
        pytest.param(True, 2, id="workers", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, adapter: bool, workers: int) -> None:
    whole, resumed, start = task(), task(), task()
    fit(tmp_path / "whole", whole, adapter)
    torch.manual_seed(77)  # another process has another random state
    fit(tmp_path / "resumed", resumed, adapter, tmp_path / "whole" / "epoch=0.ckpt", workers)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert list(expected) == list(found)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    before = start.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], expected["model." + key])}
    if adapter:
        assert changed == set(), "base weights and running statistics are the same bits"
        assert any(float(value.abs().sum()) > 0 for key, value in expected.items() if key.startswith("adapter."))
        assert not any(module.training for module in resumed.model.modules())
    else:
        assert any("running_mean" in key for key in changed)
