"""Checks that a task agrees with its network, and a call with the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities, check_mask, check_rows
from lightning_mm.tree import leaves_of


def check_modalities(model: nn.Module, modalities: Modalities) -> None:
    """Raise a LightningMMError if a network with ``channels`` lists other modalities, or in another order."""
    channels = getattr(model, "channels", None)
    if isinstance(channels, Mapping) and tuple(channels) != modalities.names:
        raise LightningMMError(
            f"task and network disagree on the modalities: the task lists {list(modalities)}, the network's channels "
            f"{list(channels)}; write the same names in the same order"
        )


def checked_class_names(model: nn.Module, num_classes: int, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes; by default their numbers.

    Raises:
        LightningMMError: If they are not as many distinct names as there are classes, or a network with
            ``num_classes`` has another number.
    """
    names = [str(label) for label in range(num_classes)] if class_names is None else list(class_names)
    if num_classes < 2 or len(names) != num_classes or len(set(names)) != num_classes:
        raise LightningMMError(
            f"num_classes is {num_classes}: expected at least 2, and as many distinct class_names, got {names}"
        )
    made_for = getattr(model, "num_classes", num_classes)
    if made_for != num_classes:
        raise LightningMMError(
            f"task and network disagree on the classes: the task has num_classes {num_classes}, the network "
            f"{made_for}; write the same number"
        )
    return names


def check_call(inputs: Any, available: Any, modalities: Modalities) -> None:
    """Raise a LightningMMError if inputs lack a modality, or ``available`` is not ``Bool[B, M]`` without empty rows."""
    if not isinstance(inputs, Mapping):
        raise LightningMMError(f"inputs: expected a dict of {list(modalities)}, got a {type(inputs).__name__}")
    absent = [name for name in modalities if name not in inputs]
    if absent:
        raise LightningMMError(f"inputs lack {absent}; expected {list(modalities)}, got {list(inputs)}")
    if available is not None:
        check_rows("available", check_mask("available", available, modalities))


def check_batch(batch: Any, needed: Sequence[str]) -> None:
    """Raise a LightningMMError if a batch is not a mapping with these keys."""
    if isinstance(batch, Mapping) and all(key in batch for key in needed):
        if isinstance(batch.get("available"), Tensor) and batch["available"].shape[:1] == (0,):
            raise LightningMMError(
                "got a batch without samples; its sampler or collate_fn must leave empty batches out"
            )
        return
    came = f"only {list(batch)}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    raise LightningMMError(
        f"expected a batch with the keys {list(needed)}, got {came}; ModalityDropoutDataModule makes such batches of "
        "any data set of dict samples, and so does Collate as the `collate_fn` of a DataLoader"
    )


def check_labels(target: Any, expected: str, axes: int, num_classes: int, ignore_index: int | None = None) -> Tensor:
    """Return a target, if it holds the numbers of classes.

    Args:
        target: The target of a batch.
        expected: Its type and shape, for messages.
        axes: Number of its axes.
        num_classes: Labels are 0 to this, exclusive.
        ignore_index: A further label that is allowed.

    Raises:
        LightningMMError: If it is anything else; the message says what to write instead.
    """
    if not isinstance(target, Tensor):
        texts = any(isinstance(leaf, (str, bytes)) for _, leaf in leaves_of(target))
        way = "give the number of each label, class_names.index(label)" if texts else "make it one: torch.as_tensor"
        kind = f"a {type(target).__name__}{' of texts' * texts}"
        raise LightningMMError(f"target: expected a tensor {expected}, got {kind}; {way}")
    if target.dtype != torch.int64 or target.ndim != axes:
        way = "give one class number each"
        if target.ndim == axes:
            way = "write target.long(), or array.astype(np.int64) in the data set"
        elif target.ndim == axes + 1 and num_classes in (target.shape[1], target.shape[-1]) and num_classes > 1:
            way = f"of one-hot labels write target.argmax({1 if target.shape[1] == num_classes else -1})"
        elif target.ndim == axes + 1 and 1 in (target.shape[1], target.shape[-1]):
            way = f"write target.squeeze({1 if target.shape[1] == 1 else -1}).long()"
        raise LightningMMError(f"target: expected {expected}, got {target.dtype} {tuple(target.shape)}; {way}")
    wrong = (target < 0) | (target >= num_classes)
    if ignore_index is not None:
        wrong &= target != ignore_index
    if wrong.any():
        labels = sorted(set(target[wrong].tolist()))
        also = "" if ignore_index is None else f", or {ignore_index} for pixels to ignore"
        names = "num_classes" if ignore_index is None else "num_classes or ignore_index"
        raise LightningMMError(
            f"target holds labels out of range: {labels[:10]}; expected 0 to {num_classes - 1}{also}; set {names}, or "
            "fix the labels"
        )
    return target
