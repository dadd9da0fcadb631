"""The steps of a study: which there are, what they need, and when their keys change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.plan import Plan, Step, short
from lightning_mm.compare.study import read_study
from lightning_mm.errors import LightningMMError
from tests.support.studies import read, write_study


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


def test_rows_of_features_share_one_file_of_the_base(tmp_path: Path) -> None:
    rows = {"mean_fill": None, "feature_mean": None, "retrieval_fill": None, "regression_fill": None}
    study = read(tmp_path, seeds=[0], methods={**rows, "noise_fill": None})
    steps = {f"{step.method} {step.stage}": step for step in Plan(study).steps({})}
    assert [name for name in steps if name.startswith("base")] == ["base fit", "base means", "base features"]
    file = str(study.out / "base/seed0/features.safetensors")
    assert steps["base features"].command[-4:] == (
        "--out",
        file,
        "--ckpt_path",
        str(study.out / "base/seed0/best.ckpt"),
    )
    for method, kind in (("feature_mean", "FeatureMean"), ("regression_fill", "FeatureRegression")):
        fill = {"class_path": f"lightning_mm.missing.{kind}", "init_args": {"path": file}}
        assert steps[f"{method} fit"].patch["fill"] == fill
        assert steps["base features"] in steps[f"{method} fit"].needs
    assert steps["noise_fill fit"].patch["fill"] == {"class_path": "lightning_mm.missing.Noise"}


def test_late_drop_starts_from_a_base_with_auxiliary_heads(tmp_path: Path) -> None:
    study = read(tmp_path, seeds=[0], methods={"late_drop": None})
    steps = {f"{step.method} {step.stage}": step for step in Plan(study).steps({})}
    heads = {"model.init_args.auxiliary_weight": 0.5}
    assert heads.items() <= steps["base_auxiliary fit"].overrides.items()
    assert {**heads, "model.init_args.late_drop": True}.items() <= steps["late_drop fit"].overrides.items()
    command = steps["late_drop test"].command
    assert command[command.index("--ckpt_path") + 1] == str(study.out / "base_auxiliary/seed0/best.ckpt")
    own = {"base_auxiliary": {"like": "base", "settings": {"model.init_args.auxiliary_weight": 0.1}}}
    steps = {
        f"{step.method} {step.stage}": step
        for step in Plan(read(tmp_path, seeds=[0], methods={**own, "late_drop": None})).steps({})
    }
    assert steps["base_auxiliary fit"].overrides["model.init_args.auxiliary_weight"] == 0.1


def test_a_retrieval_that_drops_absent_modalities_is_the_base_with_one_setting(tmp_path: Path) -> None:
    steps = {
        f"{step.method} {step.stage}": step
        for step in Plan(read(tmp_path, seeds=[0], methods={"drop": None})).steps({})
    }
    drop, base = steps["drop fit"], steps["base fit"]
    assert not drop.command
    added = set(drop.overrides.items()) - set(base.overrides.items())
    assert {key for key, _ in added} == {"trainer.default_root_dir", "model.init_args.keep_absent"}
    assert drop.overrides["model.init_args.keep_absent"] is False


def test_a_single_branch_starts_at_random_or_on_the_frozen_encoders_of_base_auxiliary(tmp_path: Path) -> None:
    (tmp_path / "single_branch.yaml").write_text("data: {switching: random}")
    line = {"configs": ["single_branch.yaml"]}
    study = read(tmp_path, seeds=[0], methods={"single_branch": line, "single_branch_on_auxiliary": line})
    steps = {f"{step.method} {step.stage}": step for step in Plan(study).steps({})}
    assert steps["single_branch fit"].needs == ()
    assert steps["single_branch fit"].stack[-1].name == "single_branch.yaml"
    fit = steps["single_branch_on_auxiliary fit"]
    assert fit.needs == (steps["base_auxiliary fit"],)
    assert fit.overrides["model.init_args.base_ckpt"] == str(study.out / "base_auxiliary/seed0/best.ckpt")
    assert fit.overrides["model.init_args.model.init_args.freeze_encoders"] is True
    for method in ("single_branch", "single_branch_on_auxiliary"):
        assert str(steps[f"{method} fit"].patch["val_policy"]["class_path"]).endswith("RotatingCombinations")
        with pytest.raises(LightningMMError, match=r"give configs: a file with its SingleBranchTask"):
            read(tmp_path, seeds=[0], methods={method: None})


def test_an_autoencoder_is_a_start_and_no_row(tmp_path: Path) -> None:
    rows = {"universal": None, "without": {"like": "universal", "start": "other"}}
    other = {"like": "autoencoder", "callbacks": {"ModelCheckpoint": {"mode": "max"}}}
    study = read(tmp_path, seeds=[0], validate=True, methods={**rows, "other": other})
    steps = {f"{step.method} {step.stage}": step for step in Plan(study).steps({})}
    assert {name for name in steps if not name.endswith("fit")} == {
        f"{method} {stage}" for method in rows for stage in ("val", "test")
    }
    assert [one.name for one in study.methods if one.swept] == list(rows)
    first = steps["autoencoder fit"]
    assert first.overrides["model.init_args.stage"] == "reconstruct"
    assert first.patch["init_args"] == {"ModelCheckpoint": {"monitor": "val/loss", "mode": "min"}}
    assert steps["other fit"].patch["init_args"] == {"ModelCheckpoint": {"monitor": "val/loss", "mode": "max"}}
    for method, start in (("universal", "autoencoder"), ("without", "other")):
        fit = steps[f"{method} fit"]
        assert fit.needs == (steps[f"{start} fit"],)
        assert fit.overrides["model.init_args.base_ckpt"] == str(study.out / start / "seed0/best.ckpt")
        assert fit.patch["init_args"] == {}


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


def test_policies_are_swept_by_methods_with_one_network_and_train_nothing_anew(tmp_path: Path) -> None:
    methods = {"zero_fill": None, "modality_dropout": None, "dedicated": {"combinations": ["a"]}}
    plain = {step.name: step for step in Plan(read(tmp_path, seeds=[0], methods=methods)).steps({})}
    policies = {"mcar": {"class_path": "lightning_mm.missing.Complete"}}
    study = read(tmp_path, seeds=[0], methods=methods, policies=policies)
    steps = {step.name: step for step in Plan(study).steps({})}
    for name, step in steps.items():
        has = step.stage == "test" and step.method != "dedicated"
        assert ("--policies" in step.command) == has
        assert (step.key == plain[name].key) != has
    command = steps[f"{study.out}/zero_fill/seed0: test"].command
    assert json.loads(command[command.index("--policies") + 1]) == policies


def test_a_policy_of_a_method_wins_over_that_of_its_recipe(tmp_path: Path) -> None:
    own = {"class_path": "lightning_mm.missing.IndependentMissing", "init_args": {"p_missing": 0.5}}
    methods = {
        "modality_dropout": None,
        "mine": {"like": "modality_dropout", "settings": {"data.train_policy": own}},
    }
    steps = {f"{step.method} {step.stage}": step for step in Plan(read(tmp_path, seeds=[0], methods=methods)).steps({})}
    assert set(steps["modality_dropout fit"].patch) >= {"train_policy", "val_policy"}
    assert "train_policy" not in steps["mine fit"].patch
    assert "val_policy" in steps["mine fit"].patch
    assert steps["mine fit"].overrides["data.train_policy"] == own
