"""What ``lightning-mm export`` does once task and data are made."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.adapters import Adapter
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.callbacks.capture import capture_call
from lightning_mm.errors import LightningMMError
from lightning_mm.export import write_export
from lightning_mm.tasks.checkpoints import load_weights


def export_task(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    batch: Any,
    out: str,
    ckpt_path: str | None,
    **options: Any,
) -> None:
    """Export the network of a task with its adapter, or without one if no callback has one.

    Args:
        trainer: Its callbacks say whether there is an adapter.
        model: The task; ``model.model`` is its network.
        datamodule: The data.
        batch: One batch; it shows how the network is called.
        out: The folder.
        ckpt_path: The weights.
        **options: See :func:`~lightning_mm.export.write_export`.

    Raises:
        LightningMMError: If there are no weights to export, or the network cannot be exported.
    """
    adapters = [one for one in trainer.callbacks if isinstance(one, FrozenBackboneAdapter)]  # type: ignore[attr-defined]
    if ckpt_path is None and (adapters or getattr(model, "base_ckpt", None) is None):
        whose = "the adapter" if adapters else "the network"
        raise LightningMMError(
            f"export needs the weights of {whose}, or it would write those of the start: give --ckpt_path, the "
            "checkpoint of an earlier fit"
        )
    network: Any = model.model
    call = capture_call(model, network, batch, "test")
    for callback in adapters:
        callback.attach(model, batch, "test", datamodule)
    if ckpt_path is not None:
        load_weights(model, ckpt_path)
    adapter: Any = getattr(model, "adapter", None)
    if isinstance(adapter, Adapter):
        index = write_export(network, adapter, call, out, **options)
    else:
        settings: dict[str, Any] = {"modalities": model.modalities, "fill": model.fill}
        index = write_export(network, None, call, out, **settings, **options)
    if index.not_folded is not None:
        print(f"no programs of single combinations: {index.not_folded}")
    print(f"written: {out}/export.json; programs: {', '.join(index.programs)}")
    print(f"largest difference from the network: {index.largest_difference():.2g} (tolerance {index.tolerance:g})")
