"""Makes batches: stacks samples, with placeholders for what was not observed, pads sequences, draws ``available``.

Shapes: B samples, M modalities, T time steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import Complete, MissingnessPolicy
from lightning_mm.modalities import Modalities
from lightning_mm.tree import Path, map_leaves, map_tensors, rebuild

Batch = dict[str, Any]

NUMBERS = (int, float, np.number, np.bool_)
PIXEL_MASK = "pixel_mask"
"""The entry of a nested input that marks the pixels of an image in its canvas."""


def check_sample(sample: Any, who: str, index: Any) -> None:
    """Raise a LightningMMError unless a sample has inputs and a target, and no mask of its own that hides an input."""
    if not isinstance(sample, Mapping) or "target" not in sample or not isinstance(sample.get("inputs"), Mapping):
        came = sorted(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
        raise LightningMMError(
            f'{who}: expected samples {{"inputs": {{modality: value}}, "target": ...}}, got {came} at {index}'
        )
    for key in ("observed", "available"):
        if key in sample and not np.asarray(sample[key]).all():
            raise LightningMMError(
                f"{who}: sample {index} has {key!r} {np.asarray(sample[key]).tolist()}, which is not read; give None "
                "as the value of each modality that a sample lacks, instead of a placeholder and a mask"
            )


class Collate:
    """Makes ``{"inputs", "available", "observed", "target", "index"}`` out of a list of samples.

    A leaf of an input or target may be a tensor, an array, a number or a string (strings become a list); leaves may be
    nested in dicts, lists and tuples. Leaves of equal shape are stacked. Sequences of different lengths are padded with
    zeros at the end if the sample says how long they are: ``{"values": Tensor[T, ...], "length": T}``; every leaf
    next to ``length`` with T entries is padded, and ``length`` becomes ``Int64[B]``. Images of different sizes are
    padded with zeros at the bottom and on the right if they carry a ``pixel_mask`` of ones: ``{"pixel_values":
    Tensor[C, H, W], "pixel_mask": Tensor[H, W]}``; every leaf next to it of the size H x W is padded. A modality that a
    sample does not have becomes zeros of the right shape with ``observed`` False.

    Inputs of float64, NumPy's default, become float32, which networks compute in; integers stay, as they may be ids of
    words. Integers of a target become int64, as losses take labels.

    Args:
        modalities: Names in the order of the masks' columns.
        policy: What to drop; nothing by default.
        seed: Seed of the policy.
        template: Called with a modality and the first sample of a batch in which no sample has it; returns a value of
            the shape that the modality would have in that sample.

    Shape:
        ``available``, ``observed``: ``Bool[B, M]``; ``index``: ``Int64[B]``, -1 if samples carry none; ``corner``:
        ``Int64[B, dims]``, the first position of a crop in the whole sample, if all samples say it.

    Raises:
        LightningMMError: When called, if shapes or keys differ between samples, a sample has none of the modalities, or
            a modality has no template.

    Example:
        >>> sample = {"inputs": {"a": torch.ones(2), "b": None}, "target": 1}
        >>> collate = Collate(Modalities(["a", "b"]), template=lambda name, sample: torch.ones(3))
        >>> batch = collate([sample, sample])
        >>> batch["observed"].tolist(), batch["inputs"]["b"].shape
        ([[True, False], [True, False]], torch.Size([2, 3]))
    """

    def __init__(
        self,
        modalities: Modalities,
        policy: MissingnessPolicy | None = None,
        seed: int = 0,
        template: Callable[[str, Mapping[str, Any]], Any] | None = None,
    ) -> None:
        self.modalities, self.policy, self.seed, self.template = modalities, policy, seed, template

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        for place, sample in enumerate(samples):
            check_sample(sample, "Collate", sample.get("index", place) if isinstance(sample, Mapping) else place)
        columns = {name: [sample["inputs"].get(name) for sample in samples] for name in self.modalities}
        seen = np.array([[value is not None for value in column] for column in columns.values()]).T
        if not seen.any(1).all():
            place = int(np.argmin(seen.any(1)))
            raise LightningMMError(
                f"sample {samples[place].get('index', f'{place} of a batch')} has none of the modalities "
                f"{list(self.modalities)}; leave such samples out of the data set"
            )
        observed = torch.from_numpy(np.ascontiguousarray(seen))
        batch = {
            "inputs": {name: self._input(name, column, samples[0]) for name, column in columns.items()},
            "available": self._available(samples, observed),
            "observed": observed,
            "target": map_tensors(_stack([as_tensors(s["target"], "target") for s in samples], "target"), _label),
            "index": torch.tensor([sample.get("index", -1) for sample in samples]),
        }
        if all("corner" in sample for sample in samples):
            batch["corner"] = torch.stack([torch.as_tensor(sample["corner"]) for sample in samples])
        return batch

    def _available(
        self, samples: Sequence[Mapping[str, Any]], observed: Bool[Tensor, "batch modality"]
    ) -> Bool[Tensor, "batch modality"]:
        if "column" in samples[0]:  # a row of one modality, which the sampler has drawn
            columns = torch.tensor([sample["column"] for sample in samples])
            return never_empty(observed & F.one_hot(columns, len(self.modalities)).bool(), observed)
        if self.policy is None or isinstance(self.policy, Complete):
            return observed.clone()
        if any("index" not in sample for sample in samples):
            raise LightningMMError(
                f"policy {self.policy!r} draws by the index of a sample, but samples carry none; use "
                'ModalityDropoutDataModule, or give "index" in the samples'
            )
        # A batch is of one epoch: samplers yield batches of one epoch only.
        index, epoch = [sample["index"] for sample in samples], samples[0].get("epoch", 0)
        available = observed & self.policy.draw(self.modalities, index, epoch=epoch, seed=self.seed)
        return never_empty(available, observed)

    def _input(self, name: str, values: list[Any], first: Mapping[str, Any]) -> Any:
        values = [None if value is None else as_tensors(value, f"modality {name!r}") for value in values]
        if any(value is None for value in values):
            seen = [value for value in values if value is not None]
            like = seen[0] if seen else as_tensors(self._template(name, first), f"modality {name!r}")
            blank = map_leaves(like, _blank)
            values = [blank if value is None else value for value in values]
        return map_tensors(_stack(values, f"modality {name!r}"), _single)

    def _template(self, name: str, sample: Mapping[str, Any]) -> Any:
        if self.template is None:
            raise LightningMMError(f"modality {name!r}: absent from the batch, and Collate was given no template")
        return self.template(name, sample)


def never_empty(available: Bool[Tensor, "batch modality"], observed: Bool[Tensor, "batch modality"]) -> Tensor:
    """Return ``available``; a row in which drawn and observed have nothing in common keeps what it has."""
    return torch.where(available.any(1, keepdim=True), available, observed)


def _blank(path: Path, leaf: Any) -> Any:
    """Zeros for one leaf of a placeholder; the length of a sequence stays, so that none is zero steps long."""
    if path and path[-1] == "length":
        return leaf
    if isinstance(leaf, Tensor):
        return torch.zeros_like(leaf)
    return type(leaf)()  # 0, 0.0, False or ""


def as_tensors(nest: Any, where: str) -> Any:
    """Turn the arrays of a nest into tensors.

    Raises:
        LightningMMError: If an array holds no numbers.
    """

    def change(path: Path, leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray):
            return leaf
        if leaf.dtype.kind not in "biufc":
            raise LightningMMError(
                f"{where}: cannot batch an array of {leaf.dtype}; expected numbers, or texts as a plain string"
            )
        if not leaf.dtype.isnative:  # files of other machines
            leaf = leaf.astype(leaf.dtype.newbyteorder("="))
        return torch.as_tensor(leaf.copy() if any(stride < 0 for stride in leaf.strides) else leaf)

    return map_leaves(nest, change)


def _stack(values: list[Any], where: str) -> Any:
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        kinds = sorted({type(value).__name__ for value in values})
        if not all(isinstance(value, NUMBERS) for value in values):
            raise LightningMMError(f"{where}: samples have different types {kinds}; expected one type in all samples")
    if isinstance(first, Mapping):
        keys = [sorted(map(str, value)) for value in values]
        if any(other != keys[0] for other in keys):
            raise LightningMMError(f"{where}: samples have different keys, {keys[0]} and others; expected the same")
        if "length" in first:
            values = _pad(values, where)
        if PIXEL_MASK in first:
            values = _pad_images(values)
        return rebuild(first, {key: _stack([value[key] for value in values], f"{where}, {key!r}") for key in first})
    if isinstance(first, str):
        return values
    if isinstance(first, (list, tuple)):
        if any(len(value) != len(first) for value in values):
            raise LightningMMError(f"{where}: lists of different lengths; give tensors and a 'length' instead")
        return rebuild(first, [_stack(list(leaves), f"{where}[{i}]") for i, leaves in enumerate(zip(*values))])
    if isinstance(first, Tensor):
        for value in values:
            if value.layout is not torch.strided:
                raise LightningMMError(f"{where}: cannot batch a {value.layout} tensor; write tensor.to_dense()")
            if value.shape != first.shape:
                raise LightningMMError(
                    f"{where}: samples have different shapes, {tuple(first.shape)} and {tuple(value.shape)}; "
                    'bring them to one size, or give sequences as {"values": Tensor[T, ...], "length": T} or images '
                    'as {"pixel_values": Tensor[C, H, W], "pixel_mask": Tensor[H, W]} to have them padded'
                )
        return torch.stack(values)
    if isinstance(first, NUMBERS):
        return torch.tensor(values)
    raise LightningMMError(
        f"{where}: cannot batch {type(first).__name__}; expected tensors, arrays, numbers or strings, or dicts, lists, "
        "tuples or named tuples of these"
    )


def _label(tensor: Tensor) -> Tensor:
    """Int64 for other integers; bool and floats stay."""
    return tensor if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool else tensor.long()


def _single(tensor: Tensor) -> Tensor:
    """Float32 for float64; other dtypes stay."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _pad(values: list[Any], where: str) -> list[dict[str, Any]]:
    """Bring every leaf that is as long as its sample's ``length``, in all samples, to the longest length."""
    lengths = [int(value["length"]) for value in values]
    sequences = [
        key
        for key, leaf in values[0].items()
        if isinstance(leaf, (Tensor, np.ndarray))
        and leaf.ndim > 0
        and all(len(value[key]) == length for value, length in zip(values, lengths))
    ]
    if not sequences:
        raise LightningMMError(f"{where}: 'length' is {lengths[0]}, but no tensor next to it has as many entries")
    padded = []
    for value, length in zip(values, lengths):
        out = {**value, "length": length}
        for key in sequences:
            tensor = torch.as_tensor(value[key])
            out[key] = torch.cat([tensor, tensor.new_zeros(max(lengths) - length, *tensor.shape[1:])])
        padded.append(out)
    return padded


def _pad_images(values: list[Any]) -> list[dict[str, Any]]:
    """Bring every leaf of the size of its sample's ``pixel_mask`` to the greatest height and the greatest width."""
    sizes = [tuple(value[PIXEL_MASK].shape) for value in values]
    height, width = (max(sides) for sides in zip(*sizes))

    def padded(leaf: Any, size: tuple[int, ...]) -> Any:
        if not isinstance(leaf, (Tensor, np.ndarray)) or tuple(leaf.shape[-2:]) != size:
            return leaf
        return F.pad(torch.as_tensor(leaf), (0, width - size[1], 0, height - size[0]))

    return [{key: padded(leaf, size) for key, leaf in value.items()} for value, size in zip(values, sizes)]
