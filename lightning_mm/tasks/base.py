"""The base of all tasks: one network, its modalities, a fill, an optimizer, and one shared step.

Shapes: B samples, M modalities, N samples of any set; ``available`` is ``Bool[B, M]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from typing import Any, Literal, Unpack, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torchmetrics import MetricCollection

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.missing import FeatureFill, Fill, Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.tasks.auxiliary import AuxiliaryHeads, WeightedTerm, limit_rank
from lightning_mm.tasks.checkpoints import ADAPTER_KEY, check_state, load_network
from lightning_mm.tasks.checks import check_batch, check_call, check_modalities
from lightning_mm.tasks.finite.check import FiniteCheck
from lightning_mm.tasks.finite.weights import check_trained
from lightning_mm.tasks.schedules import divide_epochs
from lightning_mm.tasks.settings import group_of
from lightning_mm.tasks.teacher.distillation import Distillation, OldNames, with_old_names
from lightning_mm.tasks.teacher.teacher import Teacher, distillation_loss
from lightning_mm.tasks.training.parameter_groups import parameter_groups
from lightning_mm.tasks.training.resume import RUN_KEY, ResumedRun
from lightning_mm.tasks.training.strategies import weighted_by_share
from lightning_mm.tree import batch_size

Stage = Literal["train", "val", "test"]
STEP_KEYS = ("inputs", "available", "target")
"""What a step needs of a batch."""


class BaseTask(LightningModule):
    """A network on batches ``{"inputs", "available", "observed", "target", "index"}``; subclasses add loss and metrics.

    A subclass takes its own arguments and ``**base``, which it passes on, and gives :meth:`save_settings` those of its
    own arguments that checkpoints shall hold.

    Args:
        model: The network; its forward takes ``{modality: input}`` and, if it has such a parameter, ``available``.
        modalities: Names of the columns of ``available``, in order. A network with ``channels`` must list the same.
        fill: Placeholder for an absent modality, :class:`~lightning_mm.missing.Zeros` by default.
        optimizer: Called with parameter groups; one-dimensional parameters and those of ``self.adapter`` get no weight
            decay.
        lr_scheduler: Called with the optimizer; one with a ``monitor`` (ReduceLROnPlateau) gets that metric.
        lr_interval: Whether the scheduler steps after every ``epoch`` or ``step``.
        base_ckpt: A checkpoint to load the network from at the start.
        auxiliary_weight: Above zero, each encoder of ``model.encoders`` gets a linear head, and this times the mean of
            the heads' losses is added in training, see :class:`~lightning_mm.tasks.auxiliary.AuxiliaryHeads`. It
            belongs to the training of a base: without effect once there is an ``adapter``, which freezes the heads.
            In a distributed run the mean of a head is that over the samples of one process that have its modality.
        late_drop: Whether the outputs, for evaluation, are the mean of the logits of the auxiliary heads of available
            modalities, instead of those of the network; needs ``auxiliary_weight``.
        late_share: Share, 0 to 1, of that mean in the outputs of incomplete samples; the network alone decides on
            complete ones. Needs ``auxiliary_weight``. Heads come from ``base_ckpt``; if it holds none, they are new and
            train with the ``adapter``, or alone with ``TrainOnly(["*"], network="auxiliary")``.
        auxiliary_rank: Makes the heads products of two linear maps, with fewer parameters; needs ``auxiliary_weight``.
        distillation: The base as the teacher of its ``adapter``; off by default.
        old: Old names of the settings in ``distillation``.

    Raises:
        LightningMMError: If network and modalities do not agree, ``base_ckpt`` does not fit the network, or a weight
            cannot be used with it.
    """

    primary_metric: str = ""
    """The metric for tables and model selection."""
    metric_directions: dict[str, Literal["max", "min"]]
    """Every metric of the task and which way is better."""

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        fill: Fill | None = None,
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        base_ckpt: str | None = None,
        auxiliary_weight: float = 0.0,
        late_drop: bool = False,
        late_share: float = 0.0,
        auxiliary_rank: int | None = None,
        distillation: Distillation = Distillation(),
        **old: Unpack[OldNames],
    ) -> None:
        super().__init__()
        if not auxiliary_weight >= 0:
            raise LightningMMError(f"auxiliary_weight: expected 0 or more, got {auxiliary_weight}")
        # Lightning's load_from_checkpoint passes the plain types that are saved below.
        distillation = with_old_names(group_of(Distillation, distillation, "distillation"), old)
        self.modalities = Modalities(modalities)
        self.save_settings(
            modalities=list(self.modalities),
            lr_interval=lr_interval,
            auxiliary_weight=auxiliary_weight,
            late_drop=late_drop,
            late_share=late_share,
            auxiliary_rank=auxiliary_rank,
            distillation=asdict(distillation),
        )
        check_modalities(model, self.modalities)
        self.model = model
        self.fill_by(Zeros() if fill is None else fill)
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.takes_available = "available" in inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
        self.base_ckpt = base_ckpt
        if base_ckpt is not None:
            self.load_base(base_ckpt)
        self.metric_directions = {}
        self.metrics = nn.ModuleDict()
        metrics = self.configure_metrics()
        for stage in ("val", "test"):
            self.metrics[stage] = metrics.clone(prefix=f"{stage}/")
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = self.configure_auxiliary() if auxiliary_weight > 0 else None
        if auxiliary_rank is not None:
            limit_rank(self.auxiliary, auxiliary_rank)
        self.late_drop, self.late_share, self.new_heads = False, late_share, False
        if late_drop:
            self.drop_late()
        if late_share:
            self.share_late(base_ckpt)
        self.teacher = Teacher(model, distillation)
        self.resumed = ResumedRun()

    # What a task defines

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Mean loss of a batch, a scalar."""
        raise NotImplementedError

    def loss_weight(self, target: Any) -> Tensor | None:
        """What :meth:`loss` divides a sum by, if that is not the number of samples: a sum of class weights."""
        return None

    def loss_terms(self, outputs: Any, target: Any) -> list[WeightedTerm]:
        """The terms whose sum is :meth:`loss`, each with what it was divided by, see :meth:`loss_weight`."""
        return [(self.loss(outputs, target), self.loss_weight(target))]

    def predictions(self, outputs: Any) -> Any:
        """What the metrics compare with the target, batch first (classes rather than logits)."""
        raise NotImplementedError

    def metric_inputs(self, outputs: Any) -> Any:
        """What the metrics of validation and test get together with the target; the predictions by default."""
        return self.predictions(outputs)

    def configure_metrics(self) -> MetricCollection:
        """The metrics of validation and test; called once at the end of the base's ``__init__``."""
        raise NotImplementedError

    def configure_auxiliary(self) -> AuxiliaryHeads:
        """The heads of the auxiliary losses; called at the end of the base's ``__init__`` if they are wanted."""
        raise LightningMMError(f"{type(self).__name__} has no auxiliary losses; set auxiliary_weight to 0")

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """Distance of a batch's outputs from the teacher's, a scalar; by default for logits ``[B, C, ...]``."""
        return distillation_loss(outputs, teacher, self.teacher.settings.temperature)

    def check_target(self, target: Any) -> None:
        """Refuse targets that the task cannot use; called before the loss."""

    def sample_statistics(self, outputs: Any, target: Any) -> dict[str, Tensor]:
        """Small statistics of each sample ``[B, ...]``, the input of :meth:`metrics_from`."""
        raise NotImplementedError

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Metrics of any set of samples from their statistics ``[N, ...]``; fast, as the bootstrap calls it often."""
        raise NotImplementedError

    # What all tasks share

    def load_base(self, path: str) -> None:
        """Load ``base_ckpt`` into the network, strictly."""
        load_network(self.model, path)

    def fill_by(self, fill: Fill) -> None:
        """Use another placeholder for absent modalities.

        Raises:
            LightningMMError: If a fill of features does not belong to this network.
        """
        if isinstance(fill, FeatureFill):
            fill.install(self.model, self.modalities)
        self.fill = fill

    def drop_late(self) -> None:
        """Output the mean of the logits of the auxiliary heads of available modalities from now on, see ``late_drop``.

        Raises:
            LightningMMError: If the task has no auxiliary heads.
        """
        if self.auxiliary is None:
            raise LightningMMError(
                "late_drop: this task has no auxiliary heads; set auxiliary_weight, and use a base that was trained "
                "with it, such as base_auxiliary of a study"
            )
        self.late_drop = True

    def share_late(self, base_ckpt: str | None) -> None:
        """Load the auxiliary heads, which decide on incomplete samples too, see ``late_share``."""
        check_fraction("late_share", self.late_share)
        if self.auxiliary is None or self.late_drop:
            raise LightningMMError("late_share needs auxiliary heads: set auxiliary_weight, and leave out late_drop")
        self.new_heads = base_ckpt is None or not self.auxiliary.load(base_ckpt)

    def save_settings(self, **settings: Any) -> None:
        """Save arguments of plain types as hyper-parameters: in checkpoints, and to the loggers.

        Lightning's ``save_hyperparameters`` would search the stack for arguments.
        """
        self.hparams.update(settings)
        self._hparams_initial = deepcopy(self.hparams)
        self._log_hyperparams = True

    def forward(self, inputs: Mapping[str, Nest], available: Tensor | None = None) -> Any:
        """Outputs of the network; absent places are filled first, so their content cannot matter.

        Args:
            inputs: ``{modality: [B, ...]}``, a placeholder in absent places.
            available: ``Bool[B, M]``; ``None`` means all modalities.
        """
        check_call(inputs, available, self.modalities)
        used = {name: inputs[name] for name in self.modalities}
        if available is None and not self.late_drop:
            return self.model(used)
        if available is None:
            available = torch.ones(batch_size(used) or 0, len(self.modalities), dtype=torch.bool, device=self.device)
        filled = fill_inputs(self.fill, self.modalities, used, available)
        if isinstance(self.fill, FeatureFill):
            return self.fill.run(self.model, available, lambda: self._outputs(filled, available))
        return self._outputs(filled, available)

    def _outputs(self, filled: dict[str, Nest], available: Tensor) -> Any:
        """Outputs for filled inputs; without the heads while an adapter is off, as these are then those of the base."""
        adapter = getattr(self, "adapter", None)
        share = self.late_share if getattr(adapter, "enabled", True) else 0.0
        if not self.late_drop and not share:
            return self._of_network(filled, available)
        assert self.auxiliary is not None
        with self.auxiliary.listening(), nullcontext() if adapter is None else adapter.every_row():  # of all rows
            outputs = self._of_network(filled, available)
            if self.late_drop:
                return self.auxiliary.mean_logits(available, outputs)
            return self.auxiliary.shared_logits(available, outputs, share)

    def _of_network(self, filled: dict[str, Nest], available: Tensor) -> Any:
        if self.takes_available:
            return self.model(filled, available=available)
        # Added by FrozenBackboneAdapter; a network without `available` cannot pass it on.
        adapter = getattr(self, "adapter", None)
        with nullcontext() if adapter is None else adapter.using(available):
            return self.model(filled)

    def _shared_step(self, batch: dict[str, Any], stage: Stage) -> tuple[Any, Tensor]:
        check_batch(batch, STEP_KEYS)
        outputs = self(batch["inputs"], batch["available"])
        self.check_target(batch["target"])
        loss = self.training_loss(outputs, batch["target"]) if stage == "train" else self.loss(outputs, batch["target"])
        self._log_loss(f"{stage}/loss", loss, batch, prog_bar=True)
        if stage != "train":
            self._stage_metrics(stage).update(self.metric_inputs(outputs), batch["target"])
        return outputs, loss

    def training_loss(self, outputs: Any, target: Any) -> Tensor:
        """:meth:`loss`, in a distributed run weighted so that its mean over processes is that of all samples."""
        return self.over_processes(self.loss(outputs, target), target)

    def over_processes(self, loss: Tensor, target: Any) -> Tensor:
        """A mean that was divided by :meth:`loss_weight` of a batch, so that its mean over processes is that of all."""
        weight = self.loss_weight(target)
        return loss if weight is None else weighted_by_share(loss, weight)

    def _log_loss(self, name: str, loss: Tensor, batch: dict[str, Any], prog_bar: bool = False) -> None:
        size = len(batch["available"])
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=prog_bar, sync_dist=True, batch_size=size)

    def _log_metrics(self, stage: Stage) -> None:
        primary = f"{stage}/{self.primary_metric}"
        for name, value in self._stage_metrics(stage).compute().items():
            # Already the metric of all processes; sync_dist keeps it so and spares Lightning's warning.
            self.log(name, value, prog_bar=name == primary, sync_dist=True)

    def _stage_metrics(self, stage: Stage) -> MetricCollection:
        return cast(MetricCollection, self.metrics[stage])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.late_drop:
            raise LightningMMError(
                "late_drop is for evaluation: train with auxiliary_weight, and set late_drop when you sweep"
            )
        # An adapter freezes all else, the heads too, but for those that are new.
        heads = self.auxiliary if getattr(self, "adapter", None) is None or self.new_heads else None
        check_batch(batch, (*STEP_KEYS, "observed", "index") if self.teacher.wanted else STEP_KEYS)
        with (
            self.teacher.watching(self, batch) as comparison,
            nullcontext() if heads is None else heads.listening(),
        ):
            outputs, loss = self._shared_step(batch, "train")
            if heads is not None:
                auxiliary = heads(batch["available"], batch["target"], self.loss_terms)
                self._log_loss("train/auxiliary_loss", auxiliary, batch)
                loss = loss + self.auxiliary_weight * auxiliary
            if comparison is not None:
                factor = self.teacher.factor(self)
                if self.teacher.settings.schedule != "constant":
                    self._log_loss("train/teacher_factor", loss.new_tensor(factor), batch)
                for name, (weight, distance) in comparison.distances(outputs, self.distillation).items():
                    self._log_loss(f"train/{name}", distance, batch)
                    loss = loss + factor * weight * distance
        return loss

    def configure_callbacks(self) -> list[Callback]:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [] if any(isinstance(one, FiniteCheck) for one in callbacks) else [FiniteCheck()]

    def on_fit_start(self) -> None:
        self.resumed.begin(self)

    def on_train_start(self) -> None:
        self.resumed.warn(self)
        # Not where the schedule is made: the loader would be opened there, before a resumed fit knows its epoch.
        divide_epochs(self.trainer)
        self.teacher.open_cache(self)

    def on_train_end(self) -> None:
        self.teacher.close_cache()

    def on_validation_epoch_start(self) -> None:
        # At the start: validate() runs in inference mode, fit's validation does not, and states made in the one
        # cannot be updated in the other.
        self._stage_metrics("val").reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        # Several loaders: Lightning logs a loss of each, and the metrics are those of all samples together.
        return self._shared_step(batch, "val")[1]

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_start(self) -> None:
        self._stage_metrics("test").reset()

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self._shared_step(batch, "test")[1]

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        check_batch(batch, ("inputs", "available", "index"))
        outputs = self(batch["inputs"], batch["available"])
        return {"index": batch["index"], "prediction": self.predictions(outputs), "available": batch["available"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_trained(self, checkpoint.get("global_step", 0))
        if self._trainer is not None and self.trainer.state.fn == "fit":
            checkpoint[RUN_KEY] = self.resumed.settings(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.resumed.read(self, checkpoint)
        if ADAPTER_KEY in checkpoint and getattr(self, "adapter", None) is None:
            raise LightningMMError(
                "this checkpoint holds an adapter and not its base; add the config with its FrozenBackboneAdapter"
            )
        if self.auxiliary is None:
            # Heads of the auxiliary losses are a part of training alone; a task without them leaves them out.
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {key: value for key, value in state.items() if not key.startswith("auxiliary.")}
        check_state(self, checkpoint["state_dict"], "the checkpoint")

    def make_optimizer(self) -> Optimizer:
        """The optimizer on the groups of parameters that are trained."""
        return self.optimizer(parameter_groups(self))

    def configure_optimizers(self) -> Any:
        if self.new_heads and self.auxiliary is not None:
            self.auxiliary.requires_grad_(True)  # the adapter has frozen them too
        optimizer = self.make_optimizer()
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        schedule: dict[str, Any] = {"scheduler": scheduler, "interval": self.lr_interval}
        if hasattr(scheduler, "monitor"):
            schedule["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": schedule}
