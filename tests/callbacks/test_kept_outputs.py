"""Encoder outputs that are kept during a fit of `FrozenBackboneAdapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import RotatingCombinations, UniformCombinations
from lightning_mm.tasks import ClassificationTask
from tests.support.exact_encoders import NAMES, Exact, samples

EPOCHS, SIZE = 4, 32


class Samples(torch.utils.data.Dataset[Any]):
    """Exact inputs; every fifth sample was recorded without ``b``."""

    def __init__(self, split: str) -> None:
        self.inputs = samples(SIZE, seed=5 if split == "train" else 50)

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs: dict[str, Tensor | None] = {name: one[index] for name, one in self.inputs.items()}
        return {"inputs": inputs | ({"b": None} if index % 5 == 0 else {}), "target": index % 2}


class Network(Exact):
    """Takes a dict, as tasks pass it."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(**inputs)


def data(**settings: Any) -> ModalityDropoutDataModule:
    policies = {"train_policy": UniformCombinations(), "val_policy": RotatingCombinations()}
    return ModalityDropoutDataModule(Samples, list(NAMES), batch_size=8, **policies, **settings)


def fit(
    folder: Path,
    keep: Any,
    epochs: int = EPOCHS,
    ckpt_path: str | None = None,
    datamodule: ModalityDropoutDataModule | None = None,
    networks: list[Network] | None = None,
    extra: list[Callback] | None = None,
    **settings: Any,
) -> ClassificationTask:
    torch.manual_seed(0)
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.05)  # noqa: E731
    task = ClassificationTask(Network(), list(NAMES), num_classes=2, optimizer=optimizer)
    if networks is not None:
        networks.append(task.model)  # type: ignore[arg-type]
    adapter = FrozenBackboneAdapter(exclude=["encoders*"], keep_encoder_outputs=keep)
    saver = ModelCheckpoint(folder, save_last=True)
    settings = {"devices": 1, **settings}
    callbacks = [adapter, KeyedSeed(3), saver, *(extra or [])]
    run = Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip
    run.fit(task, datamodule=datamodule or data(), ckpt_path=ckpt_path)
    task.final = run.callback_metrics  # type: ignore[assignment]
    return task


def same(one: ClassificationTask, other: ClassificationTask) -> bool:
    return all(torch.equal(value, other.final[key]) for key, value in one.final.items()) and all(
        torch.equal(value, other.adapter.state_dict()[key]) for key, value in one.adapter.state_dict().items()
    )


def runs(task: ClassificationTask) -> int:
    return sum(sum(sizes) for sizes in task.model.runs().values())


def test_a_fit_is_the_same_to_the_bit_and_encodes_less(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", None)
    kept = fit(tmp_path / "memory", {"where": "memory"})
    assert same(plain, kept)
    assert any(value.abs().sum() > 0 for value in kept.adapter.state_dict().values())
    written = fit(tmp_path / "written", {"where": str(tmp_path / "files"), "gib": 0.1})
    read = fit(tmp_path / "read", {"where": str(tmp_path / "files"), "gib": 0.1})
    assert same(plain, written)
    assert same(plain, read)
    counts = [runs(one) for one in (plain, kept, read)]
    assert counts[1] < 0.6 * counts[0]
    assert counts[2] < 0.3 * counts[0]
    assert all("forward" not in vars(one) for one in kept.model.encoders.values())


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_resumed_fit_equals_the_whole_one(tmp_path: Path, where: str) -> None:
    keep = {"where": where if where == "memory" else str(tmp_path / where)}
    whole = fit(tmp_path / "whole", None)
    fit(tmp_path / "first", keep, epochs=2)
    assert same(whole, fit(tmp_path / "second", keep, ckpt_path=str(tmp_path / "first" / "last.ckpt")))


class WriteAdapter(Callback):
    """Writes what was learned from the first process, and how many samples were encoded there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            torch.save({**pl_module.adapter.state_dict(), "runs": torch.tensor(runs(pl_module))}, self.path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_ranks(tmp_path: Path) -> None:
    learned = {}
    for name, keep in {"plain": None, "memory": {}, "files": {"where": str(tmp_path / "files")}}.items():
        path = tmp_path / f"{name}.pt"
        fit(tmp_path / name, keep, 5, extra=[WriteAdapter(path)], devices=2, strategy="ddp_fork")
        learned[name] = torch.load(path)
    counts = [int(one.pop("runs")) for one in learned.values()]
    assert counts[2] <= counts[1] < counts[0]  # with files, what the other rank has encoded is found
    for one in learned.values():
        assert all(torch.equal(value, one[key]) for key, value in learned["plain"].items())


@pytest.mark.slow
def test_workers_do_not_matter(tmp_path: Path) -> None:
    kept = fit(tmp_path / "kept", {}, datamodule=data(num_workers=2))
    assert same(fit(tmp_path / "plain", None), kept)


def test_augmented_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match="keep_encoder_outputs: the training data are augmented, so enc"):
        fit(tmp_path, {}, datamodule=data(augment=lambda sample, rng: sample))


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(LightningMMError, match=r"keep_encoder_outputs: unknown setting 'gb'; .*perhaps 'gib'"):
        FrozenBackboneAdapter(keep_encoder_outputs={"gb": 2})


def test_what_does_not_fit_is_told_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1e-06 GiB are full with \d+ outputs, and about .* all 64 sam") as told:
        kept = fit(tmp_path, {"gib": 1e-6})
    assert sum("GiB are full" in str(one.message) for one in told) == 1
    assert same(fit(tmp_path / "plain", None), kept)


def test_encoders_are_restored_after_an_exception(tmp_path: Path) -> None:
    class Stops(Samples):
        reads = 0

        def __getitem__(self, index: int) -> dict[str, Any]:
            Stops.reads += 1
            if Stops.reads > 2 * SIZE:
                raise KeyError("gone")
            return super().__getitem__(index)

    module, networks = data(), list[Network]()
    module.dataset = Stops
    with pytest.raises(KeyError, match="gone"):
        fit(tmp_path, {}, datamodule=module, networks=networks)
    assert all("forward" not in vars(one) for one in networks[0].encoders.values())
