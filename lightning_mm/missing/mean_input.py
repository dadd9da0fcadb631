"""The mean training sample as a placeholder for an absent modality.

Shapes: B samples, T steps, C channels. Keys are ``"<modality>"`` for plain tensors and ``"<modality>/<path>"`` for
leaves of nested inputs, e.g. ``"audio/values"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.missing.fills import LENGTH, Fill
from lightning_mm.tree import dotted, leaves_of, rows_of

_FORMAT = "lightning_mm mean inputs 1"


class MeanInput(Fill):
    """The mean training sample (mean image, mean spectrogram) of each modality, from a file.

    :func:`save_mean_inputs` writes the file from the result of :func:`mean_inputs`. Sequences of different lengths are
    filled with the mean of each channel at every step, integers with zeros.

    Args:
        path: The file; loading a checkpoint of a run with this fill needs it too.

    Raises:
        DataNotFoundError: If the file does not exist.
        LightningMMError: If the file is damaged or of another kind; when called, if it has no mean of a modality, or
            one that does not have the shape of the batch.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        means = _read(Path(path))
        self._buffer_of = {key: f"mean_{number}" for number, key in enumerate(means)}  # keys may hold dots
        for key, mean in means.items():
            # not in the state_dict, which does not depend on the fill of a task
            self.register_buffer(self._buffer_of[key], mean, persistent=False)

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        key = _key(name, path)
        if not leaf.is_floating_point():
            return leaf.new_zeros(())
        if key not in self._buffer_of:
            raise LightningMMError(
                f"fill MeanInput: {self.path} holds no mean of {key!r}, only of {list(self._buffer_of)}; "
                "compute it with mean_inputs on the training data with this modality"
            )
        mean: Tensor = getattr(self, self._buffer_of[key])
        shape = tuple(leaf.shape[1:])
        per_channel = mean.ndim < len(shape) and mean.ndim <= 1 and mean.shape == shape[len(shape) - mean.ndim :]
        if tuple(mean.shape) != shape and not per_channel:
            raise LightningMMError(
                f"fill MeanInput of {key!r}: the mean sample has shape {tuple(mean.shape)}, samples of this batch "
                f"{shape}; compute the means on data of this size with mean_inputs"
            )
        return mean.unsqueeze(0)


def mean_inputs(
    samples: Iterable[Mapping[str, Any]] | Dataset[Any], modalities: Sequence[str], limit: int | None = None
) -> dict[str, Tensor]:
    """Compute the mean of each modality over training samples, in one pass and in float64.

    Args:
        samples: A data set, or its samples: ``{"inputs": {modality: value or None}}``; samples that lack a modality do
            not count for it.
        modalities: The modalities.
        limit: Maximum number of samples; default: all.

    Returns:
        Key to the elementwise mean sample; if samples have different numbers of steps or a ``length``, to the mean of
        each channel (last axis) over all steps. Integers (``length``, token ids) are left out.

    Raises:
        LightningMMError: If a modality is missing in all samples, holds no floating-point numbers, or has samples
            without a common mean (different structures or channels, NaN).

    Example:
        >>> samples = [{"inputs": {"rgb": torch.zeros(2)}}, {"inputs": {"rgb": torch.ones(2)}}]
        >>> mean_inputs(samples, ["rgb"])
        {'rgb': tensor([0.5000, 0.5000])}
    """
    sums: dict[str, _Sum] = {}
    seen = dict.fromkeys(modalities, 0)
    for sample in islice(_each(samples), limit):
        for name in modalities:
            value = sample["inputs"].get(name)
            if value is None:
                continue
            seen[name] += 1
            for key, leaf, steps in _leaves(value, name):
                sums.setdefault(key, _Sum(key, leaf)).add(leaf, steps)
    for name in modalities:
        found = [key for key in sums if key == name or key.startswith(f"{name}/")]
        if not seen[name]:
            raise LightningMMError(f"mean_inputs: modality {name!r} is in none of the samples; leave it out")
        if not found:
            raise LightningMMError(
                f"mean_inputs: modality {name!r} holds no floating-point numbers, and integers (token ids, labels) "
                "have no mean; leave it out of `modalities`, and fill it with Tokens or Zeros"
            )
        short = [key for key in found if sums[key].count != seen[name]]
        if short:
            raise LightningMMError(f"mean_inputs: {short[0]!r} is in some samples of {name!r} and not in others")
    return {key: total.mean() for key, total in sums.items()}


def save_mean_inputs(means: Mapping[str, Tensor], path: str | Path) -> None:
    """Write means for :class:`MeanInput` to a file, such as ``means.safetensors``.

    Raises:
        LightningMMError: If there is a folder at ``path``, or a file where a folder is needed.
    """
    plain = {key: mean.detach().to("cpu", torch.float32).contiguous() for key, mean in means.items()}
    write_atomically(path, save(plain, metadata={"format": _FORMAT}))


class _Sum:
    """Sums of one leaf over samples: elementwise as long as all have one shape, and per channel."""

    def __init__(self, key: str, first: Tensor) -> None:
        self.key, self.count, self.sequences, self.steps = key, 0, 0, 0
        self.shape = tuple(first.shape)
        self.whole: Tensor | None = torch.zeros(self.shape, dtype=torch.float64)
        self.channels = torch.zeros(self.shape[-1:] if first.ndim > 1 else (), dtype=torch.float64)

    def add(self, leaf: Tensor, steps: int | None) -> None:
        """Add a leaf; of a sequence, only the first ``steps`` entries are valid."""
        shape = tuple(leaf.shape)
        if len(shape) != len(self.shape) or shape[1:] != self.shape[1:]:
            raise LightningMMError(
                f"mean_inputs: samples of {self.key!r} have shapes {self.shape} and {shape}; they may differ in their "
                "first axis (steps) only; bring them to one size"
            )
        leaf = leaf.to("cpu", torch.float64)
        valid = leaf[:steps] if steps is not None else leaf
        if not valid.isfinite().all():
            raise LightningMMError(f"mean_inputs: a sample of {self.key!r} holds NaN or infinity; fix the data")
        self.whole = self.whole + leaf if self.whole is not None and shape == self.shape else None
        rows = valid.reshape(-1, *self.channels.shape)
        self.channels = self.channels + rows.sum(0)
        self.count, self.sequences = self.count + 1, self.sequences + (steps is not None)
        self.steps += len(rows)

    def mean(self) -> Tensor:
        if self.whole is not None and self.sequences < self.count:
            return (self.whole / self.count).float()
        return (self.channels / max(self.steps, 1)).float()


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor, int | None]]:
    """Iterate over the floating-point leaves of a sample: key, values, and the number of valid steps of a sequence."""
    found = leaves_of(value)
    lengths = {path[:-1]: int(leaf) for path, leaf in found if path and path[-1] == LENGTH}
    exact = {path[:-1] for path, leaf in found if rows_of(leaf) == lengths.get(path[:-1], -1)}
    for path, leaf in found:
        if not isinstance(leaf, (Tensor, np.ndarray, float, np.floating)):
            continue
        tensor, rows, length = torch.as_tensor(leaf), rows_of(leaf), lengths.get(path[:-1])
        if length is not None and (rows is None or (rows != length if path[:-1] in exact else rows <= length)):
            length = None  # not a sequence; sequences longer than their length are padded
        if tensor.is_floating_point():
            yield _key(name, dotted(path)), tensor, length


def _each(samples: Any) -> Iterator[Mapping[str, Any]]:
    """Iterate over samples; a map-style data set does not have to end with an IndexError."""
    if not hasattr(samples, "__iter__") and hasattr(samples, "__len__"):
        return (samples[position] for position in range(len(samples)))
    return iter(samples)


def _key(name: str, path: str) -> str:
    return f"{name}/{path}" if path else name


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataNotFoundError(
            f"no mean inputs at {path}; write them with lightning_mm.missing.save_mean_inputs(mean_inputs(...), path)"
        )
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("format")
        means = load_file(path)
    except Exception as error:  # safetensors reports damage in many ways, depending on where it begins
        raise LightningMMError(
            f"the mean inputs in {path} are damaged or in another format ({error}); write them again with "
            "save_mean_inputs"
        ) from error
    if found != _FORMAT:
        raise LightningMMError(f"{path} holds no mean inputs (format {found!r}); write it with save_mean_inputs")
    odd = [key for key, mean in means.items() if mean.dtype != torch.float32 or not mean.isfinite().all()]
    if odd:
        raise LightningMMError(
            f"the mean inputs in {path} are damaged ({odd[0]!r}: expected finite float32, got {means[odd[0]].dtype}); "
            "write them again with save_mean_inputs"
        )
    return means
