"""The verbs ``mean_input`` and ``features``, which write the files of fills."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.cli.lightning.weights import check_weights
from lightning_mm.files import check_folder
from lightning_mm.sweep.fills import write_features, write_means
from lightning_mm.tasks.checkpoints import load_weights


def write_mean_input(
    trainer: Trainer, model: LightningModule, datamodule: LightningDataModule, out: str, limit: int = 5000
) -> None:
    """Write the mean training sample of every modality, for the fill MeanInput.

    Args:
        trainer: Not used.
        model: Not used.
        datamodule: The data; augmentation and policies play no role.
        out: The file, .safetensors.
        limit: Samples that are averaged at most.
    """
    check_folder(Path(out).parent)
    write_means(datamodule, out, limit)
    print(f"written: {out}")


def write_feature_file(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    out: str,
    ckpt_path: str | None = None,
    limit: int = 5000,
) -> None:
    """Write what the encoders of a trained network return on training data, for FeatureMean and the like.

    Args:
        trainer: Not used.
        model: The task; model.model has one encoder per modality in model.model.encoders.
        datamodule: The data; augmentation and policies play no role, and labels are not read.
        out: The file, .safetensors.
        ckpt_path: The weights of the network.
        limit: Samples that are used at most.

    Raises:
        LightningMMError: If there are no weights, or the network has no encoder for a modality.
    """
    check_folder(Path(out).parent)
    check_weights(trainer, model, ckpt_path, "features", "use")
    if ckpt_path is not None:
        load_weights(model, ckpt_path)
    write_features(model, datamodule, out, limit)
    print(f"written: {out}")
