"""Visual question answering: the answer to a question about an image, from a list of answers.

Shapes: B samples, C answers.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.checks import checked_class_names
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.metrics.vqa import VqaScore, vqa_loss, vqa_scores


class VisualQuestionAnsweringTask(BaseTask):
    """Trains and evaluates a network that returns one logit per answer, with soft targets.

    The loss is binary cross entropy, averaged over samples and answers and multiplied by the number of answers. Metric:
    ``vqa_score``, the mean value that the targets give to the answer with the highest logit (the accuracy where one
    answer is right).

    Args:
        model: The network, ``{modality: [B, ...]} -> [B, C]``; see :class:`BaseTask`.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of answers C.
        class_names: The answers, for messages and plots; by default their numbers.
        **base: See :class:`BaseTask`.

    Shape:
        Target ``Float[B, C]`` between 0 and 1, see :func:`~lightning_mm.tasks.metrics.vqa.soft_target`.

    Raises:
        LightningMMError: If settings do not agree, or outputs or targets are of another shape or out of range.

    Reference:
        ViLT, arXiv 2102.03334.
    """

    primary_metric = "vqa_score"
    summable_statistics = False

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        class_names: list[str] | None = None,
        **base: Any,
    ) -> None:
        # Known before the base asks for metrics and heads; plain values may be set before nn.Module.__init__.
        self.num_classes, self.class_names = num_classes, checked_class_names(model, num_classes, class_names)
        super().__init__(model, modalities, **base)
        self.save_settings(num_classes=num_classes, class_names=class_names)
        self.metric_directions = {"vqa_score": "max"}

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        self._check_outputs(outputs, target)
        logits = at_least_float(outputs)
        return vqa_loss(logits, target.to(logits.dtype))

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def metric_inputs(self, outputs: Tensor) -> Tensor:
        return outputs

    def configure_metrics(self) -> MetricCollection:
        return MetricCollection({"vqa_score": VqaScore()}, compute_groups=False)

    def configure_auxiliary(self) -> AuxiliaryHeads:
        return AuxiliaryHeads(self.model, self.modalities, self.num_classes)

    def check_target(self, target: Any) -> None:
        kind = f"Float[B, {self.num_classes}] between 0 and 1, a value for every answer"
        if not isinstance(target, Tensor):
            raise LightningMMError(f"target: expected a tensor {kind}, got a {type(target).__name__}")
        if target.ndim != 2 or target.shape[1] != self.num_classes or not target.is_floating_point():
            raise LightningMMError(
                f"target: expected {kind}, got {target.dtype} {tuple(target.shape)}; for one right answer as a number "
                "take ClassificationTask, or one_hot(target, num_classes).float()"
            )
        wrong = ~((target >= 0) & (target <= 1))
        if wrong.any():
            raise LightningMMError(f"target: expected {kind}, got {float(target[wrong][0]):.4g}")

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.check_target(target)
        self._check_outputs(outputs, target)
        # The answer of highest value is the class of a sample, for tables by class and for confusions; the first one
        # where no answer has a value.
        scores = vqa_scores(outputs, target).float()
        return {"prediction": self.predictions(outputs), "target": target.argmax(1), "vqa_score": scores}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"vqa_score": statistics["vqa_score"].double().mean().item()}

    def _check_outputs(self, outputs: Any, target: Tensor) -> None:
        wanted = (len(target), self.num_classes)
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted:
            came = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise LightningMMError(
                f"network: expected logits {list(wanted)}, a row per sample and a column per answer, got {came}; set "
                "num_classes of task and network to the same number"
            )
