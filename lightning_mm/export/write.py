"""Exports a network: a program for every combination, one for all, and the index ``export.json``."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters import Adapted, Adapter, fingerprint
from lightning_mm.adapters.folded.features import refuse_reading_others
from lightning_mm.adapters.network.inputs import Call, locate_inputs
from lightning_mm.adapters.saving.settings import settings_of
from lightning_mm.errors import LightningMMError
from lightning_mm.export.exporting import Exporting
from lightning_mm.export.formats import format_of, require
from lightning_mm.export.index import ANY, INDEX, Index
from lightning_mm.export.inputs import CallInputs, Dynamic
from lightning_mm.export.leaves import BATCH, form_of, name_of, names_in
from lightning_mm.export.placing import placed
from lightning_mm.export.programs import Source
from lightning_mm.missing import FeatureFill, Fill, Zeros
from lightning_mm.modalities import Modalities
from lightning_mm.tree import tensors_of
from lightning_mm.version import __version__


def export_adapted(adapted: Adapted, example: Call, folder: str | Path, **options: Any) -> Index:
    """Write the folded network of every combination, and one program for all, as ``torch.export`` and ONNX programs.

    A program ``<combination>.pt2`` or ``.onnx`` takes the inputs of its modalities only; ``any`` takes all of them and
    ``available``. Every file is compared with the eager network before the folder is changed. Every file holds the
    weights, so many modalities make many large files: choose ``combinations``.

    Args:
        adapted: The network and its adapter; not changed.
        example: ``(args, kwargs)`` of a typical call with an input for every modality. Its values are not stored, only
            shapes and shuffled entries.
        folder: The folder; files of an earlier export in it are replaced.
        **options: See :func:`write_export`.

    Raises:
        LightningMMError: If the call does not fit, a package is missing, the network cannot be exported, or a file
            differs from the eager network by more than the tolerance; nothing is left behind.

    Example:
        >>> export_adapted(adapted, ((), {"rgb": rgb, "depth": depth}), "exported")  # doctest: +SKIP
        >>> Runtime("exported")({"rgb": rgb})  # doctest: +SKIP
    """
    return write_export(adapted.base, adapted.adapter, example, folder, **options)


def export_network(
    network: nn.Module,
    modalities: Modalities | Sequence[str],
    example: Call,
    folder: str | Path,
    *,
    fill: Fill | None = Zeros(),
    inputs: Mapping[str, str] | None = None,
    **options: Any,
) -> Index:
    """Export a network without an adapter, with absent inputs filled; otherwise as :func:`export_adapted`.

    Args:
        network: Any network; not changed, exported in eval mode.
        modalities: Names in order.
        example: See :func:`export_adapted`.
        folder: See :func:`export_adapted`.
        fill: Placeholder for an absent input; None for a network that takes ``available`` and needs none.
        inputs: Modality to the argument that holds it, see :func:`~lightning_mm.adapters.adapt`.
        **options: See :func:`write_export`.

    Raises:
        LightningMMError: As :func:`export_adapted`.
    """
    modalities = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
    return write_export(network, None, example, folder, modalities=modalities, fill=fill, inputs=inputs, **options)


def write_export(
    network: nn.Module,
    adapter: Adapter | None,
    example: Call,
    folder: str | Path,
    *,
    modalities: Modalities | None = None,
    fill: Fill | None = None,
    inputs: Mapping[str, str] | None = None,
    combinations: Sequence[str] | None = None,
    formats: Sequence[str] = ("torch", "onnx"),
    mixed: bool = True,
    dynamic: Dynamic | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Index:
    """Export a network with the adapter that is attached to it, or without one.

    Args:
        network: The network.
        adapter: The adapter; ``modalities``, ``fill`` and ``inputs`` are then taken from it.
        example: See :func:`export_adapted`.
        folder: See :func:`export_adapted`.
        modalities: Names in order, without an adapter.
        fill: Placeholder for absent inputs, without an adapter.
        inputs: Modality to its argument, without an adapter.
        combinations: Which combinations; all by default. With ``mixed`` an empty list for none.
        formats: ``"torch"``, ``"onnx"`` or both.
        mixed: Whether there is a program for all combinations, ``any``, too.
        dynamic: Axes of variable size besides the batch axis, with a name for each size:
            ``{"text.values": {1: "steps"}}``. All others have the size in the example. If the network needs, say, a
            multiple of eight, a torch program refuses other sizes and ONNX does not.
        tolerance: The largest difference from the eager network, absolute for outputs of magnitude one or less,
            else relative to the largest output.
        seed: Seed of the data of the checks.

    Returns:
        The contents of ``export.json``.
    """
    names = [] if isinstance(formats, str) else list(dict.fromkeys(formats))
    if not names:
        raise LightningMMError(f"formats must be a non-empty list such as ['torch', 'onnx'], got {formats!r}")
    if not tolerance >= 0:
        raise LightningMMError(f"tolerance must be 0 or more, got {tolerance}")
    packages = [package for name in names for package in format_of(name).to_write]
    versions = require(packages, f"exporting {' and '.join(names)}")
    if adapter is not None:
        modalities, paths, fill = adapter.modalities, adapter.paths, adapter.fill
    elif modalities is not None:
        paths = locate_inputs(network, modalities, inputs, example)
    else:
        raise LightningMMError("a network without an adapter is exported with `modalities`, its names in order")
    if mixed and ANY in modalities:
        raise LightningMMError(f"{ANY!r} names the program for all combinations; rename the modality, or mixed=False")
    if isinstance(fill, FeatureFill):
        refuse_reading_others(fill)
    chosen = () if mixed and combinations is not None and not len(combinations) else modalities.select(combinations)
    call_inputs = CallInputs(network, paths, example, dynamic)
    source = Source(network, modalities, paths, fill, adapter)
    with torch.no_grad():
        outputs = source(
            call_inputs.call(call_inputs.examples), torch.ones(call_inputs.sizes[BATCH], len(modalities)) > 0
        )
    form = form_of(outputs)
    dtypes = dict(zip(names_in(form), (name_of(tensor.dtype) for tensor in tensors_of(outputs))))
    about = {
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "fingerprint": fingerprint(network),
        "adapter": adapter and {"kind": settings_of(adapter.kind), "basis": settings_of(adapter.basis)},
        "fill": type(fill).__name__ if fill is not None else None,
        "versions": {
            "lightning_mm": __version__, "python": platform.python_version(), "torch": torch.__version__, **versions
        },
    }  # fmt: skip
    with placed(Path(folder)) as part:
        exporting = Exporting(source, call_inputs, names, names_in(form), tolerance, seed, part)
        programs, not_folded = exporting.combinations(chosen, required=not mixed)
        if mixed:
            programs[ANY] = exporting.mixed()
        index = Index(
            modalities, call_inputs.leaves, call_inputs.sizes, form, dtypes, programs, tolerance, not_folded, about
        )
        (part / INDEX).write_text(index.to_json(), encoding="utf-8")
    return index
