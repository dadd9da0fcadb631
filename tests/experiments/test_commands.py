"""The commands in the headers, run as they are written: fit, resume, sweep.

One file of each task in `make test`, and in `make test-all` one of each network and of each other way to train.
tests/experiments/test_files.py runs one batch of every file. The tests of a family share a folder, where its base is
fitted once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Protocol

import pytest
import torch
import yaml

from lightning_mm.cli import main
from lightning_mm.models import ViLT
from lightning_mm.tasks.checkpoints import ADAPTER_KEY, read_checkpoint
from tests.support.experiments import (
    EXPERIMENTS,
    FITS,
    NETWORK,
    files_of,
    header_commands,
    last,
    name_of,
    options,
    prepare,
    stack_of,
    tensors_of,
)
from tests.support.fake_data import write_data

FOOD = EXPERIMENTS / "food101"
PRETRAINED = "weights/vilt_200k_mlm_itm.ckpt"
QUICK = ("scenes/ssf.yaml", "av_digits/ssf.yaml", "mosi/ssf.yaml")
"""One file of each of the three tasks, run by `make test`."""
SLOW = (
    *("brats/ssf.yaml", "cmu_mosi/ssf.yaml", "easy_vqa/ssf.yaml", "food101/prompts.yaml", "iemocap/base.yaml"),
    *("nyudv2/ssf.yaml", "ntu_rgbd/dedicated.yaml", "ravdess/embedding_prediction.yaml", "ravdess/single_branch.yaml"),
    *("ombria/universal.yaml", "utd_mhad_retrieval/ssf.yaml", "scenes/modality_dropout.yaml", "scenes/dedicated.yaml"),
    "mcubes/dedicated_one.yaml",
)
"""One file of each other task, network and way to train, run by `make test-all`; scenes/incomplete.yaml by
tests/data/test_incomplete.py."""
RUN = tuple(path for path in FITS if name_of(path) in (*QUICK, *SLOW))
FEW = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.log_every_n_steps", "1"]
FOR_TESTS = ["--data.num_workers", "0", "--trainer.logger", "false"]
# a run is resumed from the checkpoint of another one's folder on purpose
pytestmark = pytest.mark.filterwarnings(
    "ignore:The dirpath has changed from",
    # the checkpoint of the middle of the run is written by a callback that only these tests add
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


class Workspace(Protocol):
    def __call__(self, family: str) -> Path: ...


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Family to a folder with the experiments, generated data, and the weights that its headers name."""

    @cache
    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        (folder / "experiments").symlink_to(EXPERIMENTS)
        write_data(family, folder / "data")
        if family == "food101":  # small, and without a head of classification, as those of pre-training
            (folder / "weights").mkdir()
            network = ViLT(101, hidden_size=24, num_hidden_layers=6, image_size=64)
            torch.save(
                {"state_dict": {**network.to_reference(), "mlm_score.bias": torch.zeros(3)}}, folder / PRETRAINED
            )
        return folder

    return make


@pytest.fixture
def enter(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Makes the folder of a family the working directory."""

    def go(family: str) -> Path:
        folder = workspace(family)
        monkeypatch.setenv("LIGHTNING_MM_DATA", str(folder / "data"))
        monkeypatch.chdir(folder)
        return folder

    return go


def from_scratch(command: list[str]) -> list[str]:
    """Takes weights of ImageNet back, which are not at hand here."""
    return [part for flag in command if flag.endswith((".mit_weights", ".encoder_weights")) for part in (flag, "null")]


def run(command: list[str], path: Path, *more: str) -> None:
    few = FEW if command[0] == "fit" else ["--bootstrap", "10"] if command[0] == "sweep" else []
    assert main([*command, *options(path), *few, *FOR_TESTS, *from_scratch(command), *more]) == 0


def root_of(command: list[str]) -> Path:
    """The folder of a run."""
    flag = "--trainer.default_root_dir"
    files = files_of(command)
    given = command[command.index(flag) + 1] if flag in command else last(files, "trainer", "default_root_dir")
    share = "${data.train_policy.init_args.p_missing}"
    if share in given:
        given = given.replace(share, str(last(files, "data", "train_policy", "init_args", "p_missing")))
    return Path(given)


def fit(command: list[str], path: Path) -> None:
    """Run a fit with a checkpoint after every epoch besides its own."""
    callbacks = last(files_of(command), "trainer", "callbacks")
    each = {"dirpath": "${trainer.default_root_dir}", "filename": "{epoch}", "save_top_k": -1}
    callbacks.append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": each})
    Path("every_epoch.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    run([*command, "-c", "every_epoch.yaml"], path)


def fit_base(base: Path) -> None:
    """Fit the base of a family, once."""
    (command,) = [command for command in header_commands(base) if command[0] == "fit"]
    if not (root_of(command) / "best.ckpt").exists():
        fit(command, base)


def check_resumed(command: list[str], path: Path) -> None:
    """Two epochs equal one epoch and another one after a restart."""
    whole, resumed = root_of(command), root_of(command) / "resumed"
    torch.manual_seed(77)  # another process has another random state
    more = ["--trainer.default_root_dir", str(resumed), "--ckpt_path", str(whole / "epoch=0.ckpt")]
    run([*command, "-c", "every_epoch.yaml"], path, *more)
    assert not (resumed / "epoch=0.ckpt").exists()
    facts = [read_checkpoint(folder / "epoch=1.ckpt") for folder in (whole, resumed)]
    with_adapter = bool(last(files_of(command), "model", "init_args", "base_ckpt"))
    assert [(one["epoch"], one["global_step"], ADAPTER_KEY in one) for one in facts] == [(1, 2, with_adapter)] * 2
    before, expected, found = (
        tensors_of(file) for file in (whole / "epoch=0.ckpt", whole / "epoch=1.ckpt", resumed / "epoch=1.ckpt")
    )
    assert list(found) == list(expected)
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert [key for key in expected if not torch.equal(before[key], expected[key])], "the second epoch trains"


def swept(root: Path) -> set[tuple[str, ...]]:
    lines = (root / "sweep" / "sweep.csv").read_text().splitlines()[1:]
    return {tuple(line.split(",")[:2]) for line in lines}


def test_every_task_network_and_way_to_train_is_run() -> None:
    kinds = {
        path: (last(stack, "model", "class_path"), last(stack, "model", "init_args", "model", "class_path"))
        for path in FITS
        for stack in [stack_of(path)]
    }
    assert {name_of(path) for path in RUN} == {*QUICK, *SLOW}
    assert {kinds[path] for path in RUN} == set(kinds.values())
    ways = {path.stem.split("_")[-2:][0] for path in FITS if path.parent.name != "food101"}
    assert {path.stem.split("_")[-2:][0] for path in RUN} >= ways - {"base", "dropout", "incomplete", "unet"}


def test_headers_use_the_commands_that_are_run() -> None:
    """One batch of what the others fit is run by tests/experiments/test_files.py."""

    def flags(paths: Iterable[Path]) -> set[str]:
        commands = (command for path in paths for command in header_commands(path) if command[0] != "fit")
        return {part for command in commands for part in command if part.startswith("-")}

    assert flags(FITS) <= flags(RUN) | {"--combinations"}, "of food101/dedicated.yaml, see below"


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=name_of(path), marks=[] if name_of(path) in QUICK else [pytest.mark.slow]) for path in RUN],
)
def test_fits_resumes_and_sweeps(path: Path, enter: Workspace) -> None:
    enter(path.parent.name)
    prepare(path)
    for command in header_commands(path):
        if path.name == "base.yaml" or last(files_of(command), "model", "init_args", "base_ckpt"):
            fit_base(path.with_name("base.yaml"))
        if command[0] != "fit":
            run(command, path)
        else:
            if path.name != "base.yaml":
                fit(command, path)
            check_resumed(command, path)
        if command[0] == "sweep":
            found = swept(root_of(command))
            own = last((path,), "data", "modalities")
            if path.name.startswith("dedicated"):
                own = own or [last((path,), "data", "train_policy", "init_args", "combination")]
                assert found == {("dedicated", "+".join(own))}
            else:
                names = last(files_of(command), "data", "modalities")
                assert {combination for _, combination in found} >= {*names, "+".join(names)}


@pytest.mark.slow
def test_the_other_dedicated_network_of_food101(enter: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    enter("food101")
    path, root = FOOD / "dedicated.yaml", "outputs/food101/dedicated/image"
    command, sweep = header_commands(path)
    other = ["--trainer.default_root_dir", root]
    for split in ("train", "val"):
        other += [f"--data.{split}_policy.init_args.combination", "image"]
    run(command, path, *other)
    sweep[sweep.index("--ckpt_path") + 1] = f"{root}/best.ckpt"
    at = sweep.index("--combinations")
    run([*sweep[:at], *sweep[at + 2 :]], path, *other)
    assert swept(Path(root)) == {("dedicated", "image")}, "the combination of the policy"
    capsys.readouterr()
    assert main([*sweep, *other, *options(path), "--trainer.logger", "false"]) == 1
    assert "dedicated networks are only for ['image']" in capsys.readouterr().err


@pytest.mark.slow
def test_a_base_of_the_reference_needs_a_head(enter: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    enter("food101")
    path = FOOD / "ssf.yaml"
    network = ViLT(101, hidden_size=24, num_hidden_layers=6, image_size=64)
    state = {**network.to_reference("food101_classifier"), **network.to_reference("snli_classifier")}
    torch.save({"epoch": 1, "state_dict": state}, "tuned.ckpt")
    command = [*header_commands(path)[0], "--trainer.default_root_dir", "outputs/food101/tuned"]
    run(command, path, "--model.init_args.base_ckpt", "tuned.ckpt", f"{NETWORK}.head", "food101_classifier")
    for weights, message in (("tuned.ckpt", "set head to one of them"), (PRETRAINED, "ours would stay random")):
        capsys.readouterr()
        assert main([*command, *options(path), *FOR_TESTS, "--model.init_args.base_ckpt", weights]) == 1
        printed = capsys.readouterr().err
        assert f"base_ckpt {weights}: the reference weights have" in printed
        assert message in printed


@pytest.mark.slow
def test_every_table_of_food101_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    roots, tables = [], []
    for share, lost in (
        *product(("", "eta_70"), ("lose_image", "lose_text")),
        *(("", ""), ("eta_50", ""), ("eta_50", "lose_image"), ("eta_90", "lose_text")),
    ):
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
