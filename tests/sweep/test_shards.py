"""Shards of a sweep, merged, are the sweep of one process, byte for byte, and costs of one network count once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from lightning_mm import Modalities
from lightning_mm.cli import main
from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.results import SweepResult, merge, read, save
from lightning_mm.results.shards.shard import Shard
from lightning_mm.sweep import sweep
from tests.support.sweep_tasks import NAMES, Scores, VoteTask, loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
TIMES = ("inference_seconds", "versions", "commit")
BIAS = [0.4, -0.2, 0.3]


@pytest.fixture(autouse=True)
def short_sweeps_measure_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_mm.sweep.module.FEWEST_COSTED", 0)


def swept(methods: Any, **settings: Any) -> SweepResult:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    return sweep(methods, loader(Scores(gaps=True)), trainer=trainer, **{"bootstrap": 20, "seed": 3, **settings})


def networks() -> dict[str, Any]:
    """A network with an adapter, and dedicated ones in another order than that of the combinations."""
    return {"ssf": VoteTask(NAMES, bias=BIAS), "dedicated": [VoteTask(["rgb", "depth"], [1.0, 2.0]), VoteTask(["rgb"])]}


def written(result: SweepResult, folder: Path) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """What is on disk of a result, without times and versions."""
    save(result, folder, timestamp=False)
    content = json.loads((folder / "sweep.json").read_text())
    arrays = dict(np.load(folder / "sweep_samples.npz"))
    return (folder / "sweep.csv").read_bytes(), {k: v for k, v in content.items() if k not in TIMES}, arrays


@pytest.mark.parametrize(
    "parts", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_merged_shards_are_the_sweep_of_one_process(parts: int, tmp_path: Path) -> None:
    whole = written(swept(networks()), tmp_path / "whole")
    folders = [tmp_path / f"{number}of{parts}" for number in range(parts, 0, -1)]
    for folder in folders:
        save(swept(networks(), shard=folder.name.replace("of", "/")), folder)
    found = written(merge([read(folder) for folder in folders]), tmp_path / "merged")
    assert found[0] == whole[0]
    assert json.dumps(found[1]) == json.dumps(whole[1])
    assert list(found[2]) == list(whole[2])
    assert all((found[2][key] == values).all() for key, values in whole[2].items())
    assert whole[1]["parameters"] == {
        "zero_fill": {"trained": 0, "base": 3},
        "ssf": {"trained": 3, "base": 3, "per_combination": 2},
        "dedicated": {"trained": 3, "base": 3},
    }


def test_every_combination_is_in_one_shard_and_shards_are_balanced() -> None:
    combinations = Modalities(["a", "b", "c", "d"]).combinations()
    for of in range(1, 16):
        parts = [Shard(number, of).take(combinations) for number in range(1, of + 1)]
        assert sorted(one for part in parts for one in part) == sorted(combinations)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(LightningMMError, match=r"shard 3/16: the sweep has 15 combinations.* use at most 15 shards"):
        Shard(3, 16).take(combinations)


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "2/", "a/b", "-1/4", "1/0", ""])
def test_a_shard_that_is_none_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(UsageError, match=r"shard: expected the number of this part and of all parts, such as 2/4"):
        swept(VoteTask(NAMES), shard=text)


def test_a_missing_or_doubled_shard_is_named() -> None:
    parts = [swept(VoteTask(NAMES, bias=BIAS), shard=f"{number}/4") for number in range(1, 5)]
    with pytest.raises(LightningMMError, match=r"shard 2/4 and 4/4 of the sweep of zero_fill, adapted \(seed 3\) is m"):
        merge([parts[2], parts[0]])
    with pytest.raises(LightningMMError, match=r"shard 1/4 of the sweep of .* is there twice"):
        merge([*parts, parts[0]])
    other = swept(VoteTask(NAMES, bias=[0.0, 0.0, 0.1]), shard="2/4")
    message = "shard 2/4 of .* is missing.*run it with --shard 2/4.*; shard 2/4 is of another network"
    with pytest.raises(LightningMMError, match=message):
        merge([parts[0], other, *parts[2:]])
    assert len(merge(parts).rows) == 2 * 7 * 2


def test_a_shard_without_a_measured_combination_says_so() -> None:
    never = Scores()
    never.observed[:, 2] = False
    with pytest.raises(LightningMMError, match=r"any of the combinations of shard 3/7; use fewer shards, or leave"):
        sweep(VoteTask(NAMES), loader(never), shard="3/7", bootstrap=0)


def test_costs_of_one_network_count_once() -> None:
    task = VoteTask(NAMES, bias=BIAS)
    whole = swept(task)
    parts = [swept(task, combinations=[*one]) for one in (NAMES, ["rgb+depth"], ["depth+thermal", "rgb+depth+thermal"])]
    merged = merge(parts)
    assert merged.parameters == whole.parameters
    assert merged.networks == whole.networks
    assert merged.inference["adapted"] == parts[0].inference["adapted"]
    assert merge([merge(parts[:2]), parts[2]]).parameters == whole.parameters  # in steps too
    # another network of the same size is another network
    with torch.no_grad():
        task.scale += 1
    other = swept(task, combinations=["rgb+thermal"])
    assert merge([*parts, other]).parameters["adapted"]["trained"] == 6
    # results of older releases do not say
    old = [replace(one, networks={}) for one in parts]
    assert merge(old).parameters["adapted"]["trained"] == 9


def test_the_adapter_is_part_of_the_network_where_it_is_on() -> None:
    one, other = (swept(VoteTask(NAMES, bias=bias)).networks for bias in (BIAS, [0.0, 0.0, 0.1]))
    assert one["zero_fill"] == other["zero_fill"]
    assert one["adapted"] != other["adapted"]
    assert len(swept(networks()).networks["dedicated"]) == 2


def test_table_and_merge_put_shards_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        save(swept(VoteTask(NAMES, bias=BIAS), shard=f"{number}/2"), tmp_path / "shards" / f"{number}of2")
    whole = written(swept(VoteTask(NAMES, bias=BIAS)), tmp_path / "whole")
    assert main(["merge", str(tmp_path / "shards"), "--out", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged" / "sweep.csv").read_bytes() == whole[0]
    folders = [str(tmp_path / "shards" / f"{number}of2") for number in (2, 1)]
    assert main(["table", *folders, "--out", str(tmp_path / "table")]) == 0
    assert (tmp_path / "table" / "sweep.csv").read_bytes() == whole[0]
    capsys.readouterr()
    assert main(["table", folders[0]]) == 1
    assert "shard 1/2 of the sweep of zero_fill, adapted (seed 3) is missing" in capsys.readouterr().err
