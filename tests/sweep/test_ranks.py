"""The command `sweep` on two processes, and in shards that are merged, writes what one process writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.cli import main
from tests.support.tiny_run import BASE, SSF

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
ASKED = ("trainer", "out", "shard")
"""Settings that say how the sweep was run."""


def run(verb: str, folder: Path, *options: str) -> None:
    # seven samples: two processes get unequal numbers of them
    data = ["--data.dataset.init_args.test_length", "7", "--trainer.default_root_dir", str(folder / "run")]
    ssf = ["-c", str(folder / "ssf.yaml")] if verb == "sweep" or options else []
    assert main([verb, "-c", str(folder / "base.yaml"), *ssf, *data, *options]) == 0


def content(folder: Path) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    found = json.loads((folder / "sweep.json").read_text())
    for key in ("created", "inference_seconds", "versions", "commit"):
        del found[key]
    found["config"] = {key: value for key, value in found["config"].items() if key not in ASKED}
    return (folder / "sweep.csv").read_bytes(), found, dict(np.load(folder / "sweep_samples.npz"))


def test_two_processes_and_merged_shards_equal_one_process(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "ssf.yaml").write_text(SSF)
    run("fit", tmp_path)
    checkpoint, folder = tmp_path / "run" / "weights" / "best.ckpt", tmp_path / "run"
    base = checkpoint.rename(tmp_path / "base.ckpt")
    given = ["--model.init_args.base_ckpt", str(base)]
    run("fit", tmp_path, *given)
    given += ["--ckpt_path", str(checkpoint), "--pictures", "false"]
    run("sweep", tmp_path, *given)
    two = ["--out", str(tmp_path / "two"), "--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    run("sweep", tmp_path, *given, *two)
    for shard in ("2/2", "1/2"):
        run("sweep", tmp_path, *given, "--shard", shard)
    assert main(["merge", str(folder / "sweep_shards"), "--out", str(tmp_path / "merged")]) == 0
    csv, record, arrays = content(folder / "sweep")
    assert {row.split(b",")[5] for row in csv.splitlines()[1:]} == {b"7"}
    assert record["parameters"]["adapted"]["trained"] > 0
    for place in (tmp_path / "two", tmp_path / "merged"):
        other = content(place)
        assert other[0] == csv, place.name
        assert json.dumps(other[1]) == json.dumps(record), place.name
        assert other[2].keys() == arrays.keys()
        assert all(np.array_equal(other[2][key], value, equal_nan=True) for key, value in arrays.items()), place.name
