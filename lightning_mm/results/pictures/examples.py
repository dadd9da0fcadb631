"""A few samples of a sweep with their inputs, truth and predictions as small arrays, in ``sweep_examples.npz``.

Shapes: K samples, H x W pixels.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically

NAME = "sweep_examples.npz"
IGNORED = -1
"""Label of pixels that do not count."""


@dataclass(frozen=True)
class Examples:
    """What pictures of predictions are drawn from.

    Args:
        class_names: Names of the classes, by label; empty if the task has none.
        index: ``Int[K]``, positions of the samples in the split; empty without pictures of samples.
        inputs: Modality to ``UInt8[K, H, W, 3]``; modalities that are no images are left out.
        truth: ``Int16[K, H, W]`` with labels from 0, and ``IGNORED``.
        predictions: Method and combination to ``Int16[K, H, W]``.
    """

    class_names: Sequence[str] = ()
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    inputs: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    truth: NDArray[np.int16] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int16))
    predictions: Mapping[tuple[str, str], NDArray[np.int16]] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Methods with predictions."""
        return list(dict.fromkeys(method for method, _ in self.predictions))


def write_examples(examples: Examples, folder: str | Path) -> Path:
    """Write ``sweep_examples.npz`` into the folder of a sweep."""
    arrays: dict[str, Any] = {"class_names": np.array(list(examples.class_names), dtype=str), "index": examples.index}
    arrays["truth"] = examples.truth
    arrays |= {f"inputs/{name}": values for name, values in examples.inputs.items()}
    arrays |= {f"predictions/{m}/{combination}": values for (m, combination), values in examples.predictions.items()}
    return write_atomically(Path(folder) / NAME, lambda file: np.savez_compressed(file, **arrays))


def read_examples(folder: str | Path) -> Examples | None:
    """Read the examples of a sweep; ``None`` without the file.

    Raises:
        LightningMMError: If it is damaged.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        return _parse(path)
    except Exception as error:  # any byte may be wrong: the archive, the arrays in it, or their names
        raise LightningMMError(
            f"{path} cannot be read ({type(error).__name__}: {error}); remove it to go without pictures of samples"
        ) from error


def _parse(path: Path) -> Examples:
    with zipfile.ZipFile(path) as archive:  # np.load would take another kind of file for a pickle
        archive.infolist()
    with np.load(path) as arrays:
        index, truth = arrays["index"].astype(np.int64), arrays["truth"].astype(np.int16)
        inputs, predictions = {}, {}
        for name in arrays.files:
            first, _, rest = name.partition("/")
            if first == "inputs":
                inputs[rest] = arrays[name].astype(np.uint8)
            elif first == "predictions":
                method, combination = rest.split("/")
                predictions[method, combination] = arrays[name].astype(np.int16)
        names = [str(name) for name in arrays["class_names"]]
    shapes = {
        len(index),
        len(truth),
        *(len(one) for one in inputs.values()),
        *(len(one) for one in predictions.values()),
    }
    right = all(one.ndim == 4 and one.shape[-1] == 3 for one in inputs.values())
    right = right and all(one.ndim == 3 for one in (truth, *predictions.values()))
    if len(shapes) > 1 or not right:
        raise ValueError(f"expected arrays of {len(index)} pictures each")
    return Examples(names, index, inputs, truth, predictions)


def merge_examples(parts: Sequence[Examples]) -> Examples:
    """Join the examples of several sweeps of the same samples; those of other samples than the first are left out."""
    if not parts:
        return Examples()
    first = next((part for part in parts if len(part.index)), parts[0])
    same = [part for part in parts if np.array_equal(part.index, first.index)]
    return Examples(
        next((part.class_names for part in parts if part.class_names), ()),
        first.index,
        {name: values for part in reversed(same) for name, values in part.inputs.items()},
        first.truth,
        {key: values for part in same for key, values in part.predictions.items()},
    )
