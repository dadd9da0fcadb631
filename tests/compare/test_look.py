"""What a study asks for is looked at before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.cli.compare import _check_wandb
from lightning_mm.compare import Study
from lightning_mm.compare.look import configs_to_look_at, look_at
from lightning_mm.errors import LightningMMError, UsageError
from tests.support.studies import METHODS, read

WRITER = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"filename": "best"}}


class Commands:
    """A command line whose configs hold what it is told, and whose task measures accuracy and keeps no labels."""

    def __init__(self, callbacks: Any = None, labels: bool = False) -> None:
        self.callbacks, self.labels = callbacks, labels
        self.ran: list[list[str]] = []

    def __call__(self, command: list[str]) -> dict[str, Any]:
        self.ran.append(command)
        if command[0] == "look":
            return {"metrics": ["accuracy", "macro_f1"], "labels": self.labels}
        if "--model.lr=0.2" in command:
            raise UsageError("unknown key '--model.lr'; did you mean '--model.rl'?")
        root = next(word.partition("=")[2] for word in command if word.startswith("--trainer.default_root_dir="))
        own = [{**WRITER, "init_args": {**WRITER["init_args"], "dirpath": root}}]
        callbacks = own if self.callbacks is None else self.callbacks
        config = {"seed_everything": 0, "trainer": {"callbacks": callbacks}, "model": {}, "data": {"modalities": ["a"]}}
        print(yaml.safe_dump(config))
        raise SystemExit(0)


def look(study: Study, run: Commands) -> None:
    look_at(study, configs_to_look_at(study), run)


def test_each_config_is_made_once(tmp_path: Path) -> None:
    tune = {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.1, 0.3]}}
    study = read(tmp_path, methods={**METHODS, "adapted": tune, "dedicated": {"settings": {"a": 1}}}, metric="accuracy")
    run = Commands()
    look(study, run)
    asked = [next((word for word in command if word.startswith(("--model.lr", "--a="))), "") for command in run.ran]
    assert asked == ["", "--model.lr=0.1", "--model.lr=0.3", "--a=1", ""]
    assert [command[0] for command in run.ran] == ["fit"] * 4 + ["look"]


@pytest.mark.parametrize(
    ("content", "run", "message"),
    [
        ({"metric": "miou"}, Commands(), r"^metric: this task has accuracy, macro_f1; got 'miou'$"),
        ({"majority": True}, Commands(), "majority: the sweeps of this task keep no labels; leave `majority` out"),
        ({"methods": METHODS}, Commands(), r": adapted: unknown key '--model.lr'; did you mean '--model.rl'\?$"),
        (
            {},
            Commands([]),
            r": base: training would write no best.ckpt; the config needs a ModelCheckpoint with dirpath",
        ),
        ({}, Commands([WRITER]), r": base: training would write no best.ckpt"),
        (
            {"methods": {"head_only": {"callbacks": {"KeyedSed": {"seed": 1}}}}},
            Commands(),
            r": head_only: callbacks: there is no 'KeyedSed' among those of the configs, \['TrainOnly'",
        ),
    ],
)
def test_mistakes_are_found_before(tmp_path: Path, content: dict[str, Any], run: Commands, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        look(read(tmp_path, **{"methods": {"zero_fill": None}, **content}), run)


def test_a_writer_of_the_user_may_have_other_defaults(tmp_path: Path) -> None:
    look(read(tmp_path, methods={"zero_fill": None}), Commands([{"class_path": "theirs.BestCheckpoint"}]))
    look(read(tmp_path, methods={"zero_fill": None}, majority=True), Commands(labels=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proyect": "mine"}, r"^wandb: unknown argument 'proyect'; did you mean 'project'\?$"),
        ({"mode": "onlin"}, "wandb: mode must be one of online, offline, shared, disabled, got 'onlin'"),
        ({"project": 3}, "wandb: project: expected text, got 3"),
        ({"tags": "one"}, "wandb: tags: expected a list of texts, got 'one'"),
    ],
)
def test_arguments_of_wandb(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        _check_wandb(arguments)
    _check_wandb({"project": "mine", "entity": "us", "tags": ["one"], "mode": "offline"})
