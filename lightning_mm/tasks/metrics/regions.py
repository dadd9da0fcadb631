"""Dice of regions, sets of classes that overlap, as for brain tumours: per sample, then the mean over samples.

Shapes: B samples, C classes; a confusion matrix has the truth in rows, the prediction in columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float64, Int, Real
from torch import Tensor
from torchmetrics import Metric

from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.tasks.metrics.segmentation import confusion_per_sample

_EPSILON = 1e-8


@dataclass(frozen=True)
class Regions:
    """Regions of a segmentation and which predictions of them are too small to count; by default those of BraTS.

    Args:
        classes: Region to its classes: whole tumour ``wt``, its core ``tc``, the enhancing part ``et``.
        smallest: Region to the number of voxels from which on its prediction counts, in the further metric
            ``dice_<region>_post``: in samples with fewer, the prediction of that region, and of no other, is removed.

    Example:
        >>> Regions({"wt": [1, 2, 3, 4], "tc": [1, 3, 4], "et": [4]})  # the labels of BraTS 2015
        Regions(classes={'wt': [1, 2, 3, 4], 'tc': [1, 3, 4], 'et': [4]}, smallest={'et': 500})
    """

    classes: dict[str, list[int]] = field(default_factory=lambda: {"wt": [1, 2, 3], "tc": [1, 3], "et": [3]})
    smallest: dict[str, int] = field(default_factory=lambda: {"et": 500})

    def check(self, num_classes: int) -> None:
        """Raise a LightningMMError unless the regions are sets of classes 0 to ``num_classes - 1``."""
        for name, classes in self.classes.items():
            if not classes or len(set(classes)) != len(classes) or not set(classes) <= set(range(num_classes)):
                raise LightningMMError(
                    f"regions: {name!r} must be distinct classes from 0 to {num_classes - 1}, got {classes}"
                )
        strangers = [name for name in self.smallest if name not in self.classes]
        if strangers or not self.classes:
            raise LightningMMError(
                f"regions: expected one or more regions, and smallest for those alone, got {self.classes} and "
                f"{self.smallest}"
            )
        for name, voxels in self.smallest.items():
            check_whole(f"regions: smallest of {name!r}", voxels, 1)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of :func:`region_dice`."""
        return [f"dice_{name}" for name in self.classes] + [f"dice_{name}_post" for name in self.smallest]


def region_dice(
    confusion: Real[Tensor, "batch class class"], regions: Regions = Regions()
) -> dict[str, Float64[Tensor, " batch"]]:
    """Dice of every region of every sample, ``dice_<region>``, and ``dice_<region>_post`` without small predictions.

    A region that is neither in the truth nor predicted has a Dice of 1; one that is only in one of them, of about 0.

    Args:
        confusion: ``Int[B, C, C]``, as :func:`~lightning_mm.tasks.metrics.segmentation.confusion_per_sample` counts.
        regions: Those of BraTS by default; for samples that are crops or slices, ``smallest`` counts in each.

    Shape:
        ``Int[B, C, C]`` -> name to ``Float64[B]``, on the CPU.

    Example:
        >>> confusion = torch.tensor([[[9, 0], [2, 4]]])
        >>> region_dice(confusion, Regions({"lesion": [1]}, {"lesion": 5}))["dice_lesion"]
        tensor([0.8000], dtype=torch.float64)

    Reference:
        The evaluation of mmFormer (arXiv 2206.02425) and RFNet (ICCV 2021), whose batches are one patient.
    """
    counts, found = confusion.double().cpu(), {}
    for name, classes in regions.classes.items():
        truth, predicted = counts[:, classes].sum((1, 2)), counts[:, :, classes].sum((1, 2))
        hit = counts[:, classes][:, :, classes].sum((1, 2))
        found[f"dice_{name}"] = _dice(hit, truth, predicted)
        if name in regions.smallest:
            counted = predicted >= regions.smallest[name]
            found[f"dice_{name}_post"] = _dice(hit * counted, truth, predicted * counted)
    return {name: found[name] for name in regions.metrics}


def mean_region_dice(confusion: Real[Tensor, "batch class class"], regions: Regions = Regions()) -> dict[str, float]:
    """Means of :func:`region_dice` over samples, and ``mdice``, the mean over regions of what is not postprocessed."""
    means = {name: values.mean().item() for name, values in region_dice(confusion, regions).items()}
    plain = [means[f"dice_{name}"] for name in regions.classes]
    return {**means, "mdice": sum(plain) / len(plain)}


def _dice(
    hit: Float64[Tensor, " batch"], truth: Float64[Tensor, " batch"], predicted: Float64[Tensor, " batch"]
) -> Float64[Tensor, " batch"]:
    return (2 * hit + _EPSILON) / (truth + predicted + _EPSILON)


class RegionDice(Metric):
    """The means of :func:`region_dice` over the samples of an epoch, and ``mdice``; a dict of scalars.

    Args:
        num_classes: Number of classes C.
        ignore_index: Label of pixels that do not count.
        regions: See :class:`Regions`.

    Shape:
        ``update`` takes predicted classes and target, ``Int[B, ...]`` each.
    """

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255, regions: Regions = Regions()) -> None:
        super().__init__()
        regions.check(num_classes)
        self.num_classes, self.ignore_index, self.regions = num_classes, ignore_index, regions
        self.add_state("total", torch.zeros(len(regions.metrics)), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds: Int[Tensor, " batch *pixels"], target: Int[Tensor, " batch *pixels"]) -> None:
        confusion = confusion_per_sample(preds, target, self.num_classes, self.ignore_index)
        dice = torch.stack(list(region_dice(confusion, self.regions).values()))
        self.total += dice.sum(1).to(self.total)
        self.samples += len(target)

    def compute(self) -> dict[str, Tensor]:
        means = self.total / self.samples
        return {
            **dict(zip(self.regions.metrics, means)),
            "mdice": means[: len(self.regions.classes)].mean(),
        }
