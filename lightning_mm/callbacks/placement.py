"""Choose the layers that an adapter goes to from a few training batches, before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.placement.choose import STRATEGIES, Strategy, budget_parameters, keep_layers, place
from lightning_mm.adapters.placement.sensitivity import LayerSensitivity, sensitivity_table
from lightning_mm.callbacks.training_look import layer_sensitivity
from lightning_mm.errors import LightningMMError, check_choice, check_whole
from lightning_mm.files import write_atomically


@dataclass(frozen=True)
class Placement:
    """Which layers are adapted, chosen at the start of a fit.

    Args:
        budget: Parameters per combination: ``0.25 %`` of the network's, a share (a float up to 1), or a count.
        strategy: Which layers come first: ``gain``, ``disturbance``, ``random``, ``last`` or ``all``, see
            :func:`~lightning_mm.adapters.placement.choose.place`.
        batches: Number of training batches to look at.
        seed: Seed of the look and of ``random``; by default that of ``seed_everything``, else 0.
        observed: The key of a batch that holds the observed modalities, if they differ from the available ones.

    Raises:
        LightningMMError: If a setting is out of range, or a strategy other than ``all`` has no budget.
    """

    budget: int | float | str | None = None
    strategy: Strategy = "gain"
    batches: int = 4
    seed: int | None = None
    observed: str = "observed"

    def __post_init__(self) -> None:
        check_choice("placement: strategy", self.strategy, STRATEGIES)
        check_whole("placement: batches", self.batches, 1)
        if self.seed is not None:
            check_whole("placement: seed", self.seed, 0)
        if self.budget is not None:
            budget_parameters(self.budget, 1)
        elif self.strategy != "all":
            raise LightningMMError(f"placement: strategy {self.strategy!r} needs a budget, e.g. budget: 0.25 %")

    @property
    def drawn_by(self) -> int:
        """The seed in use."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed


@dataclass
class Choice:
    """The layers that were looked at in this run, and the names of those that were chosen."""

    layers: list[LayerSensitivity]
    chosen: list[str]


def choose(
    placement: Placement,
    trainer: Trainer,
    pl_module: LightningModule,
    network: nn.Module,
    key: str | Callable[[Any], Tensor],
    mask: Callable[[Any], Tensor] | None,
) -> Choice | None:
    """Look at training batches and keep the adapter's best layers; does nothing if a choice was made before.

    Comes before the optimizer is made. A checkpoint that is loaded afterwards brings the choice of its own run.

    Args:
        placement: The settings.
        trainer: Of a fit.
        pl_module: With the adapter on its network.
        network: The adapted network.
        key: Where the availability lies in a batch.
        mask: Reads it from there; None if the module itself passes it to its network.

    Raises:
        LightningMMError: If the training step cannot be run by itself, or the budget takes no layer.
    """
    adapter = pl_module.adapter
    assert isinstance(adapter, Adapter)
    if adapter.candidates is not None:
        return None
    layers = layer_sensitivity(
        trainer, pl_module, network, key, mask, placement.observed, placement.batches, placement.drawn_by
    )
    # the first process decides: each may have seen other batches
    layers = [LayerSensitivity(**one) for one in trainer.strategy.broadcast([asdict(one) for one in layers])]
    chosen = place(layers, placement.budget, _size(network), placement.strategy, placement.drawn_by)
    keep_layers(adapter, network, chosen)
    return Choice(layers, chosen)


def report(
    placement: Placement, choice: Choice, trainer: Trainer, pl_module: LightningModule, network: nn.Module
) -> None:
    """Log the chosen layers and write the table, unless a checkpoint brought others."""
    adapter, layers, chosen = pl_module.adapter, choice.layers, choice.chosen
    assert isinstance(adapter, Adapter)
    if {site.name for site in adapter.sites} != set(chosen):
        return
    total, used = _size(network), sum(one.parameters for one in layers if one.name in chosen)
    bound = "no budget" if placement.budget is None else f"a budget of {budget_parameters(placement.budget, total):,}"
    shares = [f"{one.name} {100 * one.parameters / total:.3f} %" for one in layers if one.name in chosen]
    rank_zero_info(
        f"placement by {placement.strategy}: {len(chosen)} of {len(layers)} layers, {used:,} parameters per "
        f"combination ({100 * used / total:.3f} % of the network) under {bound}: {', '.join(shares)}"
    )
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        return
    state = {
        "settings": {**asdict(placement), "seed": placement.drawn_by},
        "network_parameters": total,
        "chosen_parameters": used,
        # a disturbance that could not be seen is null, as JSON has no NaN
        "layers": [
            {**asdict(one), "disturbance": _number(one.disturbance), "chosen": one.name in chosen} for one in layers
        ],
    }
    folder = Path(trainer.default_root_dir)
    write_atomically(folder / "placement.json", json.dumps(state, indent=2) + "\n")
    write_atomically(folder / "placement.md", sensitivity_table(layers, total, chosen))


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _number(value: float) -> float | None:
    return None if value != value else value
