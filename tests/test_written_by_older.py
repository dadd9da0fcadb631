"""Files that the package wrote at commit 20b60d7 are read by this version, with the same numbers.

``files/written_by_20b60d7`` holds every kind of file that it wrote; ``files/make_written_by_20b60d7.py`` made them. If
a test fails, users can no longer read their files: fix the reader, not the file.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_mm.adapters import fingerprint, list_adapters, load
from lightning_mm.cli import main
from lightning_mm.data import Scenes
from lightning_mm.export import Runtime
from lightning_mm.missing import Complete, IndependentMissing, MeanInput, SavedTable
from lightning_mm.modalities import Modalities
from lightning_mm.results import read, save
from lightning_mm.tasks import SemanticSegmentationTask

FILES = Path(__file__).resolve().parent / "files"
sys.path.append(str(FILES))  # configs name classes of networks_of_20b60d7.py; the workers of a study look there too

import networks_of_20b60d7 as networks  # noqa: E402

pytestmark = [
    # what `fit` wrote holds every setting, those of the teacher by their old names
    pytest.mark.filterwarnings("ignore:settings of the teacher have new names:FutureWarning"),
]
WRITTEN = FILES / "written_by_20b60d7"
OUTPUTS = load_file(WRITTEN / "adapter" / "outputs.safetensors")
STATES: dict[str, dict[str, list[Any]]] = json.loads(
    gzip.decompress((WRITTEN / "networks/states.json.gz").read_bytes())
)
STACKS = {
    "base": ["base.yaml"],
    "ssf": ["base.yaml", "ssf.yaml"],
    "placed": ["base.yaml", "ssf.yaml", "placed.yaml"],
    "refitted": ["base.yaml", "refitted.yaml"],
    "from_table": ["base.yaml", "ssf.yaml", "from_table.yaml"],
}
"""Name of a run to its configs."""
INTO_AGAIN = ["--trainer.default_root_dir", "again", "--trainer.logger.init_args.save_dir", "again"]
"""For a config whose references are resolved, such as `fit.yaml`."""
LARGE = {"segmenter_max_resnet", "segmenter_attention_fpn", "cmnext", "video"}


def copied(folder: Path, *parts: str) -> Path:
    """Copy some of the files to a folder to run in, with their old names; without metrics, which new runs write."""
    for part in parts:
        shutil.copytree(WRITTEN / part, folder, ignore=shutil.ignore_patterns("metrics.csv"), dirs_exist_ok=True)
    for path in sorted(folder.rglob("*.checkpoint")):
        path.rename(path.with_suffix(".ckpt"))
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the old runs, with their configs."""
    monkeypatch.chdir(copied(tmp_path, "config", "checkpoint"))
    return tmp_path


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the old study; what is not kept of its networks is only asked to be there."""
    monkeypatch.chdir(copied(tmp_path, "config", "study"))
    shutil.rmtree(tmp_path / "report")
    for marker in (tmp_path / "study").rglob("fit.done.json"):
        for name in ("cell.yaml", "best.ckpt"):
            (marker.parent / name).touch()
    for marker in (tmp_path / "study").rglob("means.done.json"):
        (marker.parent / "mean_input.safetensors").touch()
    return tmp_path


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same_table(found: Path, expected: Path, tolerance: float = 1e-6, of_counts: float = 0.0) -> None:
    """All cells of two CSV files; numbers up to the tolerance, counts of pixels (all but losses) up to a larger one."""
    ours, theirs = table_of(found), table_of(expected)
    assert len(ours) == len(theirs), f"{found} has {len(ours)} rows, {expected} {len(theirs)}"
    for line, (our, their) in enumerate(zip(ours, theirs), start=2):
        assert set(our) >= set(their), f"{found} lacks {sorted(set(their) - set(our))}"
        for column, cell in their.items():
            where = f"line {line}, {column}: {our[column]!r} and {cell!r}"
            try:
                value = float(cell)
            except ValueError:
                assert our[column] == cell, where
            else:
                limit = tolerance if column.endswith("loss") else max(tolerance, of_counts)
                assert math.isclose(float(our[column] or "nan"), value, rel_tol=limit, abs_tol=limit), where


# Adapters


def adapter_of(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An adapter that was saved in a folder of its own, or in one of several by name."""
    place, _, name = case.partition("/")
    if name:
        return load(folder / "adapter" / place, networks.mixed_network(), name)
    monkeypatch.chdir(folder / "adapter" / place)  # one names a file beside it
    return load(".", networks.mixed_network())


@pytest.mark.parametrize("case", [case for case in OUTPUTS if case != "base"])
@torch.no_grad()
def test_adapters_do_what_they_did(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(WRITTEN / "adapter", tmp_path / "adapter")
    adapted, expected = adapter_of(case, tmp_path, monkeypatch), OUTPUTS[case]
    masks, (args, kwargs) = Modalities(networks.MODALITIES).masks(), networks.mixed_call(3, gains=case == "grouped")
    for mask, outputs in zip(masks, expected):
        torch.testing.assert_close(
            adapted(*args, **kwargs, available=mask.expand(3, -1)), outputs, rtol=1e-5, atol=1e-6
        )
    chosen = torch.tensor([0, 4, 5])
    mixed = adapted(*args, **kwargs, available=masks[chosen])
    torch.testing.assert_close(mixed, expected[chosen, torch.arange(3)], rtol=1e-5, atol=1e-6)
    if case != "grouped":
        torch.testing.assert_close(adapted(*args, **kwargs), OUTPUTS["base"], rtol=1e-5, atol=1e-6)


def test_adapters_are_saved_again_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("ssf_additive", "together", "shift_only"):
        monkeypatch.chdir(tmp_path)
        load(WRITTEN / "adapter" / case, networks.mixed_network()).save(case)
        old, new = (load_file(place / case / "adapter_model.safetensors") for place in (WRITTEN / "adapter", tmp_path))
        assert set(old) == set(new)
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_adapters_by_name_and_the_fingerprint() -> None:
    assert list_adapters(WRITTEN / "adapter" / "named") == ["first", "rgb+depth.v2"]
    expected = (WRITTEN / "adapter" / "fingerprint.txt").read_text(encoding="utf-8").strip()
    assert fingerprint(networks.mixed_network()) == expected


# Networks, whose weights lie in checkpoints


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in STATES]
)
@torch.no_grad()
def test_networks_take_the_weights_that_they_had(name: str) -> None:
    make, inputs = networks.PACKAGE_NETWORKS[name]
    network, state = make(), dict[str, Tensor]()
    for key, (dtype, *shape) in STATES[name].items():
        state[key] = networks.numbered_tensor(key, torch.zeros(shape, dtype=getattr(torch, dtype)))
    network.load_state_dict(state)
    expected = {
        key.removeprefix(f"{name}/"): value
        for key, value in load_file(WRITTEN / "networks" / "outputs.safetensors").items()
        if key.startswith(f"{name}/")
    }
    found = networks.outputs_of(network.eval(), inputs())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# Exports


def require_release_of(folder: Path) -> None:
    """Skip if torch is older than the one that wrote the programs, or onnxruntime is missing."""
    versions = json.loads((folder / "export.json").read_text(encoding="utf-8"))["versions"]
    if "onnxruntime" in versions:
        pytest.importorskip("onnxruntime")
    else:
        pytest.importorskip("torch", minversion=versions["torch"].partition("+")[0])


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_exports_run(backend: str, tmp_path: Path) -> None:
    require_release_of(WRITTEN / "export" / backend)
    runtime = Runtime(shutil.copytree(WRITTEN / "export" / backend, tmp_path / backend), backend)
    expected, inputs = load_file(WRITTEN / "export" / "outputs.safetensors"), networks.sensors_inputs()
    names = Modalities(["rgb", "steps"])
    for combination in names.combinations():
        given = {name: inputs[name] for name in names.parse(combination)}
        if combination in runtime.programs or "any" in runtime.programs:
            for output, value in runtime(given).items():
                torch.testing.assert_close(value, expected[f"{combination}/{output}"], rtol=1e-5, atol=1e-5)
    if "any" in runtime.programs:
        mixed = runtime(inputs, available=names.masks()[torch.tensor([0, 1, 2, 1])])["logits"]
        rows = [expected[f"{name}/logits"][row] for row, name in enumerate(["rgb", "steps", "rgb+steps", "steps"])]
        torch.testing.assert_close(mixed, torch.stack(rows), rtol=1e-5, atol=1e-5)


def test_exports_without_an_adapter_run(tmp_path: Path) -> None:
    require_release_of(WRITTEN / "export" / "plain")
    runtime = Runtime(shutil.copytree(WRITTEN / "export" / "plain", tmp_path / "plain"))
    expected = load_file(WRITTEN / "export" / "outputs.safetensors")["plain/logits"]
    torch.testing.assert_close(runtime(networks.sensors_inputs())["logits"], expected, rtol=1e-5, atol=1e-5)


# Small files: means, tables of what is missing


def test_tables_of_what_is_missing() -> None:
    table, names = SavedTable(str(WRITTEN / "checkpoint" / "missing.npz")), Modalities(["rgb", "depth"])
    drawn = IndependentMissing(0.4).draw(names, range(12), epoch=0, seed=1)
    assert torch.equal(table.draw(names, range(12), epoch=3, seed=7), drawn)
    assert not drawn.all()
    assert table.header["modalities"] == ["rgb", "depth"]


def test_mean_inputs_are_read_and_are_what_they_were(runs: Path) -> None:
    means = load_file("mean_input.safetensors")
    filled = MeanInput("mean_input.safetensors")("rgb", torch.ones(2, 3, 16, 16), torch.tensor([True, False]))
    torch.testing.assert_close(filled[1], means["rgb"], rtol=0, atol=0)
    assert main(["mean_input", "-c", "base.yaml", "--out", "again.safetensors"]) == 0
    again = load_file("again.safetensors")
    assert set(again) == set(means)
    for name, mean in means.items():
        torch.testing.assert_close(again[name], mean, rtol=1e-5, atol=1e-6)


# Sweeps


def unescaped(path: Path) -> str:
    """A table as older versions wrote it: its first note was no text but the definition of a link."""
    return path.read_text(encoding="utf-8").replace("[low, high\\]: ", "[low, high]: ")


def test_sweeps_are_read_with_their_samples_and_intervals(tmp_path: Path) -> None:
    folder = shutil.copytree(WRITTEN / "checkpoint" / "ssf" / "sweep", tmp_path / "sweep")
    result = read(folder)
    assert (result.modalities, result.primary_metric) == (["rgb", "depth"], "miou")
    assert result.methods == ["zero_fill", "adapted"]
    summary = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["summary"]["adapted"]["miou"]
    assert result.summary("adapted", "miou")["mean"] == pytest.approx(summary["mean"])
    assert result.summary("adapted", "miou")["mean_interval"] == pytest.approx(summary["mean_interval"])
    written = save(result, tmp_path / "again")
    assert written["csv"].read_bytes() == (folder / "sweep.csv").read_bytes()
    assert unescaped(written["markdown"]) == (folder / "sweep.md").read_text(encoding="utf-8")
    with np.load(folder / "sweep_samples.npz") as old, np.load(written["samples"]) as new:
        assert set(old.files) == set(new.files)
        for name in old.files:
            np.testing.assert_array_equal(old[name], new[name])


def test_a_table_of_sweeps(runs: Path) -> None:
    assert main(["table", "base/sweep", "ssf/sweep", "--out", "again"]) == 0
    for name in ("sweep.csv", "sweep.md"):
        assert unescaped(Path("again", name)) == Path("table", name).read_text(encoding="utf-8"), name


# Checkpoints


@pytest.mark.parametrize(
    "options", [["base"], ["base", "--split", "val"], ["ssf"], ["placed"], ["refitted"]], ids=" ".join
)
def test_checkpoints_are_swept_with_the_same_figures(options: list[str], runs: Path) -> None:
    name, *split = options
    stack = [part for config in STACKS[name] for part in ("-c", config)]
    more = ["--trainer.logger", "false", "--bootstrap", "20" if name == "ssf" else "0", *split]
    assert main(["sweep", *stack, "--ckpt_path", f"{name}/best.ckpt", "--out", "again", *more]) == 0
    assert_same_table(Path("again/sweep.csv"), Path(name, "sweep_val" if split else "sweep", "sweep.csv"))


def test_a_checkpoint_is_loaded_without_the_command_line(runs: Path) -> None:
    network = networks.TinyNetwork({"rgb": 3, "depth": 1}, 6)
    task = SemanticSegmentationTask.load_from_checkpoint("base/best.ckpt", model=network).eval()
    with np.load("base/predictions/batch-000000-rank0.npz") as file:
        expected = dict(file)
    samples = [Scenes("test", size=16)[index] for index in expected["index"].tolist()]
    inputs = {
        name: torch.stack([torch.as_tensor(sample["inputs"][name]) for sample in samples]) for name in network.channels
    }
    available = Complete().draw(Modalities(["rgb", "depth"]), range(len(samples)), epoch=0, seed=0)
    batch = {"inputs": inputs, "available": available, "index": torch.arange(len(samples))}
    with torch.no_grad():
        found = task.predict_step(batch, 0)["prediction"].numpy()
    np.testing.assert_array_equal(found, expected["prediction"])


@pytest.mark.parametrize(("name", "more"), [("base", "resumed"), ("ssf", "ssf_resumed")])
@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_a_stopped_fit_goes_on_with_its_own_config(name: str, more: str, runs: Path) -> None:
    """Optimizer, schedule, seeds and the state of callbacks; `fit.yaml` is what the old fit wrote.

    Kernels of another processor round differently, which two epochs make 3e-4 of the loss, and some pixels of a class.
    """
    fit = ["fit", "-c", f"{name}/fit.yaml", "--ckpt_path", f"{name}/last.ckpt", "--trainer.max_epochs", "4"]
    assert main([*fit, *INTO_AGAIN]) == 0
    assert_same_table(Path("again/metrics.csv"), WRITTEN / "checkpoint" / more / "metrics.csv", 1e-3, of_counts=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["placed", "from_table"])
def test_a_fit_from_an_old_base_comes_to_the_same(name: str, runs: Path) -> None:
    stack = [part for config in STACKS[name] for part in ("-c", config)]
    assert main(["fit", *stack, "--trainer.default_root_dir", "again"]) == 0
    assert_same_table(Path("again/metrics.csv"), WRITTEN / "checkpoint" / name / "metrics.csv", 1e-5)
    if name == "placed":
        old, new = (json.loads(Path(place, "placement.json").read_text(encoding="utf-8")) for place in (name, "again"))
        assert [layer["chosen"] for layer in new["layers"]] == [layer["chosen"] for layer in old["layers"]]


@pytest.mark.parametrize(
    "whole", [pytest.param(False, id="as_written"), pytest.param(True, id="all_keys", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("task", ["segmentation", "classification", "sentiment"])
def test_the_teacher_is_asked_for_by_its_old_keys(task: str, whole: bool, runs: Path) -> None:
    """By the few keys that a user writes, and by all that `fit.yaml` holds."""
    folder = f"teacher/{task}/adapted"
    stack = ["-c", f"{folder}/fit.yaml"] if whole else ["-c", f"{task}.yaml", "-c", f"{task}_teacher.yaml"]
    base = ["--model.init_args.base_ckpt", f"teacher/{task}/base/best.ckpt"]
    with pytest.warns(FutureWarning, match=r"model\.init_args\.distillation\.weight was teacher_weight"):
        assert main(["fit", *stack, *base, *INTO_AGAIN]) == 0
    assert_same_table(Path("again/metrics.csv"), WRITTEN / "checkpoint" / folder / "metrics.csv", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification", "sentiment"])
def test_a_base_is_trained_as_it_was(task: str, runs: Path) -> None:
    """With auxiliary losses. The random start is the same as long as layers are made in the same order.

    Kernels of another processor round differently, as above.
    """
    assert main(["fit", "-c", f"{task}.yaml", "--trainer.default_root_dir", "again"]) == 0
    written = WRITTEN / "checkpoint/teacher" / task / "base/metrics.csv"
    assert_same_table(Path("again/metrics.csv"), written, 1e-3, of_counts=5e-3)


# A study


@pytest.mark.slow
def test_a_finished_study_is_not_run_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markers = {path: path.read_bytes() for path in (study / "study").rglob("*.done.json")}
    assert main(["compare", "-c", "study.yaml", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("done  ")]) == 32
    assert not [line for line in lines if line.startswith("open  ")]
    assert main(["compare", "-c", "study.yaml"]) == 0
    assert "[1/" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (study / "study").rglob("*.done.json")} == markers
    old = WRITTEN / "study" / "report"
    for name in ("sweep.csv", "sweep.md"):
        assert (study / "report" / name).read_text(encoding="utf-8") == (old / name).read_text(encoding="utf-8"), name
    was, now = (json.loads((place / "study.json").read_text(encoding="utf-8")) for place in (old, study / "report"))
    of_a_machine = ("machine", "versions", "commit")
    assert {key: now[key] for key in was if key not in of_a_machine} == {
        key: value for key, value in was.items() if key not in of_a_machine
    }
    again, before = (read(place) for place in (study / "report", old))
    assert (again.parameters, again.seconds, again.notes) == (before.parameters, before.seconds, before.notes)


@pytest.mark.slow
def test_one_step_of_an_old_study_is_run_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the networks that the old study trained."""
    removed = [study / "study/zero_fill/seed0/test.done.json", study / "study/adapted/lr=0.03/seed0/test.done.json"]
    for marker in removed:
        marker.unlink()
        shutil.rmtree(marker.parent / "sweep")
    (study / "study/zero_fill/seed0/fit.done.json").unlink()  # writes the config of the sweep, which is not kept here
    assert main(["compare", "-c", "study.yaml"]) == 0
    assert capsys.readouterr().out.count(" test ") == 2
    assert_same_table(study / "report" / "sweep.csv", WRITTEN / "study" / "report" / "sweep.csv")


def test_a_network_of_an_old_study_is_swept_by_hand(study: Path) -> None:
    cell = "study/adapted/lr=0.03/seed0"
    sweep = [
        "sweep",
        "-c",
        f"{cell}/cell.yaml",
        "--ckpt_path",
        f"{cell}/best.ckpt",
        "--out",
        "again",
        "--bootstrap",
        "0",
    ]
    assert main([*sweep, "--method", "adapted", "--baseline", "false"]) == 0
    assert_same_table(Path("again/sweep.csv"), WRITTEN / "study" / cell / "sweep" / "sweep.csv")
