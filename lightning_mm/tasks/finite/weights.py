"""Refuses networks with weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError

STATISTICS = ("running_mean", "running_var")
"""Buffers that must be finite as weights must; others may hold infinity on purpose, as masks of attention do."""


def check_network(network: nn.Module, where: str, state: Mapping[str, Any] | None = None) -> None:
    """Raise a LightningMMError if a network holds weights or statistics that are not finite; the first is named.

    Args:
        network: Tells weights from buffers.
        where: What holds them, the start of the message.
        state: Its weights, if they are not loaded yet; by default its own.
    """
    all_values = (network.state_dict() if state is None else state).items()
    floating = {
        name: _plain(value)
        for name, value in all_values
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    }
    filled = [one for one in floating.values() if one.numel()]
    if not filled or bool(magnitude(filled).isfinite()):
        return
    weights = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, values in floating.items():
        all_count = name in weights or name.rpartition(".")[2] in STATISTICS
        wrong = ~torch.isfinite(values) if all_count else torch.isnan(values)
        if wrong.any():
            raise LightningMMError(
                f"{where} holds weights that are not finite: {int(wrong.sum())} of {wrong.numel()} values of {name!r} "
                f"are {'nan' if values.isnan().any() else 'inf'}; its training went wrong. Take an earlier checkpoint, "
                "or train again: lightning_mm stops such a training and names the sample"
            )


def check_trained(module: nn.Module, step: int) -> None:
    """Raise a LightningMMError if weights that are trained are not finite, so that no checkpoint of them is written.

    Args:
        module: Its parameters that require a gradient are looked at.
        step: Optimizer steps so far, for the message.
    """
    trained = {name: one.detach() for name, one in module.named_parameters() if one.requires_grad and not one.is_meta}
    plain = [_plain(one) for one in trained.values() if one.is_floating_point()]
    if not plain or bool(magnitude(plain).isfinite()):
        return
    name = next(name for name, one in trained.items() if not _plain(one).isfinite().all())
    raise LightningMMError(
        f"no checkpoint is written: after {step} steps {name!r} holds values that are not finite; the checkpoints "
        "written before are untouched. Use a lower learning rate, or trainer.gradient_clip_val"
    )


def magnitude(tensors: list[Tensor]) -> Tensor:
    """A norm of all values of some tensors, a scalar that is finite if and only if all of them are."""
    if all(one.device.type == "cpu" for one in tensors):
        # ten times as fast there as the largest value, but large values may overflow it
        norm = torch.nn.utils.get_total_norm(tensors)
        if norm.isfinite():
            return norm
    return torch.nn.utils.get_total_norm(tensors, norm_type=float("inf"))


def _plain(value: Tensor) -> Tensor:
    """Values of a sparse tensor, and float32 for dtypes of one byte, which know no ``isfinite``."""
    value = value.detach()
    if value.layout != torch.strided:
        value = value.coalesce().values() if value.layout == torch.sparse_coo else value.to_dense()
    return value.float() if value.element_size() == 1 else value
