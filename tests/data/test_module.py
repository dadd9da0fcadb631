"""ModalityDropoutDataModule: batches depend on (seed, index, epoch) alone, under Lightning too."""

import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import Dataset

from lightning_mm.data import Compose, Dihedral, ModalityDropoutDataModule, RandomCropResize, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import FixedCombination, IndependentMissing, RotatingCombinations, UniformCombinations

MODALITIES = ["rgb", "depth", "thermal"]


class Table(Dataset):
    """Rows of a small table; modality ``b`` is observed for some rows only."""

    def __init__(self, split: str, length: int = 10, observed: Callable[[int], bool] = lambda i: i % 3 == 0) -> None:
        self.split, self.length, self.observed = split, length, observed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        b = torch.full((3,), float(index)) if self.observed(index) else None
        return {"inputs": {"a": torch.full((2,), float(index)), "b": b, "c": 1.0}, "target": index}


class Recorder(LightningModule):
    """Notes which batches Lightning hands out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def _note(self, stage: str, batch: dict[str, Any]) -> None:
        self.batches[stage].append((self.current_epoch, batch["index"].tolist(), batch["available"].tolist(), batch))

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        self._note("train", batch)
        return self.weight.square()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._note("val", batch)

    def test_step(self, batch: dict[str, Any]) -> None:
        self._note("test", batch)

    def predict_step(self, batch: dict[str, Any]) -> torch.Tensor:
        return batch["index"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _scenes(split: str) -> Scenes:
    return Scenes(split, size=16, train_length=10, val_length=5, test_length=7)


def _data(**settings: Any) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(**{"dataset": _scenes, "modalities": MODALITIES, "batch_size": 4, **settings})


def _trainer(**settings: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{"accelerator": "cpu", "devices": 1, **quiet, **settings})


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    leaves = [(first["inputs"][name], second["inputs"][name]) for name in first["inputs"]]
    leaves += [(first[key], second[key]) for key in ("available", "observed", "target", "index")]
    return all(torch.equal(a, b) for a, b in leaves)


def _epoch(data: ModalityDropoutDataModule, epoch: int) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def _by_index(batches: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Batches taken apart again, one sample each."""
    rows: dict[int, dict[str, Any]] = {}
    for batch in batches:
        for row, index in enumerate(batch["index"].tolist()):
            inputs = {name: value[row] for name, value in batch["inputs"].items()}
            rest = {key: batch[key][row] for key in ("available", "observed", "target", "index")}
            rows[index] = {"inputs": inputs, **rest}
    return rows


def test_a_batch_has_the_documented_form() -> None:
    data = _data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [4, 4, 2]
    batch = batches[0]
    assert {name: tuple(value.shape) for name, value in batch["inputs"].items()} == {
        "rgb": (4, 3, 16, 16),
        "depth": (4, 1, 16, 16),
        "thermal": (4, 1, 16, 16),
    }
    assert batch["available"].shape == batch["observed"].shape == (4, 3)
    assert batch["target"].shape == (4, 16, 16)
    scene = _scenes("train")[int(batch["index"][0])]
    assert torch.equal(batch["inputs"]["depth"][0], scene["inputs"]["depth"])  # dropping leaves the inputs alone
    assert torch.equal(batch["target"][0], scene["target"])


def test_samples_do_not_change_with_batch_size_or_workers() -> None:
    settings: dict[str, Any] = {"augment": Compose([Dihedral(), RandomCropResize(16)]), "seed": 5}
    variants = [
        _data(**settings),
        _data(**{**settings, "batch_size": 3}),
        _data(**settings, num_workers=2, persistent_workers=True, prefetch_factor=1),
    ]
    for epoch in (0, 1):
        epochs = [_by_index(_epoch(data, epoch)) for data in variants]
        for index in range(10):
            assert _same(epochs[0][index], epochs[1][index])
            assert _same(epochs[0][index], epochs[2][index])


def test_persistent_workers_see_the_new_epoch() -> None:
    settings: dict[str, Any] = {"augment": Dihedral(), "dataset": lambda split: Scenes(split, size=16, train_length=12)}
    loader = _data(**settings, num_workers=1, persistent_workers=True).train_dataloader()
    plain = _data(**settings)
    for epoch in (0, 1, 2):
        loader.sampler.set_epoch(epoch)
        for ours, expected in zip(loader, _epoch(plain, epoch), strict=True):
            assert _same(ours, expected)


def test_epochs_differ_in_order_masks_and_augmentation() -> None:
    data = _data(augment=Dihedral(), dataset=lambda split: Scenes(split, size=16, train_length=40))
    first, second = (_epoch(data, epoch) for epoch in (0, 1))
    assert [batch["index"].tolist() for batch in first] != [batch["index"].tolist() for batch in second]
    first, second = _by_index(first), _by_index(second)
    assert any(not torch.equal(first[i]["available"], second[i]["available"]) for i in range(40))
    assert any(not torch.equal(first[i]["target"], second[i]["target"]) for i in range(40))


def test_masks_follow_the_policy_of_the_split() -> None:
    policies = {"train_policy": FixedCombination("rgb"), "val_policy": RotatingCombinations(), "eval_batch_size": 2}
    data = _data(**policies)
    assert all(batch["available"].tolist() == [[True, False, False]] * len(batch["index"]) for batch in _epoch(data, 3))
    val = torch.cat([batch["available"] for batch in data.val_dataloader()])
    assert torch.equal(val, data.modalities.masks()[:5])
    assert [len(batch["index"]) for batch in data.test_dataloader()] == [2, 2, 2, 1]
    assert all(batch["available"].all() for batch in data.test_dataloader())


def test_only_the_train_split_is_augmented_and_modalities_are_selected_in_order() -> None:
    data = _data(augment=RandomCropResize(8), modalities=["thermal", "rgb"])
    assert next(iter(data.train_dataloader()))["target"].shape[-1] == 8
    batch = next(iter(data.val_dataloader()))
    assert list(batch["inputs"]) == ["thermal", "rgb"]
    assert batch["available"].shape == (4, 2)
    assert batch["target"].shape[-1] == 16


class Drawn(Table):
    """Reads another part of a sample in every epoch."""

    def draw_sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {**self[index], "target": int(rng.integers(0, 2**31))}


def test_a_data_set_that_draws_is_given_a_generator_of_seed_index_and_epoch() -> None:
    def targets(epoch: int, seed: int = 0, batch_size: int = 2, **settings: Any) -> dict[int, int]:
        data = ModalityDropoutDataModule(Drawn, ["a", "b"], batch_size=batch_size, seed=seed, **settings)
        assert data.redraws()
        batches = _epoch(data, epoch)
        return {int(i): int(t) for batch in batches for i, t in zip(batch["index"], batch["target"])}

    first = targets(0)
    assert len(set(first.values())) == len(first), "every sample has numbers of its own"
    assert targets(0, batch_size=3) == targets(0, augment=lambda sample, rng: sample) == first
    for other in (targets(1), targets(0, seed=1)):
        assert not set(other.values()) & set(first.values())
    assert not ModalityDropoutDataModule(Table, ["a", "b"]).redraws()


def test_what_the_data_set_lacks_is_not_observed() -> None:
    data = ModalityDropoutDataModule(Table, ["a", "b"], batch_size=2)
    for batch in _epoch(data, 0):
        assert batch["observed"].tolist() == [[True, i % 3 == 0] for i in batch["index"].tolist()]
        assert batch["inputs"]["b"].shape == (len(batch["index"]), 3)  # also where nothing in the batch has it
        assert (batch["observed"] | ~batch["available"]).all()
        assert batch["available"].any(1).all()


def test_histogram_counts_the_batches_of_an_epoch() -> None:
    data = _data(train_policy=IndependentMissing(0.5), dataset=lambda split: Scenes(split, size=16, train_length=60))
    for epoch in (0, 2):
        names = [data.modalities.name(row) for batch in _epoch(data, epoch) for row in batch["available"]]
        assert data.histogram("train", epoch) == {name: names.count(name) for name in data.modalities.select(names)}


def test_setup_logs_the_histogram(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _data(train_policy=RotatingCombinations(["rgb", "depth"])).setup("fit")
    assert "Scenes (train): 10 samples, combinations drawn in epoch 0 by RotatingCombinations(" in caplog.text
    assert "rgb: 5 (50.0%)" in caplog.text


def test_a_loader_that_is_made_late_in_a_fit_begins_with_the_epoch_of_the_fit() -> None:
    data = _data(augment=Dihedral())
    data.trainer = _trainer(max_epochs=5)
    data.trainer.fit_loop.epoch_progress.current.processed = 3
    late = list(data.train_dataloader())
    assert all(_same(a, b) for a, b in zip(late, _epoch(_data(augment=Dihedral()), 3), strict=True))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers
class TestUnderLightning:
    def test_fit_validate_test_predict(self) -> None:
        model, data = Recorder(), _data(train_policy=UniformCombinations())
        trainer = _trainer(max_epochs=2, num_sanity_val_steps=0)
        trainer.fit(model, datamodule=data)
        for epoch in (0, 1):
            seen = [batch for at, _, _, batch in model.batches["train"] if at == epoch]
            assert all(_same(a, b) for a, b in zip(seen, _epoch(_data(), epoch), strict=True))
        val = [index for _, indices, _, _ in model.batches["val"] for index in indices]
        assert val == list(range(5)) * 2
        trainer.test(model, datamodule=data, verbose=False)
        assert [index for _, indices, _, _ in model.batches["test"] for index in indices] == list(range(7))
        predictions = trainer.predict(model, datamodule=data)
        assert torch.cat(predictions).tolist() == list(range(7))  # type: ignore[arg-type]

    def test_resume_at_an_epoch_boundary_sees_what_the_uninterrupted_run_sees(self, tmp_path: Path) -> None:
        whole, first, second = Recorder(), Recorder(), Recorder()
        augment = Dihedral()
        _trainer(max_epochs=3).fit(whole, datamodule=_data(augment=augment))
        trainer = _trainer(max_epochs=2)
        trainer.fit(first, datamodule=_data(augment=augment))
        trainer.save_checkpoint(tmp_path / "two.ckpt")
        _trainer(max_epochs=3).fit(second, datamodule=_data(augment=augment), ckpt_path=tmp_path / "two.ckpt")
        interrupted = first.batches["train"] + second.batches["train"]
        assert [entry[0] for entry in interrupted] == [0] * 3 + [1] * 3 + [2] * 3
        for ours, expected in zip(interrupted, whole.batches["train"], strict=True):
            assert _same(ours[3], expected[3])

    def test_overfit_batches_keeps_batches_whole(self) -> None:
        model = Recorder()
        _trainer(max_epochs=2, overfit_batches=1).fit(model, datamodule=_data())
        assert [indices for _, indices, _, _ in model.batches["train"]] == [[0, 1, 2, 3]] * 2


@pytest.mark.filterwarnings("ignore")  # Lightning 2.6 calls names that jsonargparse 4.53 has renamed
def test_it_is_built_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = """
        data:
          dataset: {class_path: lightning_mm.data.Scenes, init_args: {size: 16, test_length: 3}}
          modalities: [depth, rgb]
          train_policy: {class_path: lightning_mm.missing.IndependentMissing, init_args: {p_missing: {rgb: 0.5}}}
          test_policy: {class_path: lightning_mm.missing.FixedCombination, init_args: {combination: rgb}}
          augment:
            class_path: lightning_mm.data.Compose
            init_args:
              augmentations:
                - lightning_mm.data.Dihedral
                - {class_path: lightning_mm.data.RandomCropResize, init_args: {size: 8, scale: [0.5, 1.0]}}
    """
    path = tmp_path / "data.yaml"
    path.write_text(textwrap.dedent(config))
    monkeypatch.setattr("sys.argv", ["test"])  # LightningCLI warns when it is given both
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    cli = LightningCLI(
        Recorder,
        ModalityDropoutDataModule,
        args=["--config", str(path)],
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults=quiet,
    )
    data = cli.datamodule
    batch = next(iter(data.test_dataloader()))
    assert batch["inputs"]["rgb"].shape == (3, 3, 16, 16)
    assert batch["available"].tolist() == [[False, True]] * 3
    assert next(iter(data.train_dataloader()))["target"].shape == (16, 8, 8)
    assert repr(data.policies["train"]) == "IndependentMissing(p_missing={'rgb': 0.5}, min_present=1)"


def test_an_augmentation_may_be_any_function() -> None:
    def zero(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**sample, "target": sample["target"] * 0 + int(rng.integers(1, 3))}

    batch = next(iter(_data(augment=zero).train_dataloader()))
    assert set(batch["target"].unique().tolist()) <= {1, 2}


class TestErrors:
    def test_empty_data_set(self) -> None:
        data = _data(dataset=lambda split: Scenes(split, train_length=0))
        with pytest.raises(LightningMMError, match=r"Scenes \(train\): the data set is empty"):
            data.setup("fit")

    def test_unknown_modality_names_what_there_is(self) -> None:
        message = r"Scenes \(train\): unknown modality 'lidar'; the data set has \['depth', 'rgb', 'thermal'\]"
        with pytest.raises(LightningMMError, match=message):
            _data(modalities=["rgb", "lidar"]).setup("fit")

    def test_never_observed(self) -> None:
        data = ModalityDropoutDataModule(lambda split: Table(split, observed=lambda i: False), ["a", "b"])
        data.setup("fit")
        with pytest.raises(LightningMMError, match="no sample has modality 'b', so its shape is unknown"):
            next(iter(data.train_dataloader()))

    def test_a_sample_with_nothing(self) -> None:
        data = ModalityDropoutDataModule(Table, ["b"])
        data.setup("fit")
        with pytest.raises(
            LightningMMError, match=r"sample \d+ has none of the modalities \['b'\], only \['a', 'b', 'c'\]"
        ):
            next(iter(data.train_dataloader()))

    @pytest.mark.parametrize("sample", [3, {"inputs": {}}, {"inputs": 1, "target": 2}])
    @pytest.mark.wrong_types
    def test_samples_of_another_form(self, sample: Any) -> None:
        with pytest.raises(LightningMMError, match="expected samples"):
            _data(dataset=lambda split: [sample]).setup("test")

    @pytest.mark.wrong_types
    def test_not_a_map_style_data_set(self) -> None:
        with pytest.raises(LightningMMError, match="expected a data set with __len__ and __getitem__"):
            _data(dataset=lambda split: iter([])).setup("test")

    @pytest.mark.parametrize(("setting", "value"), [("batch_size", 0), ("eval_batch_size", 0), ("num_workers", -1)])
    def test_settings_out_of_range(self, setting: str, value: int) -> None:
        with pytest.raises(
            LightningMMError,
            match=f"data.{setting} must be a whole number of at least {max(0, value + 1)}, got {value}",
        ):
            _data(**{setting: value})

    def test_policy_that_does_not_fit_is_told_before_training(self) -> None:
        with pytest.raises(LightningMMError, match="unknown modality 'lidar'"):
            _data(train_policy=FixedCombination("lidar")).setup("fit")
