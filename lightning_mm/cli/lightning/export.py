"""The verb ``export``."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.adapters import Adapter
from lightning_mm.callbacks.capture import capture_call
from lightning_mm.cli.lightning.preflight import first_batch
from lightning_mm.cli.lightning.weights import attach_and_load, check_weights
from lightning_mm.errors import LightningMMError
from lightning_mm.export import write_export
from lightning_mm.files import check_folder


def export_task(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    out: str,
    ckpt_path: str | None = None,
    combinations: list[str] | None = None,
    formats: list[Literal["torch", "onnx"]] | None = None,
    mixed: bool = True,
    dynamic: dict[str, dict[int, str]] | None = None,
    tolerance: float = 1e-4,
    split: Literal["test", "val"] = "test",
) -> None:
    """Write the network of every combination, its adapter folded in, as torch.export and ONNX programs.

    Args:
        trainer: Its callbacks say whether there is an adapter.
        model: The task; ``model.model`` is its network.
        datamodule: The data; one batch of it shows the shapes.
        out: The folder, which lightning_mm.export.Runtime reads.
        ckpt_path: The weights; those of an adapter if the config has a FrozenBackboneAdapter.
        combinations: Which combinations, e.g. [rgb, rgb+depth]; all by default.
        formats: [torch], [onnx] or both, the default.
        mixed: Whether there is a program for all combinations too, any, which takes available.
        dynamic: Further axes, besides the batch's, that may change in size, e.g. {text.values: {1: steps}}.
        tolerance: How far a program may be from the network, on outputs of magnitude one or less.
        split: The split that the batch is of.

    Raises:
        LightningMMError: If there are no weights to export, or the network cannot be exported.
    """
    late = [name for name in ("late_drop", "late_share") if getattr(model, name, False)]
    if late:
        raise LightningMMError(
            f"{late[0]}: the auxiliary heads are a part of the task and not of the network, so they are not exported; "
            f"leave {late[0]} out"
        )
    check_folder(out)
    batch = first_batch(datamodule, split)
    check_weights(trainer, model, ckpt_path, "export", "write")
    network: Any = model.model
    call = capture_call(model, network, batch, "test")
    attach_and_load(trainer, model, datamodule, batch, ckpt_path)
    adapter: Any = getattr(model, "adapter", None)
    with_adapter = isinstance(adapter, Adapter)
    plain: dict[str, Any] = {} if with_adapter else {"modalities": model.modalities, "fill": model.fill}
    index = write_export(
        network,
        adapter if with_adapter else None,
        call,
        out,
        **plain,
        combinations=combinations,
        formats=formats or ["torch", "onnx"],
        mixed=mixed,
        dynamic=dynamic,
        tolerance=tolerance,
    )
    if index.not_folded is not None:
        print(f"no programs of single combinations: {index.not_folded}")
    print(f"written: {out}/export.json; programs: {', '.join(index.programs)}")
    print(f"largest difference from the network: {index.largest_difference():.2g} (tolerance {index.tolerance:g})")
