"""The page on missingness: every file is stacked on a config and draws, every command runs, every study is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_mm import data as data_sets
from lightning_mm.cli import main
from lightning_mm.compare import read_study
from lightning_mm.data import ModalityDropoutDataModule
from tests.support.fake import ms_lesions
from tests.support.fake_data import write_data
from tests.support.pages import DOCS, blocks, commands, made, run_python, write_files
from tests.support.repository import REPOSITORY

PAGE = DOCS / "missingness.md"
BASE = REPOSITORY / "experiments" / "av_digits" / "base.yaml"
POLICIES = {block.title: yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml"}
OVERLAYS = [name for name, content in POLICIES.items() if "data" in content]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--data.dataset.init_args.eval_pairs", "1"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data("av_digits", tmp_path / "data")
    write_data("utd_mhad", tmp_path / "data")
    ms_lesions.write(tmp_path / "data" / "ms_lesions")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    write_files(PAGE, tmp_path)
    return tmp_path


def test_every_block_is_tested() -> None:
    assert {*POLICIES} == {*OVERLAYS, "policies.yaml", "study.yaml"}
    assert {block.language for block in blocks(PAGE)} == {"yaml", "python", "text", "sh"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_files_draw_what_they_say(name: str, workspace: Path) -> None:
    content = {**yaml.safe_load(BASE.read_text())["data"], **POLICIES[name]["data"]}
    kind, settings = content["dataset"]["class_path"].rpartition(".")[2], content["dataset"].get("init_args", {})
    policies = {key: made(content[key]) for key in ("train_policy", "train_observed") if key in content}
    data = ModalityDropoutDataModule(
        lambda split: getattr(data_sets, kind)(split, **settings),
        content["modalities"],
        batch_size=4,
        **policies,
    )
    data.setup("fit")
    full = "+".join(content["modalities"])
    counts = data.histogram("train")
    assert counts.get(full, 0) < sum(counts.values()), "some are missing"
    assert next(iter(data.train_dataloader()))["available"].any(1).all()


def test_files_are_configs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (one for one in OVERLAYS if "dataset" not in POLICIES[one]["data"]):
        assert main(["fit", "-c", str(BASE), "-c", name, "--print_config"]) == 0, capsys.readouterr().err


def test_python_and_the_study(workspace: Path) -> None:
    run_python(PAGE)
    for name in ("base.yaml", "ssf.yaml"):
        (workspace / name).write_text(BASE.with_name(name).read_text())
    study = read_study("study.yaml")
    assert {method.name for method in study.methods} == {"base", "zero_fill", "adapted_mcar", "adapted_mnar"}
    assert set(study.policies) == {"mcar", "mnar"}


@pytest.mark.slow
def test_commands_run(workspace: Path) -> None:
    for verb, *words in commands(PAGE):
        more = [*QUIET, *(FEW if verb == "fit" else ["--bootstrap", "10"])] if verb in ("fit", "sweep") else []
        assert main([verb, *words, *more]) == 0, [verb, *words]
    sweep = workspace / "outputs" / "av_digits" / "base" / "sweep"
    assert "| accuracy in %: under policies | mcar | mnar |" in (sweep / "policies.md").read_text()
    assert (workspace / "outputs" / "av_digits" / "curves" / "p_missing.png").is_file()
