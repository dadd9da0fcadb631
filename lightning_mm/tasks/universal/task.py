"""The universal model in two stages: a masked autoencoder, then segmentation that learns from completed samples.

Shapes: B samples, M modalities, K classes; ``*size`` is height and width of images, or depth, height and width of
volumes.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_mm.errors import LightningMMError, check_choice, check_fraction
from lightning_mm.models.universal.masking import cells_in, draw_shown, on_pixels
from lightning_mm.models.universal.network import UniversalSegmenter
from lightning_mm.tasks.base import STEP_KEYS
from lightning_mm.tasks.checkpoints import load_network
from lightning_mm.tasks.checks import check_batch
from lightning_mm.tasks.embedding_prediction.metric import PredictedEmbedding
from lightning_mm.tasks.segmentation import SemanticSegmentationTask
from lightning_mm.tasks.training.parameter_groups import parameter_groups
from lightning_mm.tasks.training.strategies import weighted_by_share
from lightning_mm.tasks.universal.distribution import STATISTICS, DistributionBank
from lightning_mm.tasks.universal.losses import prototype_distance, temperature_divergence
from lightning_mm.tasks.universal.template_start import start_template

KEYS = (*STEP_KEYS, "observed", "index")
RECONSTRUCTION = ("encoders", "fusion", "decoder", "template", "reconstruction")
"""Parts of the network that the first stage trains."""
_HEADS = ("narrow", "head", "hyper")


class UniversalTask(SemanticSegmentationTask):
    """Trains :class:`~lightning_mm.models.UniversalSegmenter`; metrics as in :class:`SemanticSegmentationTask`.

    Stage ``reconstruct``: of what a sample has (``observed``; incomplete samples too), whole modalities and then cells
    are hidden, see :func:`~lightning_mm.models.universal.masking.draw_shown`, and the network reconstructs everything::

        mean squared error over what exists + template_weight * ||T - mean(T)|| + distribution_weight * distance

    where the distance is between reconstructions of modalities that a sample does not have and statistics of other
    samples. ``train_policy`` plays no role. Validation logs ``val/loss``, the mean squared error with cells hidden as
    in training, and ``val/explained_variance`` of whole modalities that ``val_policy`` hides.

    Stage ``segment``, from the checkpoint of the first: a student sees what is ``available``, and the same network sees
    the sample completed by the frozen first stage (its reconstruction where nothing exists)::

        loss(student) + loss(completed) + distil * KL_T(student || completed)
        + prototypes * distance between their similarities to class means

    The completed side is a constant in the last two terms. With ``distil`` and ``prototypes`` 0, only the first term is
    left and nothing is completed.

    Own reconstruction of arXiv 2406.01987: the paper's body could not be read; read: its abstract; chosen by us: both
    losses and all weights (template and order of hiding after M3AE, divergence and prototypes after PASSION). Training
    is equal on any number of devices for batches of equal size, since cells are drawn by sample and the bank of
    statistics is that of all processes; but for Dice and prototypes, whose means are those of each process.

    Args:
        model: The network.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of classes K.
        stage: ``reconstruct`` or ``segment``, see above.
        mask_share: Share of hidden cells, of all modalities together.
        template_weight: See above.
        template_lr: Learning rate of the template, which does not decay.
        distribution: ``none``, ``moments`` or ``hist``, see
            :class:`~lightning_mm.tasks.universal.distribution.DistributionBank`.
        distribution_weight: See above.
        background: Value of pixels that belong to nothing, which the distribution leaves out.
        distil: Weight of the divergence.
        prototypes: Weight of the distance to prototypes.
        temperature: Temperature T of the divergence.
        ema: Above 0, the completed side of divergence and prototypes is a copy of the network that keeps this share of
            its weights in a step.
        mask_seed: Seed of the cells that are hidden.
        **base: See :class:`SemanticSegmentationTask`; auxiliary heads and a teacher belong to other methods. Of
            ``base_ckpt`` the parts of the first stage are loaded.

    Raises:
        LightningMMError: If settings do not agree; when it predicts with a checkpoint of the first stage, which has not
            trained the head.
    """

    model: UniversalSegmenter
    loaded_stage: str | None = None
    """The stage of the checkpoint that was loaded."""

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        stage: Literal["reconstruct", "segment"] = "segment",
        mask_share: float = 0.875,
        template_weight: float = 0.005,
        template_lr: float = 5e-3,
        distribution: Literal["none", "moments", "hist"] = "moments",
        distribution_weight: float = 0.1,
        background: float = 0.0,
        distil: float = 0.5,
        prototypes: float = 0.0,
        temperature: float = 4.0,
        ema: float = 0.0,
        mask_seed: int = 0,
        **base: Any,
    ) -> None:
        if not isinstance(model, UniversalSegmenter):
            raise LightningMMError(
                f"UniversalTask trains a lightning_mm.models.UniversalSegmenter, got a {type(model).__name__}; give it "
                "the channels and the size of the data"
            )
        check_choice("stage", stage, ("reconstruct", "segment"))
        check_choice("distribution", distribution, ("none", *STATISTICS))
        check_fraction("mask_share", mask_share, below_one=True)
        check_fraction("ema", ema, below_one=True)
        weights = {
            "template_weight": template_weight, "template_lr": template_lr, "distribution_weight": distribution_weight,
            "distil": distil, "prototypes": prototypes,
        }  # fmt: skip
        for name, value in weights.items():
            if not value >= 0:
                raise LightningMMError(f"{name}: expected 0 or more, got {value}")
        if not temperature > 0:
            raise LightningMMError(f"temperature: expected a number above 0, got {temperature}")
        base_ckpt = base.pop("base_ckpt", None)
        super().__init__(model, modalities, num_classes, **base)
        self._refuse_other_methods()
        self.stage, self.mask_share, self.mask_seed, self.temperature, self.ema = (
            stage, mask_share, mask_seed, temperature, ema,
        )  # fmt: skip
        self.template_weight, self.template_lr = template_weight, template_lr
        self.statistics, self.distribution_weight, self.background = distribution, distribution_weight, background
        self.distil, self.prototypes = distil, prototypes
        self.save_settings(
            stage=stage, mask_share=mask_share, distribution=distribution, background=background,
            temperature=temperature, ema=ema, mask_seed=mask_seed, **weights,
        )  # fmt: skip
        self.base_ckpt = base_ckpt
        self._completer: list[UniversalSegmenter] = []  # a list, since it is no part of the state
        if base_ckpt is not None:
            load_network(model, base_ckpt, parts=RECONSTRUCTION)
            if stage == "segment":
                self._completer.append(deepcopy(model).requires_grad_(False).eval())
        idle = _HEADS if stage == "reconstruct" else ("reconstruction",)
        for name, part in model.named_children():
            part.requires_grad_(name not in idle)
        # parts of training alone, see setup
        self.distribution: DistributionBank | None = None
        self.averaged: UniversalSegmenter | None = None
        reconstructs = stage == "reconstruct"
        self.explained = nn.ModuleList(PredictedEmbedding(n) for n in model.channels.values() if reconstructs)

    def setup(self, stage: str) -> None:
        """Make what only training needs, before a checkpoint is read that may hold it."""
        if stage != "fit" or getattr(self, "adapter", None) is not None:
            return
        if self.stage == "reconstruct" and self.statistics != "none" and self.distribution is None:
            self.distribution = DistributionBank(self.model, self.statistics, background=self.background)
            self.distribution.to(self.device)
        if self.stage == "segment" and self.completes and self.ema > 0 and self.averaged is None:
            self.averaged = deepcopy(self.model).requires_grad_(False).eval()
            # it is in eval mode on purpose
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")

    @property
    def completes(self) -> bool:
        """Whether completed samples teach."""
        return self.distil > 0 or self.prototypes > 0

    def on_fit_start(self) -> None:
        super().on_fit_start()
        fresh = self.trainer.global_step == 0 and not self.model.template.values.any()
        if self.stage == "reconstruct" and fresh and getattr(self, "adapter", None) is None:
            start_template(self.model, self.trainer)
        if getattr(self, "adapter", None) is None:
            self.model.train()  # Lightning keeps a network in eval mode that was given so
        for completer in self._completer:
            completer.to(self.model.template.values)  # device and precision

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if not self.model.training:  # frozen under an adapter, which learns from the outputs, see on_fit_start
            return super().training_step(batch, batch_idx)
        check_batch(batch, KEYS)
        return self._reconstruct(batch) if self.stage == "reconstruct" else self._segment(batch)

    def _reconstruct(self, batch: dict[str, Any]) -> Tensor:
        observed, inputs = batch["observed"], self.existing(batch)
        reconstructed = self.model.reconstruct(inputs, self._shown(batch, self.current_epoch), batch.get("corner"))
        squared, count = self.squared_error(reconstructed, inputs, observed)
        error = weighted_by_share(squared / count.clamp(min=1), count)
        loss = error + self.template_weight * self.model.template.spread()
        self._log_loss("train/reconstruction", error, batch)
        if self.distribution is not None:
            foreground = self.distribution.foreground(inputs, observed)
            self.distribution.update(inputs, observed, foreground)
            distance = self.distribution(reconstructed, observed, foreground)
            self._log_loss("train/distribution", distance, batch)
            loss = loss + self.distribution_weight * distance
        self._log_loss("train/loss", loss, batch, prog_bar=True)
        return loss

    def _segment(self, batch: dict[str, Any]) -> Tensor:
        self.check_target(batch["target"])
        target, corner = batch["target"], batch.get("corner")
        student = self.model.segment(self._inputs(batch), batch["available"], corner)
        loss = self.training_loss(student.logits, target)
        if self.completes:
            completed = self.completed(batch)
            own = self.model.segment(completed, None, corner)
            teacher = own
            if self.averaged is not None:
                with torch.no_grad():
                    teacher = self.averaged.segment(completed, None, corner)
            divergence = temperature_divergence(student.logits, teacher.logits, self.temperature)
            of_completed = self.training_loss(own.logits, target)
            loss = loss + of_completed + self.distil * divergence
            self._log_loss("train/completed_loss", of_completed, batch)
            self._log_loss("train/divergence", divergence, batch)
            if self.prototypes > 0:
                distance = prototype_distance(student.features, teacher.features, target, self.num_classes)
                self._log_loss("train/prototypes", distance, batch)
                loss = loss + self.prototypes * distance
        self._log_loss("train/loss", loss, batch, prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Not at the end of a step: checkpoints in the middle of an epoch are written before a task hears of it.
        if self.distribution is not None:
            self.distribution.follow(self.model)
        if self.averaged is not None:
            with torch.no_grad():
                for kept, current in zip(self.averaged.parameters(), self.model.parameters()):
                    kept.lerp_(current, 1 - self.ema)

    def completed(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Inputs where they exist, and the reconstruction of the frozen first stage elsewhere, without a gradient.

        Raises:
            LightningMMError: If there is no first stage.
        """
        if not self._completer:
            raise LightningMMError(
                "stage segment completes samples with a network of stage reconstruct: give its checkpoint as "
                "base_ckpt, or set distil and prototypes to 0"
            )
        completer, inputs, observed = self._completer[0], self.existing(batch), batch["observed"]
        with torch.no_grad():
            found = completer.reconstruct(inputs, observed, batch.get("corner"))
        return {name: self._where(observed[:, k], inputs[name], found[name]) for k, name in enumerate(self.modalities)}

    def existing(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Inputs where they exist, and zeros elsewhere."""
        observed, zero = batch["observed"], torch.zeros((), device=self.device)
        inputs = self._inputs(batch)
        return {name: self._where(observed[:, k], inputs[name], zero) for k, name in enumerate(self.modalities)}

    def squared_error(
        self, reconstructed: dict[str, Tensor], inputs: dict[str, Tensor], wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of squared errors over the modalities of each sample that are wanted, ``Bool[B, M]``, and its terms."""
        total, count = torch.zeros((), device=wanted.device), torch.zeros((), device=wanted.device)
        for column, name in enumerate(self.modalities):
            gap = (reconstructed[name].float() - inputs[name]).square()
            rows = wanted[:, column]
            total = total + self._where(rows, gap, torch.zeros_like(total)).sum()
            count = count + rows.sum() * gap[0].numel()
        return total, count

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        if self.stage == "segment":
            return super().validation_step(batch, batch_idx, dataloader_idx)
        check_batch(batch, KEYS)
        observed, inputs, corner = batch["observed"], self.existing(batch), batch.get("corner")
        squared, count = self.squared_error(
            self.model.reconstruct(inputs, self._shown(batch, 0), corner), inputs, observed
        )
        loss = squared / count.clamp(min=1)
        self._log_loss("val/loss", loss, batch, prog_bar=True)
        whole = self.model.reconstruct(inputs, batch["available"], corner)
        for column, (name, metric) in enumerate(zip(self.modalities, self._explained())):
            rows = observed[:, column] & ~batch["available"][:, column]
            pairs = [one[rows].movedim(1, -1).flatten(0, -2) for one in (whole[name], inputs[name])]
            metric.update(*pairs)
        return loss

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        for metric in self._explained():
            metric.reset()

    def on_validation_epoch_end(self) -> None:
        if self.stage == "segment":
            super().on_validation_epoch_end()
            return
        found = {}
        for name, metric in zip(self.modalities, self._explained()):
            value = metric.compute()[0]
            if metric.count > 0 and bool(value.isfinite()):
                found[name] = value
        for name, value in found.items():
            self.log(f"val/explained_variance/{name}", value, sync_dist=True)
        if found:
            self.log("val/explained_variance", torch.stack(list(found.values())).mean(), sync_dist=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded_stage = dict(checkpoint.get("hyper_parameters") or {}).get("stage")
        # Statistics and averaged weights belong to training; a task that does not train leaves them out.
        for name in ("distribution", "averaged"):
            if getattr(self, name) is None:
                state = checkpoint["state_dict"]
                checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(f"{name}.")}
        super().on_load_checkpoint(checkpoint)

    def predictions(self, outputs: Tensor) -> Tensor:
        if self.loaded_stage == "reconstruct" and self.stage == "reconstruct":
            raise LightningMMError(
                "the checkpoint is of stage reconstruct, which trains no head to segment with; give that of stage "
                "segment, which starts from it as base_ckpt"
            )
        return super().predictions(outputs)

    def make_optimizer(self) -> Optimizer:
        """The template has a learning rate of its own and does not decay."""
        template = self.model.template.values
        groups = parameter_groups(self)
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter is not template]
        groups = [group for group in groups if group["params"]]
        if template.requires_grad:
            groups.append({"params": [template], "weight_decay": 0.0, "lr": self.template_lr})
        return self.optimizer(groups)

    def _shown(self, batch: dict[str, Any], epoch: int) -> Tensor:
        size, cell = batch["inputs"][self.modalities[0]].shape[2:], self.model.cell
        cells, index = cells_in(size, cell), batch["index"].cpu()
        shown = draw_shown(batch["observed"], cells, self.mask_share, index, epoch=epoch, seed=self.mask_seed)
        return on_pixels(shown, size, cell)

    def _inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: batch["inputs"][name] for name in self.modalities}

    def _where(self, rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (self.model.dims + 1)), one, other)

    def _explained(self) -> list[PredictedEmbedding]:
        return cast("list[PredictedEmbedding]", list(self.explained))

    def _refuse_other_methods(self) -> None:
        if self.auxiliary is not None or self.late_drop:
            raise LightningMMError(
                "UniversalTask has no auxiliary heads; set auxiliary_weight to 0 and late_drop to false"
            )
        if self.teacher.wanted:
            raise LightningMMError("UniversalTask has a teacher already, distil; set the weights of distillation to 0")
