"""Settings of tasks: the base's are written once, groups are dataclasses, old names work, checkpoints hold them."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.cli import main
from lightning_mm.compare.cell_config import resolve
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import (
    BaseTask,
    ClassificationTask,
    Distillation,
    SemanticSegmentationTask,
    SentimentTask,
)
from lightning_mm.tasks.teacher.distillation import OldNames
from tests.support.tiny_run import BASE, SSF

TASKS = [ClassificationTask, SemanticSegmentationTask, SentimentTask]
GROUP = ["weight", "temperature", "layers", "feature_weight", "schedule", "cache_mb"]
KEYS = ["fill", "optimizer", "lr_scheduler", "lr_interval", "base_ckpt", "auxiliary_weight"]
KEYS += [*(f"distillation.{name}" for name in GROUP), *(f"teacher_{name}" for name in GROUP)]
"""Settings of the base that every task has."""
FULL = Distillation(0.5, 3.0, ["head"], 0.25, "linear", 64.0)


class Head(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(2, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(inputs["a"])


class Mine(ClassificationTask):
    """A task of a user: one argument of its own, and the rest."""

    def __init__(self, weight_of_mine: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        self.save_settings(weight_of_mine=weight_of_mine)


def build(**settings: Any) -> ClassificationTask:
    return ClassificationTask(Head(), ["a"], 3, **settings)


def saved(task: BaseTask, path: Path) -> dict[str, Any]:
    """The hyper-parameters in a checkpoint of a task."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)["hyper_parameters"]  # plain types


@pytest.mark.parametrize("task", TASKS)
def test_a_task_copies_no_setting_of_the_base(task: type[BaseTask]) -> None:
    own, base = (set(inspect.signature(one.__init__).parameters) for one in (task, BaseTask))
    assert own & base == {"self", "model", "modalities"}
    assert own - base >= {"base"}


@pytest.mark.parametrize("task", [*TASKS, Mine])
def test_help_lists_every_setting(task: type[BaseTask], capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseTask, "model", fail_untyped=False)
    name = f"{task.__module__}.{task.__qualname__}"
    with pytest.raises(SystemExit):
        parser.parse_args([f"--model.help={name}"])
    listed = capsys.readouterr().out.split()
    assert [key for key in ["model", "modalities", *KEYS] if f"--model.{key}" not in listed] == []


def test_help_through_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model.help", "lightning_mm.tasks.ClassificationTask"]) == 0
    listed = capsys.readouterr().out.split()
    assert [key for key in [*KEYS, "num_classes"] if f"--model.{key}" not in listed] == []


@pytest.mark.wrong_types  # Lightning passes the plain types of the checkpoint
@pytest.mark.parametrize("task", [*TASKS, Mine])
def test_a_checkpoint_holds_the_settings_as_plain_types(task: Any, tmp_path: Path) -> None:
    network = Head(1 if task is SentimentTask else 3)
    own: dict[str, Any] = {} if task is SentimentTask else {"num_classes": 3, "class_weights": np.array([1, 2, 3])}
    if task is Mine:
        own["weight_of_mine"] = 4.0
    made = task(model=network, modalities=["a"], lr_interval="step", distillation=FULL, **own)
    stored = saved(made, tmp_path / "a.ckpt")
    assert stored["modalities"] == ["a"]
    assert stored["distillation"] == asdict(FULL)
    assert not {"model", "fill", "optimizer", "lr_scheduler", "base_ckpt"} & set(stored)
    plain = inspect.signature(task.__init__).parameters.keys() - {"self", "model", "base"}
    assert plain <= stored.keys()
    again = task.load_from_checkpoint(tmp_path / "a.ckpt", model=Head(network.head.out_features))
    assert dict(again.hparams) == stored
    assert again.teacher.settings == FULL
    assert torch.equal(again.model.head.weight, network.head.weight)


@pytest.mark.filterwarnings("ignore:.*(DataLoader|dataloader|log_every_n_steps)")
def test_loggers_get_the_settings(tmp_path: Path) -> None:
    batch = {"inputs": {"a": torch.zeros(2, 2)}, "available": torch.ones(2, 1, dtype=torch.bool)}
    batch["target"] = torch.zeros(2, dtype=torch.int64)
    logger = CSVLogger(tmp_path)
    trainer = Trainer(
        max_steps=1, logger=logger, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False
    )
    loader = DataLoader([batch], batch_size=None)  # type: ignore[arg-type,var-annotated]
    trainer.fit(build(class_names=["x", "y", "z"]), loader)
    found = yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text())
    assert found["class_names"] == ["x", "y", "z"]
    assert found["distillation"] == asdict(Distillation())


def test_old_names_are_the_new_ones_and_say_so() -> None:
    old = {f"teacher_{name}": value for name, value in asdict(FULL).items()}
    assert set(old) == set(OldNames.__annotations__)
    with pytest.warns(
        FutureWarning, match=r"model\.init_args\.distillation\.weight was teacher_weight, .*cache_mb was"
    ):
        made = build(**old)
    assert made.teacher.settings == FULL
    assert made.hparams["distillation"] == asdict(FULL)


def test_old_names_at_their_default_leave_the_new_ones_alone() -> None:
    old = {f"teacher_{name}": value for name, value in asdict(Distillation()).items()}  # as in a config that was saved
    with pytest.warns(FutureWarning, match="work until the next release"):
        assert build(distillation=FULL, **old).teacher.settings == FULL
    with pytest.warns(FutureWarning):
        assert build(distillation=FULL, teacher_weight=0.5).teacher.settings == FULL


def test_contradictions_and_unknown_names_are_refused() -> None:
    with pytest.raises(LightningMMError, match=r"distillation.weight is 0.5 and teacher_weight, its old name, 2.0"):
        build(distillation=FULL, teacher_weight=2.0)
    with pytest.raises(TypeError, match="a task has no argument 'teacher_wieght'"):
        build(teacher_wieght=1.0)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weigt": 1.0}, r"distillation: unknown setting 'weigt'; it has \['weight', .*perhaps 'weight' was meant"),
        (0.5, r"distillation: expected Distillation or a dict of its settings \['weight', .* got 0.5"),
    ],
)
def test_wrong_groups_are_named(given: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(distillation=given)


def test_a_checkpoint_of_the_last_release_is_loaded(tmp_path: Path) -> None:
    made = build(distillation=FULL)
    stored = saved(made, tmp_path / "new.ckpt")
    flat = {f"teacher_{name}": value for name, value in stored.pop("distillation").items()}
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    by_the_command_line = {
        "_class_path": "lightning_mm.tasks.ClassificationTask",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
    }
    for extra in ({}, by_the_command_line):
        checkpoint["hyper_parameters"] = {**stored, **flat, **extra}
        torch.save(checkpoint, tmp_path / "old.ckpt")
        with pytest.warns(FutureWarning, match="distillation.weight was teacher_weight"):
            again = ClassificationTask.load_from_checkpoint(tmp_path / "old.ckpt", model=Head())
        assert again.teacher.settings == FULL
        assert again.hparams["num_classes"] == 3


@pytest.fixture
def configs(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "base.yaml", tmp_path / "ssf.yaml"]
    for path, text in zip(paths, (BASE, SSF)):
        path.write_text(text)
    return paths


def with_distillation(folder: Path, **settings: Any) -> Path:
    path = folder / f"{'_'.join(settings)}.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": settings}}))
    return path


def test_stacked_configs_and_the_command_line_set_parts_of_a_group(
    configs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = [*configs, with_distillation(tmp_path, distillation={"weight": 0.5, "layers": ["head"]})]
    command = ["fit", *(part for path in stack for part in ("-c", str(path)))]
    command += ["--model.init_args.distillation.schedule", "linear", "--model.init_args.distillation.layers", "null"]
    assert main([*command, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert printed["distillation"] == asdict(Distillation(0.5, schedule="linear"))
    assert not set(OldNames.__annotations__) & set(printed)


@pytest.mark.parametrize("way", ["config", "flag", "study"])
def test_old_keys_work_in_configs_on_the_command_line_and_in_studies(
    way: str, configs: list[Path], tmp_path: Path
) -> None:
    few = ["--trainer.fast_dev_run", "1", "--trainer.default_root_dir", str(tmp_path)]
    command = ["fit", *(part for path in configs for part in ("-c", str(path)))]
    if way == "config":
        command += ["-c", str(with_distillation(tmp_path, teacher_weight=0.5))]
    elif way == "flag":
        command += ["--model.init_args.teacher_weight", "0.5"]
    else:
        # `settings` and `tune` of a study go through the command line, into the config of the step
        from lightning_mm.cli.lightning.run import run_lightning

        config = resolve(configs, {"model.init_args.teacher_weight": 0.5}, run_lightning)
        (tmp_path / "cell.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        command = ["fit", "-c", str(tmp_path / "cell.yaml")]
    with pytest.warns(FutureWarning, match=r"model\.init_args\.distillation\.weight was teacher_weight"):
        assert main([*command, *few]) == 0


def test_distillations_are_values() -> None:
    assert replace(FULL, weight=0.0).weight == 0.0
    with pytest.raises(AttributeError):
        FULL.weight = 1.0  # type: ignore[misc]
