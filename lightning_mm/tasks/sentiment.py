"""Sentiment: one number in [-3, 3] per sample, or one of two classes.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.metrics.classification import ClassOneAUROC, auroc, class_one_probability
from lightning_mm.tasks.metrics.sentiment import (
    Pearson,
    PolarityAccuracy,
    PolarityF1,
    RoundedAccuracy,
    binary_metrics,
    sentiment_metrics,
)
from lightning_mm.tasks.teacher.teacher import distillation_loss

Labels = Literal["regression", "binary"]
LossName = Literal["l1", "mse", "bce"]
LOSSES: dict[Labels, tuple[LossName, ...]] = {"regression": ("l1", "mse"), "binary": ("bce",)}


class SentimentTask(BaseTask):
    """Trains and evaluates a network that returns a sentiment.

    Metrics of ``regression``: ``mae`` (the primary one, less is better), ``pearson`` (NaN for constant predictions),
    ``acc7`` and ``acc5`` (clipped to +-3 and +-2, halves rounded to even), ``acc2_has0`` and ``f1_has0`` (non-negative
    against negative), ``acc2_non0`` and ``f1_non0`` (positive against negative, labels of zero left out). Of
    ``binary``: ``acc2`` (the primary one), ``f1``, ``auroc``. Every F1 is weighted by how often a class is true, but
    ``f1_non0_swapped`` by how often it is predicted: the code of MulT swaps the arguments, and this is the metric to
    compare with its F1, see :func:`~lightning_mm.tasks.metrics.sentiment.polarity_metrics`.

    Args:
        model: The network, ``{modality: [B, ...]} -> [B]`` or ``[B, 1]``, the sentiment or the logit of class 1; with
            binary labels also ``[B, 2]``, one logit per class. See :class:`BaseTask`.
        modalities: Names of the columns of ``available``, in order.
        labels: ``regression`` for numbers in [-3, 3], ``binary`` for classes 0 and 1.
        loss: ``l1`` (the default) or ``mse`` for regression, ``bce`` for binary labels.
        **base: See :class:`BaseTask`.

    Shape:
        Target ``Float[B]`` in [-3, 3], or ``Int64[B]`` of 0 and 1.

    Raises:
        LightningMMError: If settings do not agree, the outputs are of another shape, or a label is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        labels: Labels = "regression",
        loss: LossName | None = None,
        **base: Any,
    ) -> None:
        check_choice("labels", labels, LOSSES)
        check_choice(f"loss of {labels} labels", loss or LOSSES[labels][0], LOSSES[labels])
        # Known before the base asks for metrics and heads; plain values may be set before nn.Module.__init__.
        self.binary, self.loss_name = labels == "binary", loss or LOSSES[labels][0]
        super().__init__(model, modalities, **base)
        self.save_settings(labels=labels, loss=loss)
        self.primary_metric = "acc2" if self.binary else "mae"
        if self.binary:
            self.metric_directions = {"acc2": "max", "f1": "max", "auroc": "max"}
        else:
            signs = ("acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "f1_non0_swapped")
            self.metric_directions = {"mae": "min", **dict.fromkeys(("pearson", "acc7", "acc5", *signs), "max")}

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        if self.binary:
            logits = at_least_float(self._logits(outputs))
            return F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], target.to(logits.dtype))
        values = at_least_float(self._values(outputs))
        target = target.to(values.dtype)
        return F.l1_loss(values, target) if self.loss_name == "l1" else F.mse_loss(values, target)

    def predictions(self, outputs: Tensor) -> Tensor:
        return self._logits(outputs).argmax(dim=1) if self.binary else self._values(outputs)

    def metric_inputs(self, outputs: Tensor) -> Tensor:
        return self._logits(outputs) if self.binary else self._values(outputs).float()

    def configure_metrics(self) -> MetricCollection:
        metrics: dict[str, Any]
        if self.binary:
            metrics = {
                "acc2": MulticlassAccuracy(2, average="micro", validate_args=False),
                "f1": MulticlassF1Score(2, average="weighted", validate_args=False),
                "auroc": ClassOneAUROC(validate_args=False),
            }
        else:
            metrics = {"mae": MeanAbsoluteError(), "pearson": Pearson()}
            metrics |= {"acc7": RoundedAccuracy(3), "acc5": RoundedAccuracy(2)}
            metrics |= {"acc2_has0": PolarityAccuracy("has0"), "f1_has0": PolarityF1("has0")}
            metrics |= {"acc2_non0": PolarityAccuracy("non0"), "f1_non0": PolarityF1("non0")}
            metrics |= {"f1_non0_swapped": PolarityF1("non0", swapped=True)}
        # Groups are found by comparing states after the first batch, where both conventions may have the same.
        return MetricCollection(metrics, compute_groups=False)

    def configure_auxiliary(self) -> AuxiliaryHeads:
        return AuxiliaryHeads(self.model, self.modalities, 1)

    def distillation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        if self.binary:
            return distillation_loss(self._logits(outputs), self._logits(teacher), self.teacher.settings.temperature)
        return F.mse_loss(self._values(outputs).float(), self._values(teacher).detach().float())

    def check_target(self, target: Any) -> None:
        kind = "Int64[B] of 0 and 1" if self.binary else "Float[B] in [-3, 3]"
        other = "regression" if self.binary else "binary"
        if not isinstance(target, Tensor):
            raise LightningMMError(
                f"target: expected a tensor {kind}, got a {type(target).__name__}; give each sample one number"
            )
        fits = target.dtype == torch.int64 if self.binary else target.is_floating_point()
        if not fits or target.ndim != 1:
            raise LightningMMError(
                f"target: expected {kind}, got {target.dtype} {tuple(target.shape)}; set labels to {other}, or fix "
                f"the labels: target.{'long' if self.binary else 'float'}()"
            )
        right = (target == 0) | (target == 1) if self.binary else target.abs() <= 3
        if not right.all():
            raise LightningMMError(
                f"target: expected {kind}, got {sorted(set(target[~right].tolist()))[:10]}; set labels to {other}, or "
                "fix the labels"
            )

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.check_target(target)
        if not self.binary:
            return {"prediction": self._values(outputs).float(), "target": target.float()}
        score = class_one_probability(self._logits(outputs))
        return {"prediction": self.predictions(outputs), "target": target, "score": score}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        prediction, target = statistics["prediction"], statistics["target"]
        if not self.binary:
            return sentiment_metrics(prediction, target)
        accuracy, f1 = binary_metrics(prediction, target)
        return {"acc2": accuracy, "f1": f1, "auroc": auroc(statistics["score"], target)}

    def _values(self, outputs: Any) -> Tensor:
        """One number per sample, ``[B]``."""
        if isinstance(outputs, Tensor) and outputs.ndim == 1:
            return outputs
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == 1:
            return outputs[:, 0]
        came = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        expected = "[B], [B, 1] or [B, 2]" if self.binary else "[B] or [B, 1]"
        raise LightningMMError(f"network: expected outputs {expected}, got {came}; set the number of its outputs")

    def _logits(self, outputs: Any) -> Tensor:
        """Logits of classes 0 and 1, ``[B, 2]``; a single one is that of class 1 against zero."""
        if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == 2:
            return outputs
        logit = self._values(outputs)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)
