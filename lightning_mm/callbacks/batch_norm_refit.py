"""Estimate the BatchNorm statistics of every combination of modalities from training data, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from torch import Tensor

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import OneHot
from lightning_mm.adapters.kinds.bn_refit import FLOOR, BatchNormSSF, batch_norm_names, refit_batch_norm
from lightning_mm.adapters.kinds.bn_start import start_from_statistics
from lightning_mm.adapters.network.inputs import Call, parameter_path
from lightning_mm.callbacks.capture import batches_of, capture_call
from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError, check_fraction, check_whole
from lightning_mm.files import replaced_file
from lightning_mm.missing import Fill


class BatchNormRefit(FrozenBackboneAdapter):
    """Re-estimates the BatchNorm statistics of each incomplete combination at the start of a fit, which then ends.

    The network is frozen and gets an adapter with the statistics as rows (:func:`refit_batch_norm`). Nothing is
    trained, whatever ``max_epochs`` is. The adapter is saved in the checkpoint ``<default_root_dir>/<filename>``;
    ``sweep``, ``validate``, ``test`` and ``predict`` load it with this callback and that file as ``ckpt_path``.
    ``fast_dev_run`` writes nothing. On several devices, only the batches of the first one count.

    The policy of the training data does not matter: each batch is used with every combination, and a sample counts for
    a combination if it observed all of its modalities.

    Args:
        network: See :class:`FrozenBackboneAdapter`, also for the other arguments.
        available: Where ``Bool[B, M]`` is in a batch.
        observed: The key of a batch that holds the observed modalities, if they differ from the available ones.
        modalities: Names in order.
        fill: Placeholder for absent inputs.
        inputs: Modality to the argument of the network that holds it.
        combinations: The combinations to estimate statistics for; default: all incomplete ones.
        exclude: Names or patterns of BatchNorm layers that keep the statistics of the base.
        base_ckpt: Checkpoint of the trained base.
        example: Function from a batch to the call of the network.
        batches: Number of training batches to use at most.
        filename: Name of the checkpoint, with or without ``.ckpt``.
        floor: The smallest variance, as a share of the variance of the base, see :func:`refit_batch_norm`.

    Raises:
        NoBatchNormError: At the start of a run, if the network has no BatchNorm with running statistics.
        LightningMMError: If a setting does not fit the module or its data; the message says which.
    """

    def __init__(
        self,
        network: str = "model",
        available: str | Callable[[Any], Tensor] = "available",
        observed: str = "observed",
        modalities: list[str] | None = None,
        fill: Fill | None = None,
        inputs: dict[str, str] | None = None,
        combinations: list[str] | None = None,
        exclude: list[str] | None = None,
        base_ckpt: str | None = None,
        example: Callable[[Any], Call] | None = None,
        batches: int = 20,
        filename: str = "best.ckpt",
        floor: float = FLOOR,
    ) -> None:
        super().__init__(
            BatchNormSSF(),
            OneHot(combinations),
            network=network,
            available=available,
            modalities=modalities,
            fill=fill,
            inputs=inputs,
            exclude=exclude,
            base_ckpt=base_ckpt,
            example=example,
        )
        check_whole("batches", batches, 1)
        if not filename or Path(filename).name != filename:
            raise LightningMMError(f"filename must be a plain name such as best.ckpt, got {filename!r}")
        check_fraction("floor", floor)
        self.observed, self.batches, self.filename, self.floor = observed, batches, filename, floor

    def attach(self, pl_module: LightningModule, batch: Any, stage: str = "fit", datamodule: Any = None) -> Adapter:
        batch_norm_names(self._network(pl_module))  # raises NoBatchNormError
        return super().attach(pl_module, batch, stage, datamodule)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The base class would look for an optimizer; none is needed.
        adapter = self._adapter(pl_module)
        if adapter is None:
            return
        trainer.fit_loop.max_epochs = 0  # the training loop ends before its first batch
        shown = [observed_call(self, pl_module, batch, self.observed) for batch in self._batches(trainer, pl_module)]
        with trainer.precision_plugin.forward_context():
            refit_batch_norm(
                adapter,
                self._network(pl_module),
                [call for call, _ in shown],
                [there for _, there in shown],
                self.floor,
            )
        adapter.banks.load_state_dict(trainer.strategy.broadcast(adapter.banks.state_dict()))
        rank_zero_info(
            f"BatchNormRefit: statistics of {len(adapter.sites)} BatchNorm layers for {len(adapter.basis.names)} "
            f"combinations, from {len(shown)} batches"
        )
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer)

    def _batches(self, trainer: Trainer, pl_module: LightningModule) -> Iterator[Any]:
        """Iterate over the first training batches, as the training step gets them."""
        trainer.fit_loop.setup_data()  # the training loop calls it again, without effect
        loader = trainer.train_dataloader
        if loader is None or trainer.fit_loop.max_batches == 0:
            raise LightningMMError(
                "BatchNormRefit needs training batches, but there are none; check limit_train_batches"
            )
        collection = isinstance(loader, (dict, list, tuple))
        combined = CombinedLoader(loader, "max_size_cycle") if collection else loader
        for item in islice(combined, int(min(self.batches, trainer.fit_loop.max_batches))):
            batch = trainer.precision_plugin.convert_input(item[0] if collection else item)
            yield pl_module._apply_batch_transfer_handler(batch, device=pl_module.device, dataloader_idx=0)

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint; all processes call this, and the first one writes."""
        path = Path(trainer.default_root_dir) / f"{self.filename.removesuffix('.ckpt')}.ckpt"
        with replaced_file(path) if trainer.is_global_zero else nullcontext(path) as part:
            trainer.save_checkpoint(part, weights_only=True)
        rank_zero_info(f"BatchNormRefit: wrote {path}")


class StatisticsStart(Callback):
    """Starts an adapter from the BatchNorm statistics of each combination, instead of from the identity.

    Next to a :class:`FrozenBackboneAdapter` with SSF, listed after it: at the start of a fit, the scales and shifts
    after BatchNorms are set to what re-estimated statistics ask for (:func:`start_from_statistics`), and are trained
    from there. A resumed run continues with what it had. No labels are used.

    Args:
        batches: Number of training batches to use at most.
        floor: The smallest variance, as a share of the variance of the base, see :func:`refit_batch_norm`.
        observed: The key of a batch that holds the observed modalities, if they differ from the available ones.

    Raises:
        LightningMMError: If a setting is out of range; at the start of a fit, if there is no FrozenBackboneAdapter
            before it or its adapter has no scale and shift after a BatchNorm.
    """

    def __init__(self, batches: int = 20, floor: float = FLOOR, observed: str = "observed") -> None:
        check_whole("batches", batches, 1)
        check_fraction("floor", floor)
        self.batches, self.floor, self.observed = batches, floor, observed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        owners = [one for one in callbacks[: callbacks.index(self)] if isinstance(one, FrozenBackboneAdapter)]
        adapter = getattr(pl_module, "adapter", None)
        if not owners or not isinstance(adapter, Adapter):
            raise LightningMMError("StatisticsStart needs a FrozenBackboneAdapter before it in the list of callbacks")
        owner, device, before = owners[0], trainer.strategy.root_device, pl_module.device
        pl_module.to(device)
        try:
            batches = islice(batches_of(trainer, pl_module, "fit", device), self.batches)
            shown = [observed_call(owner, pl_module, batch, self.observed) for batch in batches]
            with trainer.precision_plugin.forward_context():
                names = start_from_statistics(
                    adapter, owner._network(pl_module), [call for call, _ in shown], [m for _, m in shown], self.floor
                )
        finally:
            pl_module.to(before)
        rank_zero_info(f"StatisticsStart: the adapter starts from the statistics of {len(names)} BatchNorm layers")


def observed_call(
    owner: FrozenBackboneAdapter, pl_module: LightningModule, batch: Any, observed: str
) -> tuple[Call, Tensor]:
    """Return the call of the network for a batch with all observed modalities, and their mask ``Bool[B, M]``.

    Args:
        owner: The callback that attached the adapter.
        pl_module: With its adapter.
        batch: As the training step gets it.
        observed: The key of the observed modalities in it.
    """
    network, adapter = owner._network(pl_module), pl_module.adapter
    assert isinstance(adapter, Adapter)
    if isinstance(batch, Mapping) and isinstance(owner.available, str) and {owner.available, observed} <= set(batch):
        batch = {**batch, owner.available: batch[observed]}
    mask = None if owner._in_call else owner._mask(batch)
    with adapter.using(mask):  # fills absent inputs, which may be NaN
        call = owner.example(batch) if owner.example is not None else capture_call(pl_module, network, batch, "fit")
    path = parameter_path(network, "available")
    given = path.get(call) if path is not None else None
    return call, adapter.check(owner._mask(batch) if given is None else given, call)
