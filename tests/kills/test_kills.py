"""Commands that are stopped or killed at named points: the right exit code, nobody and nothing left, the same files.

After a stop the command is run again, a training with ``--ckpt_path auto``; the files then equal those of a command
that nobody has stopped. Every test prints the table of its kills.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mm.adapters import load
from lightning_mm.errors import LightningMMError
from tests.support.kill_client import Server
from tests.support.kill_server import saved_network
from tests.support.studies import write_study
from tests.support.tiny_run import BASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and /proc to look for processes"),
]

CODES = ("SIGKILL", "SIGTERM", "SIGINT")
MORE = """
trainer:
  max_epochs: 3
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args:
      {dirpath: "${trainer.default_root_dir}", filename: best, monitor: val/miou, mode: max, save_last: true,
       enable_version_counter: false}
data: {dataset: {init_args: {train_length: 12, val_length: 6}}}
"""
TASK, MODULE = "lightning_mm.tasks.base:BaseTask", "lightning_mm.data.module:ModalityDropoutDataModule"
FIT = {
    "before the data": f"{MODULE}.setup:1",
    "2nd of 3 batches, epoch 0": f"{TASK}.training_step:2",
    "1st of 3 batches, epoch 1": f"{TASK}.training_step:4",
    "2nd of 3 batches, epoch 1": f"{TASK}.training_step:5",
    "last batch, epoch 1": f"{TASK}.training_step:6",
    "1st validation batch, epoch 1": f"{TASK}.validation_step:3",
    "fit.yaml is written": "replace:fit.yaml:1",
    "best.ckpt is written": "replace:best.ckpt:1",
    "last.ckpt is written again": "replace:last.ckpt:2",
    "the training has ended": f"{TASK}.on_train_end:1",
}
SWEEP = {
    "1st batch": "lightning_mm.sweep.module:SweepModule.test_step:1",
    "intervals": "lightning_mm.sweep.run:replicate_metrics:2",
    "sweep.csv is written": "replace:sweep.csv:1",
    "sweep.png is written": "replace:sweep.png:1",
}
EXPORT = {
    "2nd program is compared": "lightning_mm.export.exporting:cases:2",
    "export.json is put in place": "replace:export.json:1",
}
SAVE = {
    "weights are put in place": "replace:adapter_model.safetensors:1",
    "config is put in place": "replace:adapter_config.json:1",
}
STUDY = {
    "1st step runs": "lightning_mm.compare.executor:wait:1",
    "4th step runs": "lightning_mm.compare.executor:wait:4",
    "values are chosen": "lightning_mm.compare.runner:choose:1",
    "the table is written": "replace:sweep.csv:1",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("kills"))
    (made.folder / "base.yaml").write_text(BASE)
    (made.folder / "more.yaml").write_text(MORE)
    made.whole("main", fit("whole"))
    with made.process:  # closes its input, which ends it
        yield made
    print(f"\n{len(made.kills)} kills\n" + "\n".join(made.kills))


def fit(folder: str, *more: str) -> list[str]:
    return ["fit", "-c", "base.yaml", "-c", "more.yaml", "--trainer.default_root_dir", folder, *more]


def sweep(folder: str) -> list[str]:
    given = ["--ckpt_path", "whole/best.ckpt", "--bootstrap", "20", "--out", folder]
    return ["sweep", "-c", "base.yaml", "-c", "more.yaml", "--trainer.default_root_dir", folder, *given]


def export(folder: str) -> list[str]:
    given = [
        "--ckpt_path",
        "whole/best.ckpt",
        "--combinations",
        "[rgb, depth]",
        "--formats",
        "[torch]",
        "--mixed",
        "false",
    ]
    return [
        "export",
        "-c",
        "base.yaml",
        "-c",
        "more.yaml",
        "--trainer.default_root_dir",
        folder,
        "--out",
        folder,
        *given,
    ]


def contents(folder: Path) -> dict[str, Any]:
    """All files of a command but for times, its folder's name, and where it was resumed."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".ckpt":
            kept = torch.load(path, weights_only=True)
            tensors = {key: value.tolist() for key, value in kept["state_dict"].items()}
            steps = [one["state"] for one in kept["optimizer_states"]]
            best = [one.get("best_model_score") for one in kept["callbacks"].values()]
            found[name] = repr([kept["epoch"], kept["global_step"], tensors, steps, best])
        elif path.suffix == ".yaml":
            config = yaml.safe_load(path.read_text())
            del config["trainer"]["default_root_dir"], config["ckpt_path"]
            found[name] = str(config).replace(folder.name, "")
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
            for key in (
                "created",
                "config",
                "seconds",
                "inference_seconds",
                "command_seconds",
                "base_seconds",
                "training_seconds",
                "tuning_seconds",
            ):
                content.pop(key, None)
            found[name] = str(content).replace(str(folder), "")
        elif path.suffix in (".csv", ".npz", ".pt2", ".safetensors"):
            found[name] = path.read_bytes()
        else:
            found[name] = path.is_file()
    return found


@pytest.mark.parametrize("number", CODES)
def test_fit(server: Server, number: str) -> None:
    whole = contents(server.folder / "whole")
    for place, (name, point) in enumerate(FIT.items()):
        folder = f"fit{number}{place}"
        server.killed("main", fit(folder), point, name, number)
        resume = server.folder / folder / "resume.ckpt"
        if number != "SIGKILL" and place not in (0, 6, 9):
            assert "resume with --ckpt_path" in server.log()
            assert resume.is_file()
        server.whole("main", fit(folder, "--ckpt_path", "auto"))
        assert not resume.exists()
        after = contents(server.folder / folder)
        assert list(after) == list(whole), name
        assert [key for key in whole if after[key] != whole[key]] == [], name


@pytest.mark.parametrize(("what", "points"), [("sweep", SWEEP), ("export", EXPORT)])
def test_sweep_and_export(server: Server, what: str, points: dict[str, str]) -> None:
    command = {"sweep": sweep, "export": export}[what]
    server.whole("main", command(f"{what}_whole"))
    whole = contents(server.folder / f"{what}_whole")
    for number in CODES:
        for place, (name, point) in enumerate(points.items()):
            folder = f"{what}{number}{place}"
            server.killed("main", command(folder), point, name, number)
            server.whole("main", command(folder))
            assert contents(server.folder / folder) == whole, name


def test_save(server: Server) -> None:
    server.whole("save", ["save_whole", "2"])
    for number in CODES:
        for place, (name, point) in enumerate(SAVE.items()):
            folder = f"save{number}{place}"
            server.whole("save", [folder, "1"])
            server.killed("save", [folder, "2"], point, name, number)
            if number == "SIGKILL" and place == 1:
                with pytest.raises(LightningMMError, match=r"were not saved together.*save the adapter again"):
                    load(server.folder / folder, saved_network()[0])
            else:
                value = 1.0 if number == "SIGKILL" else 2.0  # a signal between two files waits for the second
                kept = load(server.folder / folder, saved_network()[0]).adapter.parameters()
                assert all(one.eq(value).all() for one in kept)
            server.whole("save", [folder, "2"])
            assert contents(server.folder / folder) == contents(server.folder / "save_whole")


def test_study(server: Server) -> None:
    def new(name: str) -> list[str]:
        folder = server.folder / name
        folder.mkdir()
        return [str(write_study(folder, name="killed", out=str(folder / "out"), results=str(folder / "report")))]

    server.whole("study", new("study_whole"))
    whole = contents(server.folder / "study_whole" / "report")
    for number in CODES:
        for place, (name, point) in enumerate(STUDY.items()):
            study = new(f"study{number}{place}")
            server.killed("study", study, point, name, number)
            server.whole("study", study)
            assert contents(Path(study[0]).parent / "report") == whole, name
            assert not list(Path(study[0]).parent.rglob("*.part"))


def test_other_verbs_and_a_second_signal(server: Server) -> None:
    given = [
        "-c",
        "base.yaml",
        "-c",
        "more.yaml",
        "--trainer.default_root_dir",
        "others",
        "--ckpt_path",
        "whole/best.ckpt",
    ]
    steps = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}
    for verb, step in steps.items():
        server.killed("main", [verb, *given], f"{TASK}.{step}:1", step, "SIGTERM")
    answer = server.run("main", fit("twice"), f"{TASK}.training_step:2", "SIGTERM", "SIGTERM")
    assert answer == {"code": 143, "left": []}
    assert "ended at once" in server.log()
    loaders = fit("loaders", "--data.num_workers", "2")
    for number in CODES:
        server.killed("main", loaders, f"{TASK}.training_step:2", "with two loader processes", number)


def test_a_full_disk_is_one_message_and_leaves_the_old_files(server: Server) -> None:
    for command, limit, written in (
        (fit("full_fit"), 8000, "best.ckpt"),
        (fit("full_yaml"), 1000, "fit.yaml"),
        (sweep("full_sweep"), 1000, "sweep.csv"),
        (sweep("full_png"), 20_000, "sweep.png"),
        (export("full_export"), 4000, "full_export/rgb.pt2"),
    ):
        folder = server.folder / command[command.index("--trainer.default_root_dir") + 1]
        for _ in range(2):
            assert server.run("main", command, limit=limit) == {"code": 1, "left": []}, server.log()
            last = server.log().splitlines()[-1]
            assert re.fullmatch(
                rf"lightning-mm: error: cannot write .*{written}: File too large; make room .*", last
            ), last
            assert "Traceback" not in server.log()
        assert not list(folder.rglob("*.part"))
        assert not (server.folder / folder.name / Path(written).name).exists()
