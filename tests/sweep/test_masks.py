"""What the sweep takes as observed: every way to write a mask gives the same rows, or one message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import SweepResult, sweep
from tests.support.sweep_tasks import NAMES, SAMPLES, Scores, VoteTask

pytestmark = [pytest.mark.filterwarnings("ignore:.*does not have many workers"), pytest.mark.wrong_types]


def batches(**changes: Any) -> list[dict[str, Any]]:
    """Two batches of samples of which some lack depth; ``changes`` are functions of the positions and the mask."""
    data, made = Scores(gaps=True), []
    for rows in (range(6), range(6, SAMPLES)):
        batch = {
            "inputs": {name: data.inputs[list(rows), column] for column, name in enumerate(NAMES)},
            "target": data.target[list(rows)],
        }
        made.append(batch | {key: change(list(rows), data.observed[list(rows)]) for key, change in changes.items()})
    return made


def run(**changes: Any) -> SweepResult:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip
    loader: DataLoader[Any] = DataLoader(batches(**changes), batch_size=None)  # type: ignore[arg-type]
    return sweep(VoteTask(NAMES), loader, trainer=trainer, bootstrap=0, combinations=["rgb", "depth"])


def test_every_way_to_write_what_was_observed_counts_the_same_samples() -> None:
    expected = run(observed=lambda rows, mask: mask).rows
    assert {(row.combination, row.n) for row in expected} == {("rgb", SAMPLES), ("depth", 7)}
    ways: list[dict[str, Any]] = [
        {"available": lambda rows, mask: mask},  # a loader with one mask only
        {"observed": lambda rows, mask: mask, "available": lambda rows, mask: mask & False},  # dropped by simulation
        {"observed": lambda rows, mask: None, "available": lambda rows, mask: mask},
        {"observed": lambda rows, mask: mask.numpy()},
        {"observed": lambda rows, mask: mask.tolist()},
        {"available": lambda rows, mask: mask.long()},
        {"available": lambda rows, mask: mask.float()},
        {"observed": lambda rows, mask: mask, "index": lambda rows, mask: torch.tensor(rows)},
        {"observed": lambda rows, mask: mask, "index": lambda rows, mask: rows},
        {"observed": lambda rows, mask: mask, "index": lambda rows, mask: np.array(rows)},
        {
            "observed": lambda rows, mask: mask,
            "index": lambda rows, mask: torch.full((len(rows),), -1),
        },  # Collate: none
    ]
    for way in ways:
        assert run(**way).rows == expected


def test_what_is_no_mask_or_no_index_is_refused() -> None:
    cases: list[tuple[str, Any, str]] = [
        ("available", lambda rows, mask: mask[0], r"expected `available` Bool\[6, 3\] .*, got \(3,\)"),
        ("observed", lambda rows, mask: mask[:, :2], r"expected `observed` Bool\[6, 3\] .*, got \(6, 2\)"),
        ("observed", lambda rows, mask: ["rgb"] * len(rows), r"expected `observed` Bool\[6, 3\] .*, got a list"),
        ("available", lambda rows, mask: 0.5 * mask, "got numbers other than 0 and 1"),
        ("available", lambda rows, mask: torch.where(mask, 1.0, torch.nan), "got numbers other than 0 and 1"),
        ("index", lambda rows, mask: [f"case_{row}" for row in rows], r"expected `index` Int\[6\], .*, got a list"),
        ("index", lambda rows, mask: torch.tensor(rows).float(), r"expected `index` Int\[6\]"),
        ("index", lambda rows, mask: torch.tensor(rows)[:, None], r"expected `index` Int\[6\], .*, got \(6, 1\)"),
        ("inputs", lambda rows, mask: [mask, mask, mask], r"expects inputs \{modality: tensor\}, got a list"),
    ]
    for key, change, message in cases:
        with pytest.raises(LightningMMError, match=message):
            run(**{key: change})
