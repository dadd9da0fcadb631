"""A fit that resumes a checkpoint of a run with other settings says which, or is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import ClassificationTask

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")


class Toys(torch.utils.data.Dataset[Any]):
    def __init__(self, split: str, size: int = 8) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"inputs": {"a": torch.full((2,), float(i)), "b": torch.ones(2)}, "target": i % 3}


class Others(Toys):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.a(inputs["a"]) + self.b(inputs["b"])


def fit(
    folder: Path, epochs: int, ckpt_path: str | None = None, seed: int = 0, lr: float = 0.1,
    kind: Any = torch.optim.SGD, schedule: Any = None, dataset: Any = Toys, batch_size: int = 4,
    smoothing: float = 0.0, **settings: Any,
) -> tuple[Trainer, ClassificationTask]:  # fmt: skip
    seed_everything(seed, verbose=False)
    task = ClassificationTask(
        Net(), ["a", "b"], 3, label_smoothing=smoothing, optimizer=lambda groups: kind(groups, lr=lr),
        lr_scheduler=schedule,
    )  # fmt: skip
    data = ModalityDropoutDataModule(dataset, ["a", "b"], batch_size=batch_size, seed=seed)
    plain = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saver = ModelCheckpoint(folder, save_last=True)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=[saver], **plain, **settings,
    )  # fmt: skip
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return trainer, task


def last(folder: Path) -> str:
    return str(folder / "last.ckpt")


def test_the_same_settings_and_more_epochs_say_nothing(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fit(tmp_path / "again", 2, last(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed_everything: 0 in the checkpoint, 1 now; data seed: 0 in the checkpoint, 1 now$"),
        ({"lr": 0.5}, "learning rate: 0.1 in the checkpoint, 0.5 now; the checkpoint's is used$"),
        ({"dataset": Others}, r"dataset: Toys \(train\) in the checkpoint, Others \(train\) now$"),
        ({"dataset": lambda split: Toys(split, 12)}, "training samples: 8 in the checkpoint, 12 now$"),
        ({"batch_size": 2}, "batch size: 4 in the checkpoint, 2 now$"),
        ({"smoothing": 0.1}, "label_smoothing: 0.0 in the checkpoint, 0.1 now$"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val: None in the checkpoint, 1.0 now$"),
    ],
)
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_what_differs_is_listed_once(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    fit(tmp_path, 1)
    with pytest.warns(UserWarning, match="this fit resumes a checkpoint of a run with other settings.*" + message):
        trainer, _ = fit(tmp_path / "again", 2, last(tmp_path), **changes)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1
    kept = torch.load(last(tmp_path / "again"), weights_only=True)["lightning_mm_run"]
    assert kept["learning rate"] == [0.1]


def test_another_optimizer_or_schedule_is_refused(tmp_path: Path) -> None:
    def steps(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def decays(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    fit(tmp_path, 1, schedule=steps)
    before = Path(last(tmp_path)).read_bytes()
    with pytest.raises(LightningMMError, match="a run with optimizer SGD, and this one has AdamW, which cannot use"):
        fit(tmp_path, 2, last(tmp_path), kind=torch.optim.AdamW, schedule=steps)
    with pytest.raises(LightningMMError, match="a run with lr_scheduler StepLR, and this one has ExponentialLR"):
        fit(tmp_path, 2, last(tmp_path), schedule=decays)
    assert Path(last(tmp_path)).read_bytes() == before
