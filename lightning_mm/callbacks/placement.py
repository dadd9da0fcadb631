"""Choose the layers to adapt from a few training batches, before anything is trained."""

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
    """Settings of the choice of layers at the start of a fit.

    Args:
        budget: Parameters per combination: ``0.25 %`` of the network, a share of it (a float up to 1), or a count.
        strategy: Which layers are chosen first: ``gain``, ``disturbance``, ``random``, ``last`` or ``all``, see
            :func:`~lightning_mm.adapters.placement.choose.place`.
        batches: Number of training batches to measure on.
        seed: Seed of the measurement and of ``random``; default: the seed of ``seed_everything``, else 0.
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
    """The layers that were measured in this run, and the names of the chosen ones."""

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
    """Measure layers on training batches and keep the best ones; does nothing if a choice was made before.

    Call this before the optimizer is created. A checkpoint that is loaded afterwards restores the choice of its run.

    Args:
        placement: The settings.
        trainer: The trainer of a fit.
        pl_module: The module; its network is adapted.
        network: The adapted network.
        key: Path to ``available`` in a batch, or a function of the batch.
        mask: Reads ``available`` from a batch; None if the module itself passes it to its network.

    Raises:
        LightningMMError: If the training step cannot be run by itself, or the budget is too small for any layer.
    """
    adapter = pl_module.adapter
    assert isinstance(adapter, Adapter)
    if adapter.candidates is not None:
        return None
    layers = layer_sensitivity(
        trainer, pl_module, network, key, mask, placement.observed, placement.batches, placement.drawn_by
    )
    # the first process decides: others may have other batches
    layers = [LayerSensitivity(**one) for one in trainer.strategy.broadcast([asdict(one) for one in layers])]
    chosen = place(layers, placement.budget, _size(network), placement.strategy, placement.drawn_by)
    keep_layers(adapter, network, chosen)
    return Choice(layers, chosen)


def report(
    placement: Placement, choice: Choice, trainer: Trainer, pl_module: LightningModule, network: nn.Module
) -> None:
    """Log the chosen layers and write the table, unless a checkpoint restored another choice."""
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
        # null if it could not be measured: JSON has no NaN
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
