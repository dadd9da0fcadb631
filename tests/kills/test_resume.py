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
            "first batch of an epoch": training(11),
            "middle": training(15),
            "last batch of an epoch": training(20),
            "first validation batch": validation(5),
            "last validation batch": validation(8),
            "before the data": "lightning_mm.data.module:ModalityDropoutDataModule.setup:1",
        },
    ),
    "adapter, accumulation": (
        [*ADAPTER, "--trainer.accumulate_grad_batches", "3"],
        1,
        {"in a window": training(12), "end of a window": training(13), "last batch": training(20)},
    ),
    "adapter, validation inside epochs, workers": (
        [*ADAPTER, *WORKERS, "--trainer.val_check_interval", "4"],
        1,
        {
            "after a validation": training(15),
            "before a validation": training(14),
            "in a validation": validation(14),
        },
    ),
    "averaged weights": ([*ADAPTER, *AVERAGE], 1, {"middle": training(15), "in a validation": validation(7)}),
    "two ranks": (
        ADAPTER,
        2,
        {
            "first batch of an epoch": training(6),
            "middle": training(8),
            "last batch of an epoch": training(10),
            "in a validation": validation(3),
        },
    ),
    "two ranks, base, accumulation, workers": (
        [*WORKERS, "--trainer.accumulate_grad_batches", "2"],
        2,
        {"in a window": training(8), "last batch": training(10)},
    ),
}


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
    assert server.run("main", fit(f"{start}_whole", ranks, *more), ranks=ranks)["left"] == [], server.log()
    whole = kept(server.folder / f"{start}_whole")
    for number, (name, point) in enumerate(points.items()):
        folder = f"{start}_{number}"
        # with two ranks only one gets the signal; SIGTERM saves just as well
        signal, code = (("SIGTERM", 143) if number % 3 == 2 else ("SIGUSR2", 75))
        answer = server.run("main", fit(folder, ranks, *more), point, signal, ranks=ranks, to=number % ranks)
        assert answer == {"code": code if ranks == 1 else [code] * ranks, "left": []}, f"{name}\n{server.log()}"
        assert "Traceback" not in server.log(), server.log()
        assert server.log().count("stopped by") == 1, server.log()
        answer = server.run("main", fit(folder, ranks, *more), ranks=ranks)
        assert answer == {"code": 0 if ranks == 1 else [0] * ranks, "left": []}, f"{name}\n{server.log()}"
        after = kept(server.folder / folder)
        assert [key for key in whole if after.get(key) != whole[key]] == [], name
        assert not (server.folder / folder / "resume.ckpt").exists()
