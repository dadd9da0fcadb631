"""Choose the layers that an adapter goes to by a look at a few training batches, before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.network.inputs import parameter_path
from lightning_mm.adapters.placement.choose import STRATEGIES, budget_parameters, keep_layers, place
from lightning_mm.adapters.placement.sensitivity import LayerSensitivity, sensitivity, sensitivity_table
from lightning_mm.callbacks.capture import batches_of, capture_call, run_step
from lightning_mm.callbacks.unchanged import unchanged
from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically

DEFAULTS: dict[str, Any] = {"budget": None, "strategy": "gain", "batches": 4, "seed": None, "observed": "observed"}


class Placement:
    """The settings of a placement, and the choice that was made by them in this run.

    Args:
        settings: ``budget`` (``0.25 %`` of the network's parameters, a share, or a count, per combination), and if
            wanted ``strategy`` (``gain``, ``disturbance``, ``random``, ``last`` or ``all``), ``batches`` (how many
            training batches are looked at, 4), ``seed`` (that of ``seed_everything``, else 0) and ``observed`` (the
            key of a batch that says what is really there, where it differs from what is shown).

    Raises:
        LightningMMError: If a setting is unknown or wrong; the message names it.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        unknown = sorted(set(settings) - set(DEFAULTS))
        if unknown:
            close = get_close_matches(unknown[0], DEFAULTS, n=1)
            hint = f"; perhaps {close[0]!r} was meant" if close else ""
            raise LightningMMError(f"placement: unknown setting {unknown[0]!r}; it has {list(DEFAULTS)}{hint}")
        self.settings = {**DEFAULTS, **settings}
        strategy, budget = self.settings["strategy"], self.settings["budget"]
        if strategy not in STRATEGIES:
            raise LightningMMError(f"placement: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        for name, least in (("batches", 1), ("seed", 0)):
            value = self.settings[name]
            if name == "seed" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise LightningMMError(f"placement: {name} must be a whole number from {least}, got {value!r}")
        if budget is not None:
            budget_parameters(budget, 1)
        elif strategy != "all":
            raise LightningMMError(f"placement: strategy {strategy!r} needs a budget, e.g. budget: 0.25 %")
        self._layers: list[LayerSensitivity] = []
        self._chosen: list[str] = []

    def choose(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        network: nn.Module,
        key: str | Callable[[Any], Tensor],
        mask: Callable[[Any], Tensor] | None,
    ) -> None:
        """Look at training batches and keep the adapter's best layers; does nothing where a choice was made before.

        Comes before the optimizer is made. A checkpoint that is loaded afterwards brings the choice of its own run.

        Args:
            trainer: Of a fit.
            pl_module: With the adapter on its network.
            network: The adapted network.
            key: Where the availability lies in a batch.
            mask: Reads it from there; None where the module itself hands it to its network.

        Raises:
            LightningMMError: If the training step cannot be run by itself, or the budget takes no layer.
        """
        adapter = pl_module.adapter
        assert isinstance(adapter, Adapter)
        if adapter.candidates is not None:
            return
        look = partial(self._look, trainer, pl_module, network, adapter, key, mask)
        try:
            layers = look()
        except AttributeError:  # the module makes something in its own setup, which comes after that of callbacks
            pl_module.setup("fit")
            try:
                layers = look()
            except AttributeError as error:
                raise _refused(pl_module, error) from error
        # the first process decides: each may have seen other batches
        self._layers = [LayerSensitivity(**one) for one in trainer.strategy.broadcast([asdict(one) for one in layers])]
        budget, strategy = self.settings["budget"], self.settings["strategy"]
        self._chosen = place(self._layers, budget, _size(network), strategy, self._seed())
        keep_layers(adapter, network, self._chosen)

    def report(self, trainer: Trainer, pl_module: LightningModule, network: nn.Module) -> None:
        """Say which layers were chosen in this run, and write the table; not where a checkpoint brought others."""
        adapter, layers, chosen = pl_module.adapter, self._layers, self._chosen
        assert isinstance(adapter, Adapter)
        self._layers, self._chosen = [], []
        if not layers or {site.name for site in adapter.sites} != set(chosen):
            return
        total, used = _size(network), sum(one.parameters for one in layers if one.name in chosen)
        budget = self.settings["budget"]
        bound = "no budget" if budget is None else f"a budget of {budget_parameters(budget, total):,}"
        shares = [f"{one.name} {100 * one.parameters / total:.3f} %" for one in layers if one.name in chosen]
        rank_zero_info(
            f"placement by {self.settings['strategy']}: {len(chosen)} of {len(layers)} layers, {used:,} parameters per "
            f"combination ({100 * used / total:.3f} % of the network) under {bound}: {', '.join(shares)}"
        )
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": {**self.settings, "seed": self._seed()},
            "network_parameters": total,
            "chosen_parameters": used,
            # a disturbance that could not be seen is null, as JSON has no NaN
            "layers": [
                {**asdict(one), "disturbance": _number(one.disturbance), "chosen": one.name in chosen} for one in layers
            ],
        }
        write_atomically(folder / "placement.json", json.dumps(state, indent=2) + "\n")
        write_atomically(folder / "placement.md", sensitivity_table(layers, total, chosen))

    def _look(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        network: nn.Module,
        adapter: Adapter,
        key: str | Callable[[Any], Tensor],
        mask: Callable[[Any], Tensor] | None,
    ) -> list[LayerSensitivity]:
        """In the precision of the weights, without autocast: gradients are compared and not only followed."""
        if not pl_module.automatic_optimization:
            raise LightningMMError(
                f"placement needs a training_step that returns its loss; {type(pl_module).__name__} optimizes by "
                "itself (automatic_optimization=False). Choose the layers with `targets` and `exclude`"
            )
        device, limit = trainer.strategy.root_device, trainer.limit_train_batches
        count = min(self.settings["batches"], limit) if isinstance(limit, int) else self.settings["batches"]

        def looks() -> Iterator[tuple[Any, Tensor, Tensor]]:
            for batch in islice(batches_of(trainer, pl_module, "fit", device), count):
                available = _in_call(pl_module, network, batch) if mask is None else mask(batch)
                yield batch, available, batch[self.settings["observed"]] if self._marked(batch, key) else available

        def loss(batch: Any, available: Tensor) -> Tensor:
            shown = {**batch, key: available} if self._marked(batch, key) else batch
            with adapter.using(None if mask is None else available):
                return _loss(pl_module, shown)

        with _on_device(pl_module, device), unchanged(pl_module, device, self._seed()):
            pl_module.train()
            for child in pl_module.children():
                child.train(child is adapter)
            return sensitivity(adapter, network, looks(), loss)

    def _seed(self) -> int:
        seed: int | None = self.settings["seed"]
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed

    def _marked(self, batch: Any, key: Any) -> bool:
        """Whether a batch says what was observed, and where."""
        return isinstance(batch, Mapping) and isinstance(key, str) and {key, self.settings["observed"]} <= set(batch)


def _in_call(pl_module: LightningModule, network: nn.Module, batch: Any) -> Tensor:
    """The availability that the module hands to its network."""
    path = parameter_path(network, "available")
    given = path and path.get(capture_call(pl_module, network, batch, "fit"))
    if not isinstance(given, Tensor):
        raise LightningMMError(
            f"{type(pl_module).__name__}.training_step gave its network `available` once and then none"
        )
    return given


def _loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """What the module's own training step would train by."""
    try:
        output = run_step(pl_module, batch, "fit")
    except (LightningMMError, AttributeError):
        raise
    except Exception as error:
        raise _refused(pl_module, error) from error
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise LightningMMError(
            f"{type(pl_module).__name__}.training_step must return a loss, or a dict with one, for placement; "
            f"got a {type(output).__name__}"
        )
    return loss


def _refused(pl_module: LightningModule, error: Exception) -> LightningMMError:
    return LightningMMError(
        f"placement runs {type(pl_module).__name__}.training_step before the training, and it failed there "
        f"({type(error).__name__}: {error}); make what it needs in __init__ or setup, or choose the layers with "
        "`targets` and `exclude`"
    )


@contextmanager
def _on_device(pl_module: LightningModule, device: torch.device) -> Iterator[None]:
    """The trainer brings the module to its device only later, with the optimizer."""
    before = pl_module.device
    pl_module.to(device)
    try:
        yield
    finally:
        pl_module.to(before)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _number(value: float) -> float | None:
    return None if value != value else value
