"""The verbs through the real command line, on a tiny network: what they write, what they refuse."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_mm.adapters import load
from lightning_mm.cli import main
from lightning_mm.results import read
from lightning_mm.results.pictures import find_pictures, read_examples
from tests.support.cli_network import TinyNetwork
from tests.support.offline_run import OfflineRun
from tests.support.tiny_run import BASE, SSF

WANDB = "lightning_mm.tracking.OfflineFirstWandbLogger"


class Runs:
    """A base and its adapter, trained once for all tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "base.yaml").write_text(BASE)
        (folder / "ssf.yaml").write_text(SSF)
        self.base = ["-c", str(folder / "base.yaml")]
        self.base_ckpt = str(folder / "base" / "weights" / "best.ckpt")
        self.ssf = [*self.base, "-c", str(folder / "ssf.yaml"), "--model.init_args.base_ckpt", self.base_ckpt]
        self.ssf_ckpt = str(folder / "ssf" / "weights" / "best.ckpt")

    def into(self, name: str) -> list[str]:
        return ["--trainer.default_root_dir", str(self.folder / name)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    assert main(["fit", *runs.base, *runs.into("base")]) == 0
    assert main(["fit", *runs.ssf, *runs.into("ssf")]) == 0
    return runs


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_fit_saves_the_whole_config_under_the_name_of_the_verb(runs: Runs) -> None:
    config = yaml.safe_load((runs.folder / "base" / "fit.yaml").read_text())
    network = config["model"]["init_args"]["model"]["init_args"]
    assert network["num_classes"] == 6, "interpolation over stacked files"
    assert config["data"]["modalities"] == ["rgb", "depth"]
    assert not (runs.folder / "base" / "config.yaml").exists()


def test_checkpoints_hold_plain_types_and_load_with_weights_only(runs: Runs) -> None:
    base = torch.load(runs.base_ckpt, weights_only=True)
    assert base["hyper_parameters"]["num_classes"] == 6
    adapter = torch.load(runs.ssf_ckpt, weights_only=True)
    assert adapter["state_dict"]
    assert not [key for key in adapter["state_dict"] if key.startswith("model.")]


def test_a_sweep_draws_predictions_saves_the_adapter_and_records_both(runs: Runs) -> None:
    (runs.folder / "logger.yaml").write_text(
        f"trainer: {{logger: {{class_path: {WANDB}, init_args: {{save_dir: {runs.folder}, project: p}}}}}}\n"
    )
    command = ["sweep", *runs.ssf, "-c", str(runs.folder / "logger.yaml"), *runs.into("recorded")]
    assert main([*command, "--ckpt_path", runs.ssf_ckpt, "--bootstrap", "0"]) == 0
    out = runs.folder / "recorded" / "sweep"
    drawn = find_pictures(out, ["rgb", "depth"])
    assert [one.path.name for one in drawn] == [
        "segmentation_rgb.png", "segmentation_depth.png", "segmentation_rgb+depth.png",
    ]  # fmt: skip
    examples = read_examples(out)
    assert examples is not None
    assert set(examples.predictions) == {
        (m, c) for m in ("zero_fill", "adapted") for c in ("rgb", "depth", "rgb+depth")
    }
    full = [examples.predictions[method, "rgb+depth"] for method in ("zero_fill", "adapted")]
    np.testing.assert_array_equal(*full, "the adapter leaves the full combination as it is")
    network = TinyNetwork({"rgb": 3, "depth": 1}, 6)
    state = torch.load(runs.base_ckpt, weights_only=True)["state_dict"]
    network.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    assert load(out / "adapter", network.eval()) is not None, "the saved adapter fits the base"

    (folder,) = (runs.folder / "wandb").glob("offline-run-*")
    run = OfflineRun(folder)
    assert run.start["job_type"] == "sweep"
    for row in rows_of(out):
        key = f"sweep/{row['method']}/{row['combination']}/{row['metric']}"
        assert run.values.get(key) == (float(row["value"]) if row["value"] else None)
    assert (folder / "files" / run.values["sweep/pictures/segmentation/rgb.path"]).read_bytes() == drawn[
        0
    ].path.read_bytes()
    assert run.summary["summary/adapted/full_unchanged"] == 1.0
    kinds = {one["type"]: one for one in run.of("artifact")}
    assert json.loads(kinds["adapter"]["metadata"])["base"]["artifact"] == kinds["base"]["name"]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_predictions_are_drawn_in_the_precision_of_the_sweep(runs: Runs, precision: str) -> None:
    command = ["sweep", *runs.ssf, *runs.into(precision), "--ckpt_path", runs.ssf_ckpt, "--bootstrap", "0"]
    assert main([*command, "--trainer.precision", precision]) == 0
    assert len(find_pictures(runs.folder / precision / "sweep")) == 3


def test_sweep_writes_every_combination_before_and_after(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *runs.ssf, *runs.into("ssf"), "--ckpt_path", runs.ssf_ckpt, "--bootstrap", "10"]) == 0
    out = runs.folder / "ssf" / "sweep"
    rows = rows_of(out)
    found = {(row["method"], row["combination"]) for row in rows}
    assert found == {(m, c) for m in ("zero_fill", "adapted") for c in ("rgb", "depth", "rgb+depth")}
    value = {(row["method"], row["combination"]): row["value"] for row in rows if row["metric"] == "miou"}
    assert value["zero_fill", "rgb+depth"] == value["adapted", "rgb+depth"], "the full combination is the base itself"
    assert {row["n"] for row in rows} == {"6"}
    notes = json.loads((out / "sweep.json").read_text())
    assert notes["config"]["model"]["init_args"]["num_classes"] == 6
    for name in ("sweep_samples.npz", "sweep.md", "sweep.png"):
        assert (out / name).stat().st_size > 0
    assert str(out / "sweep.csv") in capsys.readouterr().out


def test_sweep_takes_further_methods_and_chosen_combinations(runs: Runs, tmp_path: Path) -> None:
    args = ["--ckpt_path", runs.ssf_ckpt, "--also", json.dumps({"modality_dropout": runs.base_ckpt}), "--split", "val"]
    args += ["--combinations", "[depth+rgb, depth]", "--bootstrap", "0", "--out", str(tmp_path / "here")]
    assert main(["sweep", *runs.ssf, *runs.into("ssf"), *args]) == 0
    rows = [row for row in rows_of(tmp_path / "here") if row["metric"] == "miou"]
    assert {row["method"] for row in rows} == {"zero_fill", "adapted", "modality_dropout"}
    assert {row["combination"] for row in rows} == {"depth", "rgb+depth"}
    assert {row["n"] for row in rows} == {"4"}
    by = {(row["method"], row["combination"]): row["value"] for row in rows}
    # It was given the base's own weights: the same network, so the same figures.
    assert by["modality_dropout", "depth"] == by["zero_fill", "depth"]


def test_rows_by_one_flag(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["sweep", *runs.base, *runs.into("base"), "--ckpt_path", runs.base_ckpt, "--bootstrap", "0"]
    assert main([*base, "--rows", "[mean_fill, feature_mean, noise_fill]", "--out", str(tmp_path / "rows")]) == 0
    rows = [row for row in rows_of(tmp_path / "rows") if row["metric"] == "miou"]
    assert [row["method"] for row in rows][::3] == ["zero_fill", "mean_fill", "feature_mean", "noise_fill"]
    value = {(row["method"], row["combination"]): row["value"] for row in rows}
    for method in ("mean_fill", "feature_mean", "noise_fill"):
        assert value[method, "rgb+depth"] == value["zero_fill", "rgb+depth"]
        assert any(value[method, name] != value["zero_fill", name] for name in ("rgb", "depth"))
    # the same as a fill in the config, with the file of the verb
    file = str(tmp_path / "features.safetensors")
    assert main(["features", *runs.base, *runs.into("base"), "--ckpt_path", runs.base_ckpt, "--out", file]) == 0
    fill = json.dumps({"class_path": "lightning_mm.missing.FeatureMean", "init_args": {"path": file}})
    assert main([*base, "--model.init_args.fill", fill, "--method", "again", "--out", str(tmp_path / "again")]) == 0
    again = {row["combination"]: row["value"] for row in rows_of(tmp_path / "again") if row["metric"] == "miou"}
    assert again == {name: value["feature_mean", name] for name in again}
    # with an adapter, rows are of its base
    adapted = ["sweep", *runs.ssf, *runs.into("ssf"), "--ckpt_path", runs.ssf_ckpt, "--bootstrap", "0"]
    assert main([*adapted, "--rows", "[feature_mean]", "--out", str(tmp_path / "ssf")]) == 0
    rows = [row for row in rows_of(tmp_path / "ssf") if row["metric"] == "miou"]
    assert {row["method"] for row in rows} == {"zero_fill", "adapted", "feature_mean"}
    assert {row["value"] for row in rows if row["method"] == "feature_mean"} == set(again.values())
    capsys.readouterr()
    for name, text in (
        ("late_drop", "late_drop: this task has no auxiliary heads"),
        ("regression_fill", "the encoders return maps or sequences"),
    ):
        assert main([*base, "--rows", f"[{name}]", "--out", str(tmp_path / "none")]) == 1
        assert text in capsys.readouterr().err
    assert main([*base, "--rows", "[nope]", "--out", str(tmp_path / "none")]) == 2


def test_dedicated_sweeps_are_merged_by_table(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = [*runs.base, "--data.modalities", "[depth]", "--model.init_args.model.init_args.channels", "{depth: 1}"]
    assert main(["fit", *one, *runs.into("depth")]) == 0
    ckpt = str(runs.folder / "depth" / "weights" / "best.ckpt")
    few = ["--bootstrap", "10"]
    assert main(["sweep", *one, *runs.into("depth"), "--ckpt_path", ckpt, "--method", "dedicated", *few]) == 0
    assert main(["sweep", *runs.base, *runs.into("base"), "--ckpt_path", runs.base_ckpt, *few]) == 0
    capsys.readouterr()
    tables = [str(runs.folder / name / "sweep" / "sweep.csv") for name in ("base", "depth")]
    assert main(["table", *tables, "--out", str(tmp_path / "report")]) == 0
    assert {row["method"] for row in rows_of(tmp_path / "report")} == {"zero_fill", "dedicated"}
    assert "dedicated" in capsys.readouterr().out
    assert main(["table", *tables, "--metric", "nope"]) == 2
    assert "these sweeps have miou" in capsys.readouterr().err


def test_a_checkpoint_never_changes_settings(runs: Runs) -> None:
    args = ["--ckpt_path", runs.base_ckpt, "--model.init_args.loss", "dice", *runs.into("base")]
    assert main(["test", *runs.base, *args]) == 0
    config = yaml.safe_load((runs.folder / "base" / "test.yaml").read_text())
    assert config["model"]["init_args"]["loss"] == "dice"


def test_print_config_shows_stacked_settings(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *runs.ssf, "--data.batch_size", "2", "--print_config"]) == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["batch_size"] == 2
    assert config["data"]["train_policy"]["class_path"] == "lightning_mm.missing.UniformCombinations"


WEIGHTS = "--model.init_args.model.init_args."


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--data.batch_sise", "3"], 2, "unknown key '--data.batch_sise'; did you mean '--data.batch_size'?"),
        (["-c", "typo.yaml"], 2, "unknown key 'trainer.max_epcohs'; did you mean 'trainer.max_epochs'?"),
        (["-c", "broken.yaml"], 2, "broken.yaml, line 2, column 1: not YAML"),
        (["-c", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--data.batch_size", "x"], 2, "data.batch_size: Expected a int"),
        (["--model.init_args.num_clases", "3"], 2, "unknown key 'num_clases'"),
        (
            [f"{WEIGHTS}chanels", "3"],
            2,
            "model.model: unknown key 'chanels' of tests.support.cli_network.TinyNetwork; did you mean 'ch",
        ),
        (["--trainer.max_epoch", "3"], 2, "unknown key '--trainer.max_epoch'; did you mean '--trainer.max_epochs'?"),
        (["--ckpt_path", "nope.ckpt"], 2, "ckpt_path: no file at 'nope.ckpt'"),
        (["--ckpt_path", "broken.yaml"], 2, "'broken.yaml' is not a checkpoint"),
        (["--data.modalities", "[rgb, depht]"], 1, "task and network disagree on the modalities"),
        (["--data.dataset.init_args.test_length", "0"], 1, ""),
        ([f"{WEIGHTS}num_classes", "5"], 1, "the task has num_classes 6, the network 5"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(
    args: list[str],
    code: int,
    text: str,
    runs: Runs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("typo.yaml").write_text("trainer: {max_epcohs: 3}\n")
    Path("broken.yaml").write_text("a: [\n")
    before = set(tmp_path.rglob("*"))
    assert main(["test", *runs.base, "--trainer.default_root_dir", "out", *args]) == code
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lightning-mm: error: ")
    assert text in message
    assert len(message) < 500
    assert [one for one in set(tmp_path.rglob("*")) - before if one.is_file() and one.name != "test.yaml"] == []


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--combinations", "[rgb, fog]"], 1, "combination 'fog' has unknown modality 'fog'"),
        (["--also", '{"other": "nope.ckpt"}'], 2, "other: no file at 'nope.ckpt'"),
        (["--split", "train"], 2, "split: Expected a typing.Literal['test', 'val']"),
    ],
)
def test_mistakes_of_a_sweep(
    args: list[str], code: int, text: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", *runs.base, *runs.into("base"), "--ckpt_path", runs.base_ckpt]
    assert main([*sweep, "--out", str(tmp_path / "out"), *args]) == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_network_is_refused(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    other = [*runs.base, f"{WEIGHTS}width", "4", *runs.into("other")]
    for verb in ("test", "sweep"):
        assert main([verb, *other, "--ckpt_path", runs.base_ckpt]) == 1
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "another network" in message
        assert "model.encoders." in message
    assert main(["sweep", *runs.ssf, *runs.into("other"), "--ckpt_path", runs.base_ckpt]) == 1
    assert "this checkpoint holds no adapter" in capsys.readouterr().err
    assert not (runs.folder / "other" / "sweep").exists()


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")  # predictions go to a folder of their own
def test_predict_writes_every_sample_once(runs: Runs, tmp_path: Path) -> None:
    into = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["predict", *runs.base, *into, "--ckpt_path", runs.base_ckpt]) == 0
    files = []
    for path in sorted((tmp_path / "predictions").glob("*.npz")):
        with np.load(path) as file:
            files.append(dict(file))
    index = np.concatenate([one["index"] for one in files])
    assert index.tolist() == list(range(len(index)))
    assert len(index) > 0
    assert all(one["prediction"].shape[0] == len(one["index"]) == len(one["available"]) for one in files)


def test_sweep_writes_the_seed_of_the_run_and_refuses_weights_of_the_start(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", *runs.base, *runs.into("base"), "--seed_everything", "4", "--bootstrap", "0"]
    assert main([*sweep, "--ckpt_path", runs.base_ckpt, "--out", str(tmp_path / "out")]) == 0
    assert {row.seed for row in read(tmp_path / "out").rows} == {4}
    assert main([*sweep, "--out", str(tmp_path / "none")]) == 1
    assert "sweep needs the weights of the network" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def bad_checkpoints(runs: Runs, folder: Path) -> list[tuple[str, str, str, str]]:
    """Verb, checkpoint, the words of its message, and whose config it is given."""
    good = torch.load(runs.base_ckpt, weights_only=True)
    torch.save(good["state_dict"], folder / "bare.pt")
    torch.save([1, 2], folder / "list.pt")
    torch.save(TinyNetwork({"rgb": 3}, 2), folder / "network.pt")
    torch.save({key: value for key, value in good.items() if key != "optimizer_states"}, folder / "weights.ckpt")
    (folder / "folder.ckpt").mkdir()
    (folder / "half.ckpt").write_bytes(Path(runs.base_ckpt).read_bytes()[:4000])
    place = str(folder)
    return [
        ("fit", f"{place}/bare.pt", "is no checkpoint that a `fit` wrote (expected state_dict and pytorch-lig", "base"),
        ("fit", f"{place}/weights.ckpt", "holds no state of a training to resume (optimizer_states missing", "base"),
        ("validate", f"{place}/list.pt", "holds a list; expected a state_dict or a Lightning checkpoint", "base"),
        (
            "test",
            f"{place}/network.pt",
            "holds an object of tests.support.cli_network.TinyNetwork",
            "base",
        ),
        ("predict", f"{place}/half.ckpt", "is not a checkpoint (not written by torch.save, or cut off)", "base"),
        ("fit", f"{place}/folder.ckpt", "it is a folder; give the .ckpt file that a `fit` wrote", "base"),
        ("test", "best", "`best` is known only to the process that trained; give the .ckpt file", "base"),
        ("fit", "https://here.example/a.ckpt", "is a URL, and a checkpoint is only read from a file", "base"),
        ("validate", runs.base_ckpt, "this checkpoint holds no adapter: it is that of the base", "ssf"),
        ("predict", runs.ssf_ckpt, "this checkpoint holds an adapter and not its base", "base"),
    ]


@pytest.mark.slow
def test_a_bad_checkpoint_is_one_message_and_leaves_the_config_of_the_run(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, path, words, whose in bad_checkpoints(runs, tmp_path):
        kept = runs.folder / whose / f"{verb}.yaml"
        kept.touch()
        before = kept.read_bytes()
        args = {"base": runs.base, "ssf": runs.ssf}[whose]
        assert main([verb, *args, *runs.into(whose), "--ckpt_path", path]) in (1, 2), (verb, path)
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("lightning-mm: error: "), message
        assert words in message
        assert kept.read_bytes() == before, (verb, path)
        if not before:
            kept.unlink()


def test_a_folder_in_the_place_of_a_checkpoint_is_refused_before_training(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "weights" / "best.ckpt").mkdir(parents=True)
    assert main(["fit", *runs.base, "--trainer.default_root_dir", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "weights/best.ckpt: it is a folder; remove or rename it, or give the ModelCheckpoint another" in message
    (tmp_path / "file").write_text("in the way")
    assert main(["fit", *runs.base, "--trainer.default_root_dir", str(tmp_path / "file" / "run")]) == 1
    assert "a folder is needed at" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["weights", "best.ckpt"]


def test_a_checkpoint_is_written_next_to_its_place(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere / "not there"))
    assert main(["fit", *runs.base, "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    assert [path.name for path in (tmp_path / "run" / "weights").iterdir()] == ["best.ckpt"]
