"""Emotions: for each of several labels, whether it is there.

Shapes: B samples, M modalities, E emotions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.metrics.emotions import EmotionMetrics, emotion_metrics, label_confusion
from lightning_mm.tasks.teacher.teacher import distillation_loss


class EmotionTask(BaseTask):
    """Trains and evaluates a network that returns two logits for every emotion, absent and present.

    The loss is the mean cross entropy over samples and emotions. Metrics of every emotion: ``acc_<emotion>`` and
    ``f1_<emotion>``, the F1 of present and absent weighted by how often each is true; their means over emotions:
    ``mean_acc`` and ``mean_f1``, the primary one.

    Args:
        model: The network, ``{modality: [B, ...]} -> [B, 2 E]``, absent and present of the first emotion first; see
            :class:`BaseTask`.
        modalities: Names of the columns of ``available``, in order.
        emotions: Names of the emotions.
        **base: See :class:`BaseTask`.

    Shape:
        Target ``Int64[B, E]`` of 0 and 1.

    Raises:
        LightningMMError: If settings do not agree, the outputs are of another shape, or a label is not 0 or 1.

    Reference:
        MulT, arXiv 1906.00295: loss and metrics of its released code for IEMOCAP.
    """

    primary_metric = "mean_f1"
    summable_statistics = True

    def __init__(self, model: nn.Module, modalities: list[str], emotions: list[str], **base: Any) -> None:
        if not emotions or len(set(emotions)) != len(emotions) or "" in emotions:
            raise LightningMMError(f"emotions: expected one or more distinct names, got {emotions}")
        # Known before the base asks for metrics and heads; plain values may be set before nn.Module.__init__.
        self.emotions = list(emotions)
        super().__init__(model, modalities, **base)
        self.save_settings(emotions=self.emotions)
        names = [f"{metric}_{name}" for name in self.emotions for metric in ("acc", "f1")]
        self.metric_directions = dict.fromkeys([*names, "mean_acc", "mean_f1"], "max")

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float(self._logits(outputs)), target)

    def predictions(self, outputs: Tensor) -> Tensor:
        return self._logits(outputs).argmax(dim=1)

    def configure_metrics(self) -> MetricCollection:
        return MetricCollection({"emotions": EmotionMetrics(self.emotions)}, compute_groups=False)

    def configure_auxiliary(self) -> AuxiliaryHeads:
        return AuxiliaryHeads(self.model, self.modalities, 2 * len(self.emotions))

    def distillation(self, outputs: Tensor, teacher: Tensor) -> Tensor:
        return distillation_loss(self._logits(outputs), self._logits(teacher), self.teacher.settings.temperature)

    def check_target(self, target: Any) -> None:
        expected = f"Int64[B, {len(self.emotions)}] of 0 and 1, one for each of {self.emotions}"
        if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.ndim != 2:
            came = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise LightningMMError(f"target: expected {expected}, got {came}; give each sample a list of labels")
        if target.shape[1] != len(self.emotions) or not ((target == 0) | (target == 1)).all():
            raise LightningMMError(
                f"target: expected {expected}, got shape {tuple(target.shape)} and labels "
                f"{target.unique().tolist()[:10]}; set emotions, or fix the labels"
            )

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.check_target(target)
        return {"label_confusion": label_confusion(self.predictions(outputs), target)}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return emotion_metrics(statistics["label_confusion"].sum(0), self.emotions)

    def _logits(self, outputs: Any) -> Tensor:
        """``[B, 2, E]``."""
        wide = 2 * len(self.emotions)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] != wide:
            came = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise LightningMMError(
                f"network: expected logits [B, {wide}], absent and present for each of {len(self.emotions)} emotions, "
                f"got {came}; set the number of outputs of the network to {wide}"
            )
        return outputs.unflatten(1, (-1, 2)).transpose(1, 2)
