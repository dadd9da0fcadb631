"""Semantic segmentation: one class per pixel, or per voxel of volumes.

Shapes: B samples, M modalities, C classes, H x W pixels; of volumes D x H x W voxels.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import ClasswiseWrapper, MetricCollection
from torchmetrics.classification import BinaryJaccardIndex, MulticlassAccuracy, MulticlassJaccardIndex

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.checks import check_labels, checked_class_names
from lightning_mm.tasks.losses import CrossEntropyLoss, DiceLoss, OhemCrossEntropyLoss
from lightning_mm.tasks.metrics.regions import RegionDice, Regions, mean_region_dice
from lightning_mm.tasks.metrics.segmentation import (
    AbsentClasses,
    MeanOverClasses,
    calibration_per_sample,
    confusion_per_sample,
    segmentation_metrics,
)
from lightning_mm.tasks.settings import group_of
from lightning_mm.tasks.training.strategies import weighted_by_share
from lightning_mm.tasks.volume_losses import BatchDiceLoss, RareClassCrossEntropyLoss

LossName = Literal["ce", "dice", "ce+dice", "ohem", "rare+dice"]


class SemanticSegmentationTask(BaseTask):
    """Trains and evaluates a network that returns one logit per class and pixel.

    Metrics: ``miou``, ``macc`` (mean class accuracy, the mean recall of the classes) and ``mf1``, means over the
    classes that have a value (see ``absent_classes``); ``iou_<class>``, ``pixel_accuracy``; with two classes also
    ``iou``, that of class 1, which is then the primary metric. With ``regions`` also the Dice of each, the mean over
    samples, ``dice_<region>``, without small predictions ``dice_<region>_post``, and ``mdice``, the mean over regions,
    which is then the primary metric.

    Args:
        model: The network, ``{modality: [B, C_m, H, W]} -> [B, C, H, W]``, or that with depth; see :class:`BaseTask`.
            One with ``dims`` of 3 is of volumes.
        modalities: Names of the columns of ``available``, in order.
        num_classes: Number of classes C.
        loss: Cross entropy, Dice, their sum, cross entropy of the hard pixels, or the sum of cross entropy that favours
            rare classes and Dice, as usual for BraTS (``rare+dice``, see :mod:`lightning_mm.tasks.volume_losses`). In a
            distributed run cross entropy is the mean over the labelled pixels of all processes; Dice and hard pixels
            are those of each process.
        class_weights: One weight per class for the cross entropies.
        ignore_index: Label of pixels that count in neither loss nor metrics.
        class_names: Names for the metrics of single classes, by default their numbers.
        absent_classes: How a class counts that is in neither truth nor prediction (for ``macc``: not in the truth):
            ``skip``, its metric is NaN and left out of the mean; ``zero``, its metric is 0 and counts, the convention
            of the code of CMNeXt (arXiv 2303.01480).
        calibration: Whether a sweep also stores the confidences of pixels, by bins, so that `lightning-mm rescore` and
            `table --robustness` compute calibration error and Brier score; it takes a softmax of every output.
        regions: Sets of classes with a Dice each, such as whole tumour, core and enhancing part, the default of
            :class:`~lightning_mm.tasks.metrics.regions.Regions` (``regions: {}`` in a config).
        **base: See :class:`BaseTask`.

    Shape:
        Target ``Int64[B, H, W]``, or ``Int64[B, D, H, W]``, with labels 0 to C - 1 and ``ignore_index``.

    Raises:
        LightningMMError: If settings do not agree, or a label is out of range.
    """

    summable_statistics = True
    """The metrics depend on the sum of the confusion matrices alone, which makes the bootstrap fast; not those of
    regions."""

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        num_classes: int,
        loss: LossName = "ce",
        class_weights: list[float] | None = None,
        ignore_index: int = 255,
        class_names: list[str] | None = None,
        absent_classes: AbsentClasses = "skip",
        calibration: bool = False,
        regions: Regions | None = None,
        **base: Any,
    ) -> None:
        names = checked_class_names(model, num_classes, class_names)
        if class_weights is not None and len(class_weights) != num_classes:
            raise LightningMMError(f"class_weights: expected {num_classes} numbers, got {len(class_weights)}")
        check_choice("absent_classes", absent_classes, get_args(AbsentClasses))
        # Known before the base asks for the metrics; plain values may be set before nn.Module.__init__.
        self.num_classes, self.ignore_index, self.class_names = num_classes, ignore_index, names
        self.absent_classes: AbsentClasses = absent_classes
        self.calibration = calibration
        self.regions = None if regions is None else group_of(Regions, regions, "regions")
        if self.regions is not None:
            self.regions.check(num_classes)
            self.summable_statistics = False
        super().__init__(model, modalities, **base)
        self.save_settings(
            num_classes=num_classes,
            loss=loss,
            class_weights=None if class_weights is None else [float(weight) for weight in class_weights],
            ignore_index=ignore_index,
            class_names=class_names,
            absent_classes=absent_classes,
            calibration=calibration,
            regions=None if self.regions is None else asdict(self.regions),
        )
        self.primary_metric = "iou" if num_classes == 2 else "miou"
        metrics = ["miou", "macc", "mf1", "pixel_accuracy", *(f"iou_{name}" for name in names)]
        if self.regions is not None:
            self.primary_metric = "mdice"
            metrics += [*self.regions.metrics, "mdice"]
        self.metric_directions = dict.fromkeys(metrics + ["iou"] * (num_classes == 2), "max")
        self.criterion = _criterion(loss, ignore_index, class_weights)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        self._check_outputs(outputs, target)
        return torch.stack([term(outputs, target) for term in self.criterion]).sum()

    def training_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        if type(self).loss is not SemanticSegmentationTask.loss:  # that of a subclass, of which nothing is known here
            return super().training_loss(outputs, target)
        self._check_outputs(outputs, target)
        terms = []
        for term in self.criterion:
            value = term(outputs, target)
            terms.append(weighted_by_share(value, term.norm(target)) if isinstance(term, CrossEntropyLoss) else value)
        return torch.stack(terms).sum()

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def configure_metrics(self) -> MetricCollection:
        settings: dict[str, Any] = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        settings["validate_args"] = False  # check_target has looked at the labels; theirs sorts every batch
        zero = self.absent_classes == "zero"
        undefined = 0.0 if zero else float("nan")
        per_class = MulticlassJaccardIndex(average="none", zero_division=undefined, **settings)
        ours: dict[str, Any] = {"absent_classes": self.absent_classes, **settings}
        metrics: dict[str, Any] = {
            "miou": MeanOverClasses("iou", **ours) if zero else MulticlassJaccardIndex(average="macro", **settings),
            "macc": MeanOverClasses("acc", **ours),
            "mf1": MeanOverClasses("f1", **ours),
            "pixel_accuracy": MulticlassAccuracy(average="micro", **settings),
            "per_class": ClasswiseWrapper(per_class, labels=self.class_names, prefix="iou_"),
        }
        if self.num_classes == 2:
            metrics["iou"] = BinaryJaccardIndex(
                ignore_index=self.ignore_index, validate_args=False, zero_division=undefined
            )
        if self.regions is not None:
            metrics["regions"] = RegionDice(self.num_classes, self.ignore_index, self.regions)
        # Groups would share one confusion matrix, but do not count the updates of a wrapper and so warn in compute().
        return MetricCollection(metrics, compute_groups=False)

    def configure_auxiliary(self) -> AuxiliaryHeads:
        return AuxiliaryHeads(self.model, self.modalities, self.num_classes, dense=True)

    def check_target(self, target: Any) -> None:
        volumes = getattr(self.model, "dims", 2) == 3
        what = "Int64[B, D, H, W], one label per voxel" if volumes else "Int64[B, H, W], one label per pixel"
        check_labels(target, what, 3 + volumes, self.num_classes, self.ignore_index)

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.check_target(target)
        self._check_outputs(outputs, target)
        confusion = confusion_per_sample(self.predictions(outputs), target, self.num_classes, self.ignore_index)
        if not self.calibration:
            return {"confusion": confusion}
        return {"confusion": confusion, **calibration_per_sample(outputs, target, self.ignore_index)}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        confusion = statistics["confusion"]
        of_regions = {} if self.regions is None else mean_region_dice(confusion, self.regions)
        of_classes = segmentation_metrics(confusion.sum(0), self.class_names, self.ignore_index, self.absent_classes)
        return of_classes | of_regions

    def _check_outputs(self, outputs: Any, target: Tensor) -> None:
        expected = (len(target), self.num_classes, *target.shape[1:])
        if not isinstance(outputs, Tensor) or outputs.shape != expected:
            came = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise LightningMMError(
                f"network: expected logits {list(expected)}, one per class and pixel of the target, got {came}; set "
                "num_classes of task and network to the same number, and bring outputs and labels to one size"
            )


def _criterion(loss: LossName, ignore_index: int, weight: list[float] | None) -> nn.ModuleList:
    terms: dict[str, list[nn.Module]] = {
        "ce": [CrossEntropyLoss(ignore_index, weight)],
        "dice": [DiceLoss(ignore_index)],
        "ce+dice": [CrossEntropyLoss(ignore_index, weight), DiceLoss(ignore_index)],
        "ohem": [OhemCrossEntropyLoss(ignore_index=ignore_index, weight=weight)],
        "rare+dice": [RareClassCrossEntropyLoss(ignore_index), BatchDiceLoss(ignore_index)],
    }
    check_choice("loss", loss, terms)
    return nn.ModuleList(terms[loss])
