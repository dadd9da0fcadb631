"""The verb ``mean_input``."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.files import check_folder
from lightning_mm.missing import mean_inputs, save_mean_inputs


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
    dataset = datamodule.dataset("train")  # type: ignore[attr-defined]
    samples = (dataset[index] for index in range(len(dataset)))
    save_mean_inputs(mean_inputs(samples, datamodule.modalities, limit), out)  # type: ignore[attr-defined]
    print(f"written: {out}")
