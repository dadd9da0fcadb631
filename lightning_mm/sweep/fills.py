"""Rows of a sweep that cost one name: the same trained network with another placeholder for absent modalities.

Nothing is trained and no labels are read; what a row needs from training data is computed here and kept in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from lightning_mm.adapters import encoder_features
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.callbacks.capture import capture_call
from lightning_mm.errors import check_choice
from lightning_mm.missing import (
    FeatureMean,
    FeatureRegression,
    FeatureRetrieval,
    Fill,
    MeanInput,
    Noise,
    mean_inputs,
    save_features,
    save_mean_inputs,
)
from lightning_mm.tasks import BaseTask

Row = Literal["mean_fill", "noise_fill", "feature_mean", "retrieval_fill", "regression_fill", "late_drop"]
"""What :func:`rows_of` makes; the names are those of methods of a study."""
MEANS, FEATURES = "mean_input.safetensors", "features.safetensors"
FROM_FEATURES: dict[str, type[Fill]] = {
    "feature_mean": FeatureMean,
    "retrieval_fill": FeatureRetrieval,
    "regression_fill": FeatureRegression,
}
LIMIT = 5000
"""Training samples that are used at most."""


def rows_of(
    task: BaseTask, rows: Sequence[Row], datamodule: LightningDataModule, folder: str | Path, limit: int = LIMIT
) -> dict[str, BaseTask]:
    """Make copies of a trained task with other placeholders for absent modalities.

    Args:
        task: With its weights, and without an adapter.
        rows: Names of the rows.
        datamodule: Its training split is read if a row needs it, in order and without augmentation.
        folder: Where the files of fills are written.
        limit: Training samples that are used at most.

    Returns:
        Name to task, in the order of ``rows``.

    Raises:
        NotApplicableError: If a row needs encoders, or vectors from them, that the network does not have.
        LightningMMError: If there is no row of this name, or ``late_drop`` finds no auxiliary heads.
    """
    for row in rows:
        check_choice("rows", row, get_args(Row))
    folder = Path(folder)
    made: dict[str, BaseTask] = {row: deepcopy(task) for row in rows}
    for one in made.values():
        one.late_share = 0.0  # the rows are those of the network alone
    if "mean_fill" in made:
        write_means(datamodule, folder / MEANS, limit)
    if FROM_FEATURES.keys() & made:
        write_features(task, datamodule, folder / FEATURES, limit)
    for name, one in made.items():
        if name == "late_drop":
            one.drop_late()
        elif name in FROM_FEATURES:
            one.fill_by(FROM_FEATURES[name](str(folder / FEATURES)))
        else:
            one.fill_by(MeanInput(str(folder / MEANS)) if name == "mean_fill" else Noise())
    return made


def write_means(datamodule: LightningDataModule, path: str | Path, limit: int = LIMIT) -> None:
    """Write the mean training sample of every modality, for the fill MeanInput."""
    data: Any = datamodule
    dataset = data.dataset("train")
    samples = (dataset[index] for index in range(len(dataset)))
    save_mean_inputs(mean_inputs(samples, data.modalities, limit), path)


def write_features(
    task: LightningModule, datamodule: LightningDataModule, path: str | Path, limit: int = LIMIT
) -> None:
    """Write what the encoders of a task's trained network return on training data, for the fills of features.

    Raises:
        NoEncodersError: If the network has no encoder for a modality.
    """
    network: Any = task.model
    seen: list[Tensor] = []

    def calls() -> Iterator[Call]:
        data: Any = datamodule
        for batch in data.plain_dataloader("train"):
            moved = task._apply_batch_transfer_handler(batch, device=task.device, dataloader_idx=0)
            seen.append(moved["observed"])
            yield capture_call(task, network, moved, "test")

    modalities: Any = task.modalities
    with torch.random.fork_rng():
        features = encoder_features(network, modalities, calls(), _each(seen), limit=limit)
    save_features(features, path)


def _each(seen: list[Tensor]) -> Iterator[Tensor]:
    """Iterate over the masks of batches, each after its call."""
    while True:
        yield seen.pop(0)
