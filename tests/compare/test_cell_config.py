"""The config of a cell: settings as the command line takes them, and what recipes change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.compare.cell_config import cut, patched, recast, resolve
from lightning_mm.compare.recipes import RECIPES
from lightning_mm.errors import LightningMMError, NotApplicableError


def test_settings_are_passed_as_the_command_line_takes_them(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        seen.append(command)
        print(yaml.safe_dump({key: {} for key in ("seed_everything", "trainer", "model", "data")}))
        raise SystemExit(0)

    resolve([Path("x.yaml")], {"a.b": [1, 2], "c": "word", "d": False, "e": 0.1}, run)
    assert seen == [["fit", "-c", "x.yaml", "--a.b=[1, 2]", "--c=word", "--d=false", "--e=0.1", "--print_config"]]


def test_a_single_callback_may_be_written_without_a_list() -> None:
    def run(command: list[str]) -> dict[str, Any]:
        print(
            yaml.safe_dump(
                {"seed_everything": 0, "trainer": {"callbacks": {"class_path": "x"}}, "model": {}, "data": {}}
            )
        )
        raise SystemExit(0)

    config = patched(resolve([Path("x.yaml")], {}, run), {"callbacks": [{"class_path": "y"}]})
    assert config["trainer"]["callbacks"] == [{"class_path": "x"}, {"class_path": "y"}]


CONFIG: dict[str, Any] = {
    "data": {"modalities": ["a", "b", "c"], "train_policy": None, "dataset": {"channels": {"a": 1, "b": 2}}},
    "model": {"init_args": {"fill": None, "model": {"init_args": {"encoders": {"b": [{"c": 1}], "a": 2, "c": 3}}}}},
    "trainer": {"callbacks": [{"class_path": "x.KeyedSeed"}, {"class_path": "lightning.ModelCheckpoint"}]},
}


def test_patches() -> None:
    policy = {"class_path": "p"}
    changed = patched(CONFIG, {"callbacks": [{"class_path": "y"}], "train_policy": policy, "fill": {"class_path": "f"}})
    assert [one["class_path"] for one in changed["trainer"]["callbacks"]] == [
        "x.KeyedSeed",
        "y",
        "lightning.ModelCheckpoint",
    ]
    assert changed["data"]["train_policy"] == policy
    assert changed["model"]["init_args"]["fill"] == {"class_path": "f"}
    assert CONFIG["data"]["train_policy"] is None, "the config itself stays"


def test_arguments_of_a_callback_are_changed() -> None:
    changed = patched(CONFIG, {"init_args": {"KeyedSeed": {"seed": 5}}})
    assert changed["trainer"]["callbacks"][0] == {"class_path": "x.KeyedSeed", "init_args": {"seed": 5}}
    with pytest.raises(LightningMMError, match=r"there is no 'Other' among those of the configs, \['KeyedSeed'"):
        patched(CONFIG, {"init_args": {"Other": {}}})


def test_a_dedicated_network_is_cut_to_its_modalities() -> None:
    changed = patched(CONFIG, {"only": ["a", "c"]})
    assert changed["data"]["modalities"] == ["a", "c"]
    assert changed["model"]["init_args"]["model"]["init_args"]["encoders"] == {"a": 2, "c": 3}
    assert changed["data"]["dataset"]["channels"] == {"a": 1, "b": 2}, "not all modalities: something else"
    assert cut([{"a": 1, "b": {"a": 1, "b": 2}}], {"a", "b"}, ["b"]) == [{"b": {"a": 1, "b": 2}}]


def test_other_classes_keep_the_arguments_that_both_have(tmp_path: Path) -> None:
    classes = RECIPES["embedding_prediction"].classes
    network = {
        "class_path": "x.LateFusion",
        "init_args": {"encoders": {"a": 1}, "num_classes": "${b}", "fusion": "concat"},
    }
    task = {"class_path": "x.ClassificationTask", "init_args": {"model": network, "lr_scheduler": {"T_max": "${c}"}}}
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump({"model": task}))
    overlay.write_text(yaml.safe_dump({"model": {"init_args": {"model": {"init_args": {"prompts": 8}}}}}))
    with recast([base, overlay], classes) as files:
        assert files[1] == overlay
        content = yaml.safe_load(files[0].read_text())["model"]
    assert not files[0].exists()
    assert content["class_path"] == "lightning_mm.tasks.EmbeddingPredictionTask"
    assert content["init_args"]["lr_scheduler"] == {"T_max": "${c}"}, "references stay"
    assert content["init_args"]["model"] == {
        "class_path": "lightning_mm.models.EmbeddingPrediction",
        "init_args": {"encoders": {"a": 1}, "num_classes": "${b}"},
    }
    with recast([base], None) as files:
        assert list(files) == [base]
    del network["init_args"]["encoders"]  # type: ignore[attr-defined]
    base.write_text(yaml.safe_dump({"model": task}))
    with pytest.raises(NotApplicableError, match="LateFusion without encoders; leave it out"), recast([base], classes):
        pass
    base.write_text(yaml.safe_dump({"model": {**task, "class_path": "x.SegmentationTask"}}))
    with pytest.raises(NotApplicableError, match="is for a ClassificationTask"), recast([base], classes):
        pass


def test_other_classes_keep_some_arguments_only_if_they_are_there(tmp_path: Path) -> None:
    classes, path = RECIPES["universal"].classes, tmp_path / "base.yaml"
    for more in ({}, {"widths": [4, 8]}):
        network = {"class_path": "x.Segmenter", "init_args": {"channels": {"a": 1}, "num_classes": 2, **more}}
        task = {"class_path": "x.SemanticSegmentationTask", "init_args": {"model": {**network, "decoder": "unet"}}}
        path.write_text(yaml.safe_dump({"model": task}))
        with recast([path], classes) as files:
            made = yaml.safe_load(files[0].read_text())["model"]["init_args"]["model"]
        assert made["class_path"] == "lightning_mm.models.UniversalSegmenter"
        assert made["init_args"] == {"channels": {"a": 1}, "num_classes": 2, **more}
