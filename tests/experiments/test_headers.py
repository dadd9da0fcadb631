"""The commands in the headers of Food-101 and of all dedicated networks, run as they are written."""

from __future__ import annotations

import shlex
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

from lightning_mm.cli import main
from lightning_mm.models import ViLT
from tests.support.experiments import EXPERIMENTS, FITS, name_of, options
from tests.support.fake_data import write_data

FOOD = EXPERIMENTS / "food101"
DEDICATED = [path for path in FITS if path.name == "dedicated.yaml"]
PRETRAINED = ["--model.init_args.model.init_args.pretrained", "weights/vilt_200k_mlm_itm.ckpt"]
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
QUICK += ["--trainer.log_every_n_steps", "1"]


def commands(path: Path) -> list[list[str]]:
    """What stands behind ``lightning-mm`` in the lines of a header, continued lines joined."""
    header = [line[1:] for line in path.read_text().splitlines() if line.startswith("#")]
    joined = "\n".join(header).replace("\\\n", " ").splitlines()
    texts = [line.partition("lightning-mm ")[2] for line in joined if line.startswith("   ")]
    return [shlex.split(text) for text in texts if text]


def run(command: list[str], path: Path) -> None:
    quick = QUICK if command[0] == "fit" else []
    assert main([*command, *options(path), *quick, "--data.num_workers", "0", "--trainer.logger", "false"]) == 0


def swept(folder: str) -> set[tuple[str, ...]]:
    lines = Path(folder, "sweep", "sweep.csv").read_text().splitlines()[1:]
    return {tuple(line.split(",")[:2]) for line in lines}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the experiments, and generated data beside."""
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(EXPERIMENTS)
    return tmp_path


@pytest.fixture
def food(here: Path) -> Path:
    """The same with weights that are small and have no head of classification, as those of pre-training."""
    write_data("food101", here / "data")
    (here / "weights").mkdir()
    network = ViLT(101, hidden_size=24, num_hidden_layers=6, image_size=64)
    state = {**network.to_reference(), "mlm_score.bias": torch.zeros(3)}
    torch.save({"state_dict": state}, here / PRETRAINED[1])
    return here


@pytest.mark.parametrize("name", ["base", "dedicated", "dropout"])
def test_whole_networks_start_from_the_same_weights(name: str) -> None:
    (fit,) = [command for command in commands(FOOD / f"{name}.yaml") if command[0] == "fit"]
    assert fit[-2:] == PRETRAINED


def test_every_table_of_food101_has_a_folder_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots, tables = [], []
    for share, lost in product(("", "eta_50", "eta_70", "eta_90"), ("", "lose_image", "lose_text")):
        files = [FOOD / f"{name}.yaml" for name in ("base", "ssf", share, lost) if name]
        assert main(["fit", *(part for file in files for part in ("-c", str(file))), "--print_config"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        policies = {split: config["data"][f"{split}_policy"] for split in ("train", "val", "test")}
        if share or lost:
            settings = {split: policy["init_args"] for split, policy in policies.items()}
            assert all(one["split"] == split for split, one in settings.items()), "a table for each split"
            assert {one["p_missing"] for one in settings.values()} == {int(share[4:] or 70) / 100 if share else 0.7}
        roots.append(config["trainer"]["default_root_dir"])
        checkpoint = config["trainer"]["callbacks"][-1]["init_args"]["dirpath"]
        assert checkpoint == roots[-1]
        tables.append(str(policies))
    same_table = len(tables) - len(set(tables))
    assert same_table == 2, "alone, what is lost is so at 70 %"
    assert len(set(roots)) == len(roots) - same_table


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOOD.glob("*.yaml")), ids=name_of)
def test_food101(path: Path, food: Path) -> None:
    own = commands(path)
    assert own
    base = FOOD / "base.yaml"
    if path != base:
        run(commands(base)[0], base)
    for command in own:
        run(command, path)


def from_scratch(fit: list[str]) -> list[str]:
    """Takes weights of ImageNet back, which are not at hand here."""
    flags = [part for part in fit if part.endswith((".mit_weights", ".encoder_weights"))]
    return [part for flag in flags for part in (flag, "null")]


@pytest.mark.slow
@pytest.mark.parametrize("path", DEDICATED, ids=name_of)
def test_dedicated(path: Path, here: Path, request: pytest.FixtureRequest) -> None:
    if path.parent == FOOD:
        request.getfixturevalue("food")
    else:
        write_data(path.parent.name, here / "data")
    fit, sweep = commands(path)
    run([*fit, *from_scratch(fit)], path)
    run(sweep, path)
    content = yaml.safe_load(path.read_text())
    own = content["data"].get("modalities") or [content["data"]["train_policy"]["init_args"]["combination"]]
    assert swept(content["trainer"]["default_root_dir"]) == {("dedicated", "+".join(own))}


@pytest.mark.slow
def test_the_other_dedicated_network_of_food101(food: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, root = FOOD / "dedicated.yaml", "outputs/food101/dedicated/image"
    fit, sweep = commands(path)
    other = ["--trainer.default_root_dir", root]
    for split in ("train", "val"):
        other += [f"--data.{split}_policy.init_args.combination", "image"]
    run([*fit, *other], path)
    sweep[sweep.index("--ckpt_path") + 1] = f"{root}/best.ckpt"
    at = sweep.index("--combinations")
    run([*sweep[:at], *sweep[at + 2 :], *other], path)
    assert swept(root) == {("dedicated", "image")}, "the combination of the policy"
    capsys.readouterr()
    assert main([*sweep, *other, *options(path), "--trainer.logger", "false"]) == 1
    assert "the dedicated ones are for ['image'] alone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_base_of_the_reference_needs_a_head(food: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, heads = FOOD / "ssf.yaml", "--model.init_args.model.init_args.head"
    network = ViLT(101, hidden_size=24, num_hidden_layers=6, image_size=64)
    state = {**network.to_reference("food101_classifier"), **network.to_reference("snli_classifier")}
    torch.save({"epoch": 1, "state_dict": state}, food / "tuned.ckpt")
    fit = commands(path)[0]
    run([*fit, "--model.init_args.base_ckpt", "tuned.ckpt", heads, "food101_classifier"], path)
    for weights, message in (("tuned.ckpt", "set head to one of them"), (PRETRAINED[1], "ours would stay random")):
        capsys.readouterr()
        assert main([*fit, *options(path), "--model.init_args.base_ckpt", weights, "--trainer.logger", "false"]) == 1
        printed = capsys.readouterr().err
        assert f"base_ckpt {weights}: the reference weights have" in printed
        assert message in printed
