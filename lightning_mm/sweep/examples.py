"""Collects a few samples of a split with the predictions of every method, for pictures.

Shapes: B samples in a batch, K samples are kept, H x W pixels. Of volumes, whose targets have three axes, one slice is
kept: that of the last axis with most labels above 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.plugins.precision import Precision
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_mm.modalities import Modalities
from lightning_mm.results.pictures import Examples
from lightning_mm.results.pictures.examples import IGNORED
from lightning_mm.results.pictures.write import drawn_combinations
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import ZERO_FILL
from lightning_mm.sweep.observed import observed_of
from lightning_mm.sweep.switching import evaluating, switched, using
from lightning_mm.tree import take_rows, tensors_of

SAMPLES, BATCHES = 3, 8
"""How many samples are kept, and in how many batches they are looked for."""
LARGEST = 256
"""Pixels of the longer side of what is kept."""


@torch.no_grad()
def collect_examples(
    methods: Mapping[str, nn.Module],
    batches: Iterable[Any],
    result: SweepResult,
    off: Collection[str] = (ZERO_FILL,),
    precision: Precision | None = None,
) -> Examples:
    """Run every method on a few samples, if its task is a segmentation; for other tasks only classes are named.

    Samples that observed everything and have several classes are preferred, one per batch.

    Args:
        methods: Method to task.
        batches: Of the split that was swept.
        result: The sweep: which methods ran on which combinations.
        off: Methods that are their task with its adapter off.
        precision: That of the sweep; full precision by default.
    """
    task: Any = next(iter(methods.values()))
    names = [str(name) for name in getattr(task, "class_names", None) or ()]
    if not hasattr(task, "ignore_index"):
        return Examples(names)
    known = Modalities(result.modalities)
    found = _choose(batches, known, task.ignore_index)
    if not found:
        return Examples(names)
    inputs = {name: [_shown(one["inputs"][name], one["target"]) for one in found] for name in known}
    truth = torch.cat([_shown(one["target"], one["target"]) for one in found]).cpu()
    predictions: dict[tuple[str, str], NDArray[np.int16]] = {}
    drawn = drawn_combinations(result)
    for method, one in methods.items():
        for combination in [name for name in result.values(method) if name in drawn]:
            labels = [
                _shown(
                    _predict(one, method in off, sample["inputs"], known, combination, precision or Precision()),
                    sample["target"],
                )
                for sample in found
            ]
            predictions[method, combination] = _smaller(torch.cat(labels)).numpy().astype(np.int16)
    truth = torch.where(truth == task.ignore_index, IGNORED, truth)
    return Examples(
        names,
        torch.cat([one["index"] for one in found]).numpy().astype(np.int64),
        {name: np.concatenate(pictures) for name, own in inputs.items() if (pictures := _pictures(own)) is not None},
        _smaller(truth).numpy().astype(np.int16),
        predictions,
    )


def _choose(batches: Iterable[Any], known: Modalities, ignored: int) -> list[dict[str, Any]]:
    """Samples as batches of one, with ``inputs``, ``target`` and ``index``."""
    ranked: list[tuple[tuple[int, int], dict[str, Any]]] = []
    seen = 0
    for position, batch in enumerate(batches):
        if position == BATCHES:
            break
        target: Tensor = batch["target"]
        size = len(target)
        observed = observed_of(batch, size, known)
        whole = torch.ones(size) if observed is None else observed.sum(1)
        index = batch.get("index")
        usable = isinstance(index, Tensor) and not bool((index == -1).all())
        index = index if usable else torch.arange(seen, seen + size)
        seen += size
        classes = [len(set(torch.unique(one).tolist()) - {ignored}) for one in target]
        order = sorted(range(size), key=lambda k: (-int(whole[k]), -classes[k], k))
        for place, k in enumerate(order[:SAMPLES]):
            row = take_rows({"inputs": dict(batch["inputs"]), "target": target}, torch.tensor([k]), size)
            row["index"] = cast(Tensor, index)[k : k + 1].cpu()
            # the best of each batch first, so that samples are apart
            ranked.append(((place - 10 * (classes[k] > 1), position), row))
    ranked.sort(key=lambda one: one[0])
    best = [row for _, row in ranked if _form(row) == _form(ranked[0][1])][:SAMPLES]
    return sorted(best, key=lambda row: int(row["index"]))


def _shown(values: Any, target: Tensor) -> Any:
    """Values on the grid of a target ``[1, ...]``; of volumes, one slice ``[1, ..., X, Y]``."""
    if target.ndim != 4 or not isinstance(values, Tensor) or values.shape[-3:] != target.shape[1:]:
        return values
    return values[..., int((target > 0).flatten(0, 2).sum(0).argmax())]


def _form(row: dict[str, Any]) -> list[Any]:
    """Shapes of a sample: those of one picture are equal."""
    return [tuple(row["target"].shape), *(tuple(one.shape) for one in tensors_of(row["inputs"]))]


def _predict(
    task: nn.Module, off: bool, inputs: Any, known: Modalities, combination: str, precision: Precision
) -> Tensor:
    """Labels of one sample, ``Int[1, H, W]``."""
    one: Any = task
    device = next((parameter.device for parameter in task.parameters()), torch.device("cpu"))
    own = {name: _moved(inputs[name], device) for name in one.modalities}
    columns = [known.index(name) for name in one.modalities]
    available = known.mask(combination)[columns][None].to(device)
    off = off and getattr(one, "adapter", None) is not None
    with evaluating(task), precision.forward_context(), switched(task, off), using(task, available):
        outputs = one(precision.convert_input(own), available)
    return cast(Tensor, one.predictions(outputs)).cpu()


def _moved(nest: Any, device: torch.device) -> Any:
    from lightning.fabric.utilities import move_data_to_device

    return move_data_to_device(nest, device)


def _pictures(samples: Sequence[Any]) -> list[NDArray[np.uint8]] | None:
    """Images ``[1, C, H, W]`` as ``UInt8[1, H, W, 3]`` from darkest to brightest; ``None`` if they are no images."""
    found = []
    for one in samples:
        if not isinstance(one, Tensor) or one.ndim != 4 or not one.is_floating_point():
            return None
        image = one[0].detach().float().cpu()
        image = image[:3] if len(image) >= 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
        image = torch.nan_to_num(_smaller(image)).permute(1, 2, 0)
        low, high = torch.quantile(image.flatten(), torch.tensor([0.01, 0.99])).tolist()
        scaled = (image - low) / ((high - low) or 1.0)
        found.append((255 * scaled.clamp(0, 1)).round().to(torch.uint8)[None].numpy())
    return found


def _smaller(images: Tensor) -> Tensor:
    """Every k-th pixel of ``[K, H, W]``, at most ``LARGEST`` in a row."""
    step = -(-max(images.shape[1:]) // LARGEST)
    return images[:, ::step, ::step]
