"""Draw one sample of each data set for its page: docs/pictures/NAME.png.

    python docs/tools/make_pictures.py

Data sets whose licence lets a sample be passed on are drawn from LIGHTNING_MM_DATA; all others from generated files in
their layout, so that shapes and ranges are right and contents are not. Run from the repository, with the extra `test`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from lightning_mm import data  # noqa: E402
from lightning_mm.data.pages import PAGES  # noqa: E402
from tests.support.fake_data import FOLDERS, SMALL, write_data  # noqa: E402

PICTURES = REPOSITORY / "docs" / "pictures"
REAL = {"ms_lesions": 40, "fsdd_mnist": 7}
"""Data sets whose licence (CC BY, CC BY-SA) allows a picture of a sample, and the number of the sample."""
FAMILIES = {"ravdess_features": "ravdess", **{folder: family for family, folder in FOLDERS.items()}}


def main() -> None:
    matplotlib.use("Agg")
    for page in PAGES:
        real = page.name in REAL and "LIGHTNING_MM_DATA" in os.environ
        family = FAMILIES.get(page.name, page.name)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(os.environ["LIGHTNING_MM_DATA"], page.name) if real else write_data(family, Path(folder))
            dataset = getattr(data, page.data_set)("train", root=str(root), **({} if real else SMALL.get(family, {})))
            draw(dataset[REAL[page.name] if real else 0], PICTURES / f"{page.name}.png")
    draw(data.Scenes("test", size=64)[3], PICTURES / "scenes.png")


def draw(sample: dict[str, Any], path: Path) -> None:
    """One panel for each modality, and one for a target that is an image."""
    panels = dict(sample["inputs"])
    if np.ndim(sample["target"]) == 2:
        panels["target"] = sample["target"]
    elif np.ndim(sample["target"]) == 3:
        panels["target"] = np.asarray(sample["target"])[..., np.shape(sample["target"])[-1] // 2]
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 3.0), squeeze=False)
    for axis, (name, value) in zip(axes[0], panels.items()):
        axis.set_title(name, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        panel(axis, value, is_target=name == "target")
    path.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=72)
    plt.close(figure)


def panel(axis: Axes, value: Any, is_target: bool) -> None:
    """An image, a sequence, a vector or a text."""
    if isinstance(value, dict):
        value = next(part for part in value.values() if np.ndim(part) > 0)
    values = np.asarray(value)
    if values.ndim == 0:
        axis.text(0.5, 0.5, str(value), ha="center", va="center", wrap=True)
        return
    if values.ndim == 4 and values.shape[0] == 1:  # a volume: its middle slice
        values = values[..., values.shape[-1] // 2]
    while values.ndim > 3 or (values.ndim == 3 and values.shape[0] not in (1, 2, 3)):
        values = values[:, 0] if values.ndim == 4 and values.shape[0] in (1, 2, 3) else values[0]
    words = "x".join(map(str, np.shape(value)))
    if is_target or values.ndim == 3:
        image = values if values.ndim == 2 else values[[0, 0, 0] if len(values) < 3 else [0, 1, 2]].transpose(1, 2, 0)
        if not is_target:
            low, high = np.percentile(image, [1, 99])
            image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        axis.imshow(image, cmap="tab10" if is_target else None, interpolation="nearest")
    elif values.ndim == 2 and min(values.shape) > 12:
        axis.imshow(values, aspect="auto", cmap="magma")
    elif values.ndim == 2:
        axis.plot(values if values.shape[0] > values.shape[1] else values.T, linewidth=0.8)
    else:
        axis.bar(range(len(values)), values)
    axis.set_xlabel(words, fontsize=8)


if __name__ == "__main__":
    main()
