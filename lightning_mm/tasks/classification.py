"""Classification: one class per sample.

Shapes: B samples, M modalities, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.checks import check_labels, checked_class_names
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.metrics.classification import (
    ClassOneAUROC,
    class_one_probability,
    classification_metrics,
    probability_statistics,
)


class ClassificationTask(BaseTask):
    """Trains and evaluates a network that returns one logit per class.

    Metrics: ``accuracy`` (share of samples, the primary one), ``macro_f1`` (mean over the classes that are in truth or
    prediction, as in torchmetrics); with two classes also ``auroc`` of the probability of class 1.

    Args:
        model: The network, ``{modality: [B, ...]} -> [B, C]``; see :class:`BaseTask`.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of classes C.
        class_weights: One weight per class for the cross entropy.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        class_names: Names of the classes, for messages and plots; by default their numbers.
        **base: See :class:`BaseTask`.

    Shape:
        Target ``Int64[B]`` with labels 0 to C - 1.

    Raises:
        LightningMMError: If settings do not agree, the outputs are of another shape, or a label is out of range.
    """

    primary_metric = "accuracy"
    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        class_names: list[str] | None = None,
        **base: Any,
    ) -> None:
        names = checked_class_names(model, num_classes, class_names)
        if class_weights is not None and (len(class_weights) != num_classes or min(class_weights) < 0):
            raise LightningMMError(f"class_weights: expected {num_classes} numbers, none negative, got {class_weights}")
        check_fraction("label_smoothing", label_smoothing)
        # Known before the base asks for metrics and heads; plain values may be set before nn.Module.__init__.
        self.num_classes, self.class_names, self.label_smoothing = num_classes, names, label_smoothing
        super().__init__(model, modalities, **base)
        self.save_settings(
            num_classes=num_classes,
            class_weights=None if class_weights is None else [float(weight) for weight in class_weights],
            label_smoothing=label_smoothing,
            class_names=class_names,
        )
        self.metric_directions = dict.fromkeys(["accuracy", "macro_f1"] + ["auroc"] * (num_classes == 2), "max")
        # Outside the state dict, so that a base checkpoint fits whatever the loss.
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        self._check_outputs(outputs, target)
        logits, weights = at_least_float(outputs), self.class_weights
        weights = None if weights is None else weights.to(logits.dtype)
        total = F.cross_entropy(logits, target, weights, reduction="sum", label_smoothing=self.label_smoothing)
        norm = self.loss_weight(target)
        if norm is None:
            return total / len(target)
        # Like torch's own mean, but zero and not NaN if all samples have the weight zero.
        return total / torch.where(norm > 0, norm, 1)

    def loss_weight(self, target: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights[target].sum()

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def metric_inputs(self, outputs: Tensor) -> Tensor:
        return outputs

    def configure_metrics(self) -> MetricCollection:
        settings: dict[str, Any] = {"num_classes": self.num_classes, "validate_args": False}
        metrics: dict[str, Any] = {
            "accuracy": MulticlassAccuracy(average="micro", **settings),
            "macro_f1": MulticlassF1Score(average="macro", **settings),
        }
        if self.num_classes == 2:
            metrics["auroc"] = ClassOneAUROC(validate_args=False)
        return MetricCollection(metrics, compute_groups=False)

    def configure_auxiliary(self) -> AuxiliaryHeads:
        return AuxiliaryHeads(self.model, self.modalities, self.num_classes)

    def check_target(self, target: Any) -> None:
        check_labels(target, "Int64[B], one label per sample", 1, self.num_classes)

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.check_target(target)
        self._check_outputs(outputs, target)
        statistics = {"prediction": self.predictions(outputs), "target": target}
        if self.num_classes == 2:
            return {**statistics, "score": class_one_probability(outputs)}
        return {**statistics, **probability_statistics(outputs, target)}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return classification_metrics(
            statistics["prediction"], statistics["target"], self.num_classes, statistics.get("score")
        )

    def _check_outputs(self, outputs: Any, target: Tensor) -> None:
        if isinstance(outputs, Tensor) and outputs.ndim and len(outputs) != len(target):
            raise LightningMMError(
                f"network: expected one row of logits for each of {len(target)} labels, got {tuple(outputs.shape)}; "
                "inputs, outputs and targets are batch first"
            )
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != self.num_classes:
            came = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise LightningMMError(
                f"network: expected logits [B, {self.num_classes}], one per class, got {came}; set num_classes of task "
                "and network to the same number"
            )
