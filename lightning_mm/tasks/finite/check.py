"""Stops a training whose loss or gradient is not finite, before weights or checkpoints are spoiled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_mm.errors import DivergedError, LightningMMError
from lightning_mm.tasks.finite.culprit import describe, find, inputs_of
from lightning_mm.tasks.finite.watched import Watched
from lightning_mm.tasks.finite.weights import check_network, magnitude


class FiniteCheck(Callback):
    """Stops a run with one error if a loss or gradient is not finite; the error names the sample and its modality.

    Tasks of :mod:`lightning_mm.tasks` and :class:`~lightning_mm.callbacks.FrozenBackboneAdapter` add one to every run;
    give your own to skip such batches. Inputs are looked at only once a loss or gradient is not finite, so it costs
    next to nothing. Weights are not updated by such a batch, except by a gradient on a GPU that is not finite while
    its loss is: this is seen one step later, and before any checkpoint. Under a gradient scaler (``16-mixed``),
    gradients that overflow are normal, and only count once the scale is below one.

    Args:
        skip: Leave out training batches with such a loss or gradient: their optimizer step does not happen, and they
            are counted in ``skipped``. In validation and test, where samples cannot be left out silently, the run is
            stopped all the same.

    Raises:
        LightningMMError: In a run, as described; with ``skip`` also if a whole epoch was skipped.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.skipped = 0
        """Training batches that were skipped so far."""
        self.see: Callable[[LightningModule, Any], dict[str, Any]] = lambda module, batch: {}
        """Returns the inputs of a batch of any form by modality; FrozenBackboneAdapter sets it."""
        self._batch: Any = None
        self._loss: Watched | None = None
        self._gradient: tuple[Watched, Any] | None = None
        self._evaluated: tuple[Watched, Any] | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []  # before the batch, as running statistics see every forward
        self._poisoned: str | None = None  # why the next optimizer step is left out
        self._of_epoch = [0, 0]  # optimizer steps, and those that were skipped

    # training -------------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._of_epoch = [0, 0]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch
        if self.skip:
            self._buffers = [(one, one.clone()) for one in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = Watched(loss) if loss.numel() == 1 else None

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss, self._loss = self._loss, None
        if loss is not None and not math.isfinite(loss.value()):
            self._found(trainer, pl_module, f"the training loss is {loss.value()}", self._batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._of_epoch[0] += 1
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        gradients = [one.grad.coalesce().values() if one.grad.is_sparse else one.grad for one in parameters]
        self._read_gradient(trainer, pl_module)
        if self._poisoned is None and gradients:
            self._gradient = Watched(magnitude(gradients)), self._batch
            if self._gradient[0].at_once or self.skip:
                self._read_gradient(trainer, pl_module)
        if self._poisoned is not None:
            for parameter in parameters:
                parameter.grad = None  # optimizers leave such parameters as they are, momenta too
            self._skip(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._batch, self._buffers = None, []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_gradient(trainer, pl_module)
        steps, skipped = self._of_epoch
        if skipped:
            pl_module.log("train/skipped_batches", float(self.skipped))
        if skipped and steps == skipped:
            raise LightningMMError(
                f"FiniteCheck skipped all {steps} steps of epoch {trainer.current_epoch}, so nothing is trained; look "
                "at the warnings above for the reason"
            )

    def _read_gradient(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the gradient that was watched last."""
        watched, self._gradient = self._gradient, None
        if watched is None or math.isfinite(watched[0].value()):
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or not scaler.is_enabled() or scaler.get_scale() < 1:
            self._found(trainer, pl_module, "the gradient is not finite, while the training loss is", watched[1])

    def _skip(self, trainer: Trainer) -> None:
        reason, self._poisoned = self._poisoned, None
        self.skipped += 1
        self._of_epoch[1] += 1
        warnings.warn(f"skipped a training step, {self.skipped} so far: {reason}", stacklevel=2)

    # validation and test --------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluated = None
        self._read_gradient(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._read_evaluated(trainer, pl_module)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
            self._evaluated = Watched(loss), batch
            if self._evaluated[0].at_once:
                self._read_evaluated(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_evaluated(trainer, pl_module)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs, batch)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def _read_evaluated(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loss of the last batch of validation or test."""
        watched, self._evaluated = self._evaluated, None
        if watched is not None and not math.isfinite(watched[0].value()):
            stage = "test" if trainer.testing else "validation"
            raise self._error(trainer, pl_module, f"the {stage} loss is {watched[0].value()}", watched[1], "")

    # both -----------------------------------------------------------------------------------------------------------

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._batch = self._loss = self._gradient = self._evaluated = self._poisoned = None
        self._buffers = []

    def _found(self, trainer: Trainer, pl_module: LightningModule, what: str, batch: Any) -> None:
        way_out = ", or leave such batches out with the callback lightning_mm.callbacks.FiniteCheck(skip=True)"
        for buffer, before in self._buffers:
            buffer.copy_(before)
        error = self._error(trainer, pl_module, what, batch, way_out)
        if not self.skip:
            raise error
        self._poisoned = str(error).removesuffix(way_out)

    def _error(
        self, trainer: Trainer, pl_module: LightningModule, what: str, batch: Any, way_out: str
    ) -> LightningMMError:
        start = f"{what}, in epoch {trainer.current_epoch} after {trainer.global_step} steps"
        inputs = inputs_of(batch)
        with suppress(LightningMMError):  # if the step fails on such values: the loss is what must be told
            inputs = inputs or self.see(pl_module, batch)
        findings = find(batch, inputs)
        if findings:
            return LightningMMError(
                f"{start}: {describe(findings, batch)}; correct these values, or pass a modality that cannot be used "
                f"as absent (None){way_out}"
            )
        try:
            check_network(pl_module, f"{start}: {type(pl_module).__name__}")
        except LightningMMError as error:
            return DivergedError(str(error))
        return DivergedError(
            f"{start}, while the inputs, the targets and the weights are finite: the network or its loss computes it; "
            f"use a lower learning rate, trainer.gradient_clip_val, or another trainer.precision{way_out}"
        )
