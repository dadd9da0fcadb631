"""The schedule of the recipe against a slow loop, and through a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import BaseTask, WarmupPolynomial
from tests.support.new_tasks import data, task, trainer


def rates(schedule: WarmupPolynomial, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([float(rate) for rate in schedule.get_last_lr()])
        schedule.optimizer.step()
        schedule.step()
    return found


def optimizer() -> torch.optim.Optimizer:
    layer = nn.Linear(2, 2)
    groups: list[dict[str, Any]] = [{"params": [layer.weight]}, {"params": [layer.bias], "lr": 3e-4}]
    return torch.optim.AdamW(groups, lr=6e-5)


@pytest.mark.parametrize(("epochs", "warmup", "per_epoch"), [(100, 10, 1), (20, 0, 1), (6, 2, 5)])
def test_against_a_slow_loop(epochs: int, warmup: int, per_epoch: int) -> None:
    """Ten epochs from a tenth to the whole, then (1 - progress) ** 0.9 to zero at the end."""
    expected = []
    for epoch in range(epochs):
        for step in range(per_epoch):
            now = epoch + step / per_epoch
            factor = 0.1 + 0.9 * now / warmup if now < warmup else (1 - (now - warmup) / (epochs - warmup)) ** 0.9
            expected.append([6e-5 * factor, 3e-4 * factor])
    schedule = WarmupPolynomial(optimizer(), epochs, warmup, steps_per_epoch=per_epoch)
    found = rates(schedule, epochs * per_epoch)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-12)
    assert found[0][0] == pytest.approx(6e-5 * (0.1 if warmup else 1.0))
    assert found[warmup * per_epoch][0] == pytest.approx(6e-5)
    assert schedule.get_last_lr() == [0.0, 0.0]
    schedule.optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.0, 0.0], "and stays there"


def test_a_resumed_schedule_goes_on() -> None:
    whole = rates(WarmupPolynomial(optimizer(), 8, 3), 8)
    first = WarmupPolynomial(optimizer(), 8, 3)
    begun = rates(first, 4)
    second = WarmupPolynomial(optimizer(), 8, 3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert begun + rates(second, 4) == whole


@pytest.mark.parametrize(("batch_size", "accumulated", "steps"), [(4, 1, 3), (12, 1, 1), (2, 4, 2)])
def test_steps_of_an_epoch_are_the_trainers(tmp_path: Path, batch_size: int, accumulated: int, steps: int) -> None:
    """Whatever the batch size, the warm-up ends after its epochs and the rate is zero after the last one."""

    class Rates(Callback):
        def __init__(self) -> None:
            self.found: list[float] = []

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
            self.found.append(optimizer.param_groups[0]["lr"])

    one = task(
        "classification",
        lr_scheduler=lambda optimizer: WarmupPolynomial(optimizer, 4, 1, warmup_ratio=0.0, power=1.0),
        lr_interval="step",
    )
    seen = Rates()
    quick: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": False}
    fit = trainer(tmp_path, [seen], epochs=4, accumulate_grad_batches=accumulated, **quick)
    fit.fit(one, data("classification", length=12, batch_size=batch_size))
    rise = [0.01 * step / steps for step in range(steps)]
    fall = [0.01 * (1 - step / (3 * steps)) for step in range(3 * steps)]
    assert seen.found == pytest.approx(rise + fall)
    (config,) = fit.lr_scheduler_configs
    assert config.scheduler.get_last_lr() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 10}, "expected 0 <= warmup_epochs < max_epochs, got 10 and 10; a short run needs"),
        ({"max_epochs": 20, "warmup_ratio": 2.0}, "expected 0 <= warmup_ratio <= 1, .* got 2.0, 0.9 and None"),
        ({"max_epochs": 20, "steps_per_epoch": 0}, "steps_per_epoch >= 1, got 0.1, 0.9 and 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        WarmupPolynomial(optimizer(), **settings)


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_config_builds_it(interval: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((BaseTask,), "model")
    schedule = {"class_path": "lightning_mm.tasks.WarmupPolynomial", "init_args": {"max_epochs": 4, "warmup_epochs": 1}}
    network = {"variant": "B0", "modalities": ["rgb", "thermal"], "num_classes": 3}
    init_args = {
        "model": {"class_path": "lightning_mm.models.CMNeXt", "init_args": network},
        "modalities": ["rgb", "thermal"],
        "num_classes": 3,
        "lr_scheduler": schedule,
        "lr_interval": interval,
    }
    config = {"class_path": "lightning_mm.tasks.SemanticSegmentationTask", "init_args": init_args}
    built: Any = parser.instantiate(parser.parse_object({"model": config})).model
    configured = built.configure_optimizers()["lr_scheduler"]
    assert configured["interval"] == interval
    assert isinstance(configured["scheduler"], WarmupPolynomial)
    assert configured["scheduler"].max_steps == 4
