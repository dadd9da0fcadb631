"""A training that gets a signal and is started again ends with the same bits as one that was left alone.

Whatever it was doing, on one rank and on two, with loaders' processes, accumulated gradients, validations inside an
epoch, averaged weights; no batch is trained twice or left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.kill_client import Server
from tests.support.tiny_run import BASE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs fork")]

MORE = """
trainer:
  max_epochs: 3
  callbacks:
  - class_path: lightning_mm.callbacks.KeyedSeed
  - class_path: tests.support.batch_record.BatchRecord
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args:
      {dirpath: "${trainer.default_root_dir}", filename: best, monitor: val/miou, mode: max, save_last: true,
       enable_version_counter: false}
data:
  train_policy: {class_path: lightning_mm.missing.UniformCombinations}
  augment: {class_path: lightning_mm.data.Dihedral}
  dataset: {init_args: {train_length: 40, val_length: 8}}
  eval_batch_size: 2
model:
  init_args:
    model: {init_args: {dropout: 0.3}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 30}}
    lr_interval: step
"""
ADAPTER = ["--trainer.callbacks+", "lightning_mm.callbacks.FrozenBackboneAdapter"]
AVERAGE = ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
WORKERS = ["--data.num_workers", "2", "--data.persistent_workers", "true"]
TASK = "lightning_mm.tasks.base:BaseTask"


def training(count: int) -> str:
    return f"{TASK}.training_step:{count}"


def validation(count: int) -> str:
    return f"{TASK}.validation_step:{count}"


CASES: dict[str, tuple[list[str], int, dict[str, str]]] = {
    "base": (
        [],
        1,
        {
            "before the data": "lightning_mm.data.module:ModalityDropoutDataModule.setup:1",
            "first batch of an epoch": training(11),
            "middle": training(4),
            "last batch of an epoch": training(5),
            "first validation batch": validation(1),
            "last validation batch": validation(4),
        },
    ),
    "adapter, accumulation": (
        [*ADAPTER, "--trainer.accumulate_grad_batches", "3"],
        1,
        {"in a window": training(12), "end of a window": training(3), "last batch": training(4)},
    ),
    "adapter, validation inside epochs, workers": (
        [*ADAPTER, *WORKERS, "--trainer.val_check_interval", "4"],
        1,
        {"before a validation": training(14), "in a validation": validation(2), "after a validation": validation(4)},
    ),
    "averaged weights": ([*ADAPTER, *AVERAGE], 1, {"middle": training(15), "in a validation": validation(2)}),
    "two ranks, accumulation, workers": (
        [*WORKERS, "--trainer.accumulate_grad_batches", "2"],
        2,
        {
            "in a window": training(6),
            "end of a window": training(2),
            "last batch of an epoch": training(1),
            "in a validation": validation(1),
        },
    ),
}
"""What is trained, on how many ranks, and when signals come, one after the other; calls are counted in each process."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("resumed"))
    (made.folder / "base.yaml").write_text(BASE)
    (made.folder / "more.yaml").write_text(MORE)
    with made.process:  # closes its input, which ends it
        yield made


def fit(folder: str, ranks: int, *more: str) -> list[str]:
    given = ["fit", "-c", "base.yaml", "-c", "more.yaml", "--trainer.default_root_dir", folder, "--ckpt_path", "auto"]
    return [*given, "--trainer.devices", str(ranks), *(["--trainer.strategy", "ddp"] if ranks > 1 else []), *more]


def kept(folder: Path) -> dict[str, Any]:
    """Everything that decides how a run goes on, and which batches it has trained."""
    found: dict[str, Any] = {path.name: path.read_text() for path in sorted(folder.glob("batches.*"))}
    for name in ("best", "last"):
        content = torch.load(folder / f"{name}.ckpt", weights_only=True)
        progress = content["loops"]["fit_loop"]
        found[name] = repr(
            [
                *(content[key] for key in ("epoch", "global_step", "optimizer_states", "lr_schedulers")),
                {key: value.tolist() for key, value in content["state_dict"].items()},
                [one.get("best_model_score") for one in content["callbacks"].values() if "best_model_score" in one],
                {key: value for key, value in progress.items() if "val_loop" not in key},
            ]
        )
    return found


@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_uninterrupted(server: Server, case: str) -> None:
    more, ranks, points = CASES[case]
    start = case.replace(" ", "_")
    well = 0 if ranks == 1 else [0] * ranks
    command = fit(f"{start}_whole", ranks, *more)
    assert server.run("main", command, ranks=ranks) == {"code": well, "left": []}, server.log()
    whole = kept(server.folder / f"{start}_whole")
    command = fit(start, ranks, *more)
    for number, (name, point) in enumerate(points.items()):
        # With two ranks only one gets the signal; SIGTERM saves just as well.
        signal, code = ("SIGTERM", 143) if number % 3 == 2 else ("SIGUSR2", 75)
        answer = server.run("main", command, point, signal, ranks=ranks, to=number % ranks)
        assert answer == {"code": code if ranks == 1 else [code] * ranks, "left": []}, f"{name}\n{server.log()}"
        assert "Traceback" not in server.log(), server.log()
        assert server.log().count("stopped by") == 1, server.log()
    assert server.run("main", command, ranks=ranks) == {"code": well, "left": []}, server.log()
    after = kept(server.folder / start)
    assert [key for key in whole if after.get(key) != whole[key]] == []
    assert not (server.folder / start / "resume.ckpt").exists()


def test_a_kill_while_it_is_written_leaves_the_older_one(server: Server) -> None:
    often = [
        "--trainer.callbacks+",
        "lightning_mm.callbacks.ResumeCheckpoint",
        "--trainer.callbacks.every_minutes",
        "1e-9",
    ]
    folder = server.folder / "killed"
    answer = server.run("main", fit("killed", 1, *often), "replace:resume.ckpt:5", "SIGKILL")
    assert answer == {"code": -9, "left": []}
    assert torch.load(folder / "resume.ckpt", weights_only=True)["global_step"] == 4
    trained = (folder / "batches.0.txt").read_text().splitlines()
    (folder / "batches.0.txt").write_text("".join(f"{line}\n" for line in trained[:4]))  # the fifth is trained again
    server.whole("main", fit("killed", 1))
    server.whole("main", fit("killed_whole", 1))
    assert kept(folder) == kept(server.folder / "killed_whole")
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_is_said_and_nobody_waits(server: Server, ranks: int) -> None:
    folder = f"full{ranks}"
    answer = server.run("main", fit(folder, ranks), training(3), "SIGUSR2", limit=6000, ranks=ranks)
    assert answer == {"code": 75 if ranks == 1 else [75] * ranks, "left": []}, server.log()
    assert "stopped by SIGUSR2; resume.ckpt was not written: cannot write " in server.log()
    assert "resume.ckpt: File too large" in server.log()
    assert not list((server.folder / folder).glob("*.ckpt"))
    assert not list((server.folder / folder).glob(".*.part"))
