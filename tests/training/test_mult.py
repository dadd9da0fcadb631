"""MulT learns a signal that all modalities show, and adapting pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.adapters import SSF, OneHot
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.missing import UniformCombinations
from lightning_mm.models import MulT
from lightning_mm.sweep import sweep
from lightning_mm.tasks import SentimentTask
from tests.support.new_tasks import CHANNELS, NAMES, data, trainer

KIND = "sentiment"
CHANCE = 4 / 3
"""The mean absolute error of always answering 0, when sentiments are -2, 0 and 2."""


@pytest.mark.slow
def test_mult_learns_and_adapting_pays(tmp_path: Path) -> None:
    """A base that saw complete data only, then SSF on every incomplete combination."""
    torch.manual_seed(0)
    network = MulT({name: CHANNELS[name] for name in NAMES[KIND]}, dim=10, heads=2, levels=1, embedding_dropout=0.1)
    optimizer: Any = lambda groups: torch.optim.Adam(groups, lr=0.003)  # noqa: E731
    task = SentimentTask(network, NAMES[KIND], optimizer=optimizer)
    settings: dict[str, Any] = {"enable_checkpointing": False, "limit_val_batches": 0, "gradient_clip_val": 0.8}
    whole = data(KIND, length=96, batch_size=16)
    trainer(tmp_path, [KeyedSeed(0)], epochs=12, **settings).fit(task, whole)
    base = {key: value.clone() for key, value in task.model.state_dict().items()}

    callbacks = [KeyedSeed(0), FrozenBackboneAdapter(SSF(), OneHot(), exclude=["head*"])]
    partly = data(KIND, length=96, batch_size=16, policy=UniformCombinations(include_full=False))
    trainer(tmp_path, callbacks, epochs=12, **settings).fit(task, partly)
    assert all(torch.equal(value, base[key]) for key, value in task.model.state_dict().items())

    result = sweep(task, data(KIND, length=96, batch_size=32), trainer=trainer(tmp_path, []), bootstrap=0)
    assert result.value("adapted", "+".join(NAMES[KIND]), "mae") < CHANCE / 2
    before, after = result.mean("zero_fill"), result.mean("adapted")
    assert after < before - 0.05, (before, after)
    assert after < CHANCE - 0.2, (before, after)
