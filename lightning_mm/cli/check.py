"""The verb ``check``."""

from __future__ import annotations

import json as json_
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.adapters import Basis, Kind
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.callbacks.capture import capture_call
from lightning_mm.callbacks.lookup import network_of
from lightning_mm.cli.lightning.preflight import first_batch, preflight
from lightning_mm.cli.lightning.weights import adapters_of
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill, Zeros
from lightning_mm.testing import check
from lightning_mm.tree import take_rows

SAMPLES = 8
"""Samples of the batch that are used."""


def check_task(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    kinds: list[Kind] | None = None,
    basis: Basis | None = None,
    tolerance: float | None = None,
    export: bool = True,
    seconds: float = 60.0,
    split: Literal["test", "val"] = "val",
    json: bool = False,
) -> None:
    """Check that the network of a config can be adapted, before anything is trained; its weights may be random.

    Args:
        trainer: If its callbacks hold a FrozenBackboneAdapter, its settings are used.
        model: The task.
        datamodule: The data; one batch of it is read.
        kinds: Kinds of adapters, e.g. [SSF, LoRA]; by default that of the config, or SSF.
        basis: How availability picks rows, e.g. Additive; by default that of the config, or OneHot.
        tolerance: The largest difference by rounding, relative to the largest output; by default 1e-3 for float32.
        export: Whether programs of torch.export are made and compared too, which takes the longest.
        seconds: The time that it may take.
        split: The split that the batch is of.
        json: Whether to print JSON instead of a table.

    Raises:
        LightningMMError: If a line of the table is "no", after it is printed.
    """
    batch = first_batch(datamodule, split)
    size = len(batch["available"])
    few = take_rows(batch, torch.arange(min(size, SAMPLES)), size)
    task: Any = model
    preflight(task, few)
    callback = next(iter(adapters_of(trainer)), FrozenBackboneAdapter())
    network = network_of(model, callback.network)
    call = capture_call(model, network, few, "test") if callback.example is None else callback.example(few)
    fill = callback.fill or getattr(model, "fill", None)
    result = check(
        network,
        call,
        modalities=callback.modalities or list(task.modalities),
        kinds=kinds or callback.kind,
        basis=basis or callback.basis,
        fill=fill if isinstance(fill, Fill) else Zeros(),
        inputs=callback.inputs,
        targets=callback.targets,
        exclude=callback.exclude,
        encoders=callback.encoders,
        grouped=callback.grouped,
        tolerance=tolerance,
        export=export,
        seconds=seconds,
    )
    if json:
        print(json_.dumps(result.to_dict(), indent=2))
    else:
        result.print()
    if not result.ok:
        wrong = ", ".join(dict.fromkeys(repr(line.name) for line in result.failed))
        raise LightningMMError(
            f"{result.network}: expected yes in every line, got no for {wrong}; these lines say the way out"
        )


def with_json_flag(args: list[str]) -> list[str]:
    """Arguments in which ``--json`` alone means true, as for the other verbs.

    Example:
        >>> with_json_flag(["check", "--json", "-c", "base.yaml"])
        ['check', '--json=true', '-c', 'base.yaml']
    """
    following = [*args[1:], "--"]
    return ["--json=true" if one == "--json" and after.startswith("-") else one for one, after in zip(args, following)]


def without_training(config: Namespace) -> None:
    """Leave out of a config what a check does not need: loggers, trained weights, and callbacks but the adapter."""
    callbacks = config.trainer.get("callbacks") or []
    config.trainer.callbacks = [one for one in callbacks if one.get("class_path", "").endswith("FrozenBackboneAdapter")]
    config.trainer.logger = False
    config.trainer.enable_checkpointing = False
    settings = config.model.get("init_args")
    if settings is not None and "base_ckpt" in settings:
        settings.base_ckpt = None


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Keep Lightning from printing seeds and devices."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)
