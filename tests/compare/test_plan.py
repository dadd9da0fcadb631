"""The steps of a study: which there are, what they need, and when their keys change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.cells import cut, patched
from lightning_mm.compare.plan import Plan, Step, short
from lightning_mm.compare.study import read_study
from lightning_mm.errors import LightningMMError
from tests.compare.test_study import read, write_study


def names(steps: list[Step], out: Path) -> list[str]:
    return [f"{step.folder.relative_to(out)} {step.stage}" for step in steps]


def test_steps_in_an_order_that_can_be_run(tmp_path: Path) -> None:
    study = read(tmp_path, seeds=[0], methods={"mean_fill": None, "dedicated": {"combinations": ["a"]}})
    steps = Plan(study).steps({})
    assert names(steps, study.out) == [
        "base/seed0 fit",
        "base/seed0 means",
        "mean_fill/seed0 fit",
        "mean_fill/seed0 test",
        "dedicated/a/seed0 fit",
        "dedicated/a/seed0 test",
    ]
    for position, step in enumerate(steps):
        assert {need.marker for need in step.needs} <= {one.marker for one in steps[:position]}


def test_test_sweeps_of_a_tuned_method_wait_for_the_choice(tmp_path: Path) -> None:
    study = read(tmp_path, seeds=[0, 1])
    before, after = Plan(study).steps({}), Plan(study).steps({"adapted": 0.2})
    new = set(names(after, study.out)) - set(names(before, study.out))
    assert new == {"adapted/lr=0.2/seed0 test", "adapted/lr=0.2/seed1 test"}
    assert sum(step.stage == "val" for step in before) == 4


def test_seeds_that_choose(tmp_path: Path) -> None:
    methods = {"adapted": {"configs": ["ssf.yaml"], "tune": {"x.lr": [1, 2]}, "tune_seeds": [1]}}
    study = read(tmp_path, methods=methods)
    assert [name for name in names(Plan(study).steps({}), study.out) if "val" in name] == [
        "adapted/lr=1/seed1 val",
        "adapted/lr=2/seed1 val",
    ]
    chosen = {name for name in names(Plan(study).steps({"adapted": 2}), study.out) if "lr=2" in name}
    assert chosen == {
        f"adapted/lr=2/{name}" for name in ("seed0 fit", "seed0 test", "seed1 fit", "seed1 val", "seed1 test")
    }


def test_what_starts_from_a_network_is_given_its_checkpoint(tmp_path: Path) -> None:
    study = read(tmp_path, seeds=[3], methods={"adapted_on_dropout": {"configs": ["ssf.yaml"]}, "zero_fill": None})
    by_name = {f"{step.method} {step.stage}": step for step in Plan(study).steps({})}
    adapted, zero = by_name["adapted_on_dropout fit"], by_name["zero_fill test"]
    assert adapted.overrides["model.init_args.base_ckpt"] == str(study.out / "modality_dropout/seed3/best.ckpt")
    assert adapted.overrides["seed_everything"] == 3
    assert zero.command[zero.command.index("--ckpt_path") + 1] == str(study.out / "base/seed3/best.ckpt")
    assert by_name["zero_fill fit"].command == ()


def keys(folder: Path, **content: Any) -> dict[str, str]:
    study = read_study(write_study(folder, **content))
    steps = Plan(study).steps({method.name: method.tuned[1][0] for method in study.methods if method.tuned})
    return {f"{step.folder.relative_to(study.out)} {step.stage}": step.key for step in steps}


def test_keys_change_with_what_makes_the_outcome(tmp_path: Path) -> None:
    before = keys(tmp_path)
    assert keys(tmp_path, out=str(tmp_path / "elsewhere")) == before, "a study may be moved"
    assert keys(tmp_path, results="elsewhere", bootstrap=0) == before
    changed = keys(
        tmp_path, methods={**{"zero_fill": None}, "adapted": {"configs": ["ssf.yaml"], "settings": {"a": 1}}}
    )
    assert changed["zero_fill/seed0 test"] == before["zero_fill/seed0 test"]
    assert changed["adapted/seed0 fit"] not in before.values()
    everything = keys(tmp_path, settings={"trainer.max_epochs": 2})
    assert not set(everything.values()) & set(before.values())


def test_keys_of_settings_that_look_like_the_folder(tmp_path: Path) -> None:
    rates = [
        keys(tmp_path, out=".", methods={"head_only": {"settings": {"lr": rate}}})["head_only/seed0 fit"]
        for rate in (1.5, 15)
    ]
    assert rates[0] != rates[1]


def test_values_that_cannot_name_a_folder_are_hashed() -> None:
    assert short(0.1) == "0.1"
    assert short("mean") == "mean"
    for value in ("../../etc", "a/b", {"class_path": "x" * 300}, ".."):
        assert len(short(value)) == 8
        assert "/" not in short(value)


def test_a_study_that_validates_sweeps_every_method(tmp_path: Path) -> None:
    study = read(tmp_path, seeds=[0], validate=True, methods={"zero_fill": None, "head_only": None})
    assert [name for name in names(Plan(study).steps({}), study.out) if name.endswith("val")] == [
        "zero_fill/seed0 val",
        "head_only/seed0 val",
    ]


def test_keys_do_not_change_with_comments_but_with_configs(tmp_path: Path) -> None:
    study = write_study(tmp_path)

    def key() -> str:
        return Plan(read_study(study)).steps({})[0].key

    before = key()
    (tmp_path / "base.yaml").write_text("# a comment\ndata: {modalities: [a, b, c]}\n")
    assert key() == before
    (tmp_path / "base.yaml").write_text("data: {modalities: [a, b, c], batch_size: 3}\n")
    assert key() != before


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
