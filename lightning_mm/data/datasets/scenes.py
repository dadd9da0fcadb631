"""Procedurally generated scenes seen by three sensors, with a class label for every pixel.

Nothing is stored and nothing is downloaded: sample ``index`` of a split is a pure function of ``(seed, split, index)``.

Shapes: H = W = ``size``.
"""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_mm.data.datasets.base.splits import SPLITS, check_index
from lightning_mm.errors import LightningMMError, check_choice, check_fraction, check_whole
from lightning_mm.missing import IndependentMissing
from lightning_mm.modalities import Modalities

Array = NDArray[Any]

CLASS_NAMES = ("ground", "person", "sign", "rock", "vent", "puddle")
SHAPES = ("disk", "ellipse", "box", "triangle")

# One row per class: red, green, blue (reflectance), height above ground, temperature above ambient. Classes with equal
# entries in a modality cannot be told apart by it; shapes and sizes are drawn alike for all classes and give no hint.
_SIGNATURES = np.array(
    [
        [0.45, 0.50, 0.40, 0.0, 0.0],  # ground
        [0.70, 0.34, 0.28, 1.0, 1.4],  # person: colour of sign, height of rock, warmth of vent
        [0.70, 0.34, 0.28, 2.0, 0.7],  # sign
        [0.24, 0.25, 0.30, 1.0, 0.0],  # rock: temperature of ground
        [0.24, 0.25, 0.30, -1.0, 1.4],  # vent: a hot opening in the ground
        [0.30, 0.48, 0.68, 0.0, -0.8],  # puddle: as flat as the ground
    ],
    dtype=np.float32,
)
# How far objects of one class differ from each other, in the units of the table above.
_SPREAD = np.array([0.05, 0.05, 0.05, 0.12, 0.12], dtype=np.float32)


class Scenes(Dataset[dict[str, Any]]):
    """Objects of five classes on a ground plane, seen by a colour camera, a depth sensor and a thermal camera.

    Which classes share their appearance in a modality, so that it cannot tell them apart; every pair of modalities can:

    ========  ==================================  ==============================
    modality  cannot tell apart                   tells apart
    ========  ==================================  ==============================
    rgb       person / sign, rock / vent          ground, puddle, the two pairs
    depth     ground / puddle, person / rock      sign, vent, the two pairs
    thermal   ground / rock, person / vent        sign, puddle, the two pairs
    ========  ==================================  ==============================

    Nuisances: colour has an illumination gradient, a colour cast and texture; depth a tilted ground plane and an
    unknown offset; temperature an unknown ambient value, a drift over the image and a blurred lens; all have pixel
    noise. Inputs are scaled to roughly zero mean and unit standard deviation, so that zeros are the mean input.

    Args:
        split: ``train``, ``val`` or ``test``; splits share no scene.
        size: Height and width in pixels, at least 16.
        train_length: Scenes in the train split.
        val_length: Scenes in the validation split.
        test_length: Scenes in the test split.
        noise: Scale of the pixel noise; 0 switches it off.
        seed: Another seed gives other scenes.
        p_missing: Probability of each sensor to have failed in a scene, below 1; its input is then None, as in a data
            set that lacks files. At least one has worked. The scenes are the same whatever the probability.

    Shape:
        A sample is ``{"inputs": {"rgb": Float[3, H, W], "depth": Float[1, H, W], "thermal": Float[1, H, W]},
        "target": Int64[H, W]}``; the target holds positions in ``CLASS_NAMES``.

    Raises:
        LightningMMError: If an argument is out of its range.

    Example:
        >>> sample = Scenes("train", size=32)[0]
        >>> sample["inputs"]["rgb"].shape, sample["target"].shape
        (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    class_names = CLASS_NAMES
    channels: ClassVar[dict[str, int]] = {"rgb": 3, "depth": 1, "thermal": 1}

    def __init__(
        self,
        split: str,
        size: int = 64,
        train_length: int = 512,
        val_length: int = 64,
        test_length: int = 128,
        noise: float = 1.0,
        seed: int = 0,
        p_missing: float = 0.0,
    ) -> None:
        check_choice("Scenes: split", split, SPLITS)
        check_whole("Scenes: size", size, 16)
        lengths = {"train": train_length, "val": val_length, "test": test_length}
        for name, length in lengths.items():
            check_whole(f"Scenes: {name}_length", length, 0)
        check_whole("Scenes: seed", seed, 0)
        if noise < 0:
            raise LightningMMError(f"Scenes: noise must be 0 or more, got {noise}")
        check_fraction("Scenes: p_missing", p_missing, below_one=True)
        self.split, self.size, self.noise, self.seed, self.p_missing = split, size, noise, seed, p_missing
        self.length = lengths[split]
        # a separate key, so that the modalities that a run drops do not follow the sensors
        key = zlib.crc32(f"scenes/{seed}/{split}".encode())
        worked = IndependentMissing(p_missing).draw(Modalities(self.channels), range(self.length), epoch=0, seed=key)
        self._worked = worked.numpy()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("Scenes", index, self.length, self.split)
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        instance, classes = _layout(rng, self.size)
        appearance = _SIGNATURES[classes] + _SPREAD * rng.standard_normal((len(classes), 5), dtype=np.float32)
        image = np.ascontiguousarray(appearance[instance].transpose(2, 0, 1))  # [5, H, W]
        image = _sense(rng, image, self.noise)
        readings = {"rgb": image[:3], "depth": image[3:4], "thermal": image[4:5]}
        return {
            "inputs": {
                name: torch.from_numpy(reading.copy()) if worked else None
                for (name, reading), worked in zip(readings.items(), self._worked[index])
            },
            "target": torch.from_numpy(classes[instance]),
        }


def _layout(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """Place objects one over the other: object at every pixel ``[H, W]`` (0: ground), class of each object."""
    count = int(rng.integers(6, 11))
    classes = np.concatenate([[0], rng.integers(1, len(CLASS_NAMES), count)]).astype(np.int64)
    shapes = rng.integers(0, len(SHAPES), count)
    centre = rng.uniform(0.04, 0.96, (2, count, 1, 1))
    radius = rng.uniform(0.09, 0.2, (count, 1, 1))
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = (grid[None, None, :] - centre[0]) / radius, (grid[None, :, None] - centre[1]) / radius
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    instance = np.zeros((size, size), dtype=np.int64)
    for position in range(count):
        instance[_inside(SHAPES[shapes[position]], u[position], v[position])] = position + 1
    return instance, classes


def _inside(shape: str, u: Array, v: Array) -> Array:
    """Which pixels a shape of about unit radius covers, in its own coordinates."""
    if shape == "disk":
        inside = u * u + v * v < 1
    elif shape == "ellipse":
        inside = u * u / 1.7 + v * v * 1.7 < 1
    elif shape == "box":
        inside = np.maximum(np.abs(u), np.abs(v)) < 0.85
    else:  # triangle
        inside = (v > -0.7) & (np.abs(u) * 1.5 + v < 1.2)
    return np.asarray(inside)


def _sense(rng: np.random.Generator, image: Array, noise: float) -> Array:
    """Turn ``[5, H, W]`` of signatures into normalised, disturbed readings of the sensors."""
    size = image.shape[-1]
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    slopes = rng.standard_normal((3, 2), dtype=np.float32)
    light, tilt, drift = (slope[0] * ramp[None, :] + slope[1] * ramp[:, None] for slope in slopes)
    offset = rng.standard_normal(5, dtype=np.float32)
    pixel = noise * rng.standard_normal(image.shape, dtype=np.float32)
    colour = image[:3] * (1 + 0.12 * light) * (1 + 0.06 * offset[:3, None, None])
    colour += 0.03 * noise * _blur(rng.standard_normal((1, size, size), dtype=np.float32)) * 2  # texture of surfaces
    depth = _blur(image[3:4]) + 0.3 * tilt + 0.4 * offset[3]
    heat = _blur(_blur(image[4:5])) + 0.12 * drift + 0.2 * offset[4]
    readings = np.concatenate(
        [
            (colour + 0.09 * pixel[:3] - 0.42) / 0.17,
            (depth + 0.35 * pixel[3:4] - 0.25) / 0.9,
            (heat + 0.3 * pixel[4:5] - 0.25) / 0.65,
        ]
    )
    return readings.astype(np.float32, copy=False)


def _blur(image: Array) -> Array:
    """Binomial blur over 3 x 3 pixels of ``[C, H, W]``, edges repeated."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return np.asarray((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4)
