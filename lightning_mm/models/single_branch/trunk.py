"""The trunk that all modalities share, on rows of one modality each.

Shapes: N rows, M modalities, C channels, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.inputs import parts_of_modalities

Norm = Literal["batch", "batch_per_modality", "layer"]
NORMS = ("batch", "batch_per_modality", "layer")


class TrunkBlock(nn.Module):
    """Linear layer, norm, ReLU and dropout.

    Args:
        in_channels: Channels of the rows.
        out_channels: Channels of the output.
        modalities: Names in order.
        norm: ``batch`` (statistics over all rows), ``batch_per_modality`` (a BatchNorm for each), or ``layer``.
        dropout: Probability of dropping a feature, in training.

    Shape:
        ``[N, in_channels]``, the rows of the first modality first -> ``[N, out_channels]``.
    """

    def __init__(self, in_channels: int, out_channels: int, modalities: Sequence[str], norm: Norm, dropout: float):
        super().__init__()
        self.linear = xavier(nn.Linear(in_channels, out_channels))
        self.norm = nn.LayerNorm(out_channels) if norm == "layer" else None
        names = {"batch": ["all"], "batch_per_modality": list(modalities), "layer": []}[norm]
        self.norms = parts_of_modalities({name: nn.BatchNorm1d(out_channels) for name in names})
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, rows: Float[Tensor, "row channel"], sizes: Sequence[Any], fresh: bool = False
    ) -> Float[Tensor, "row out"]:
        """Run on rows of several modalities.

        Args:
            rows: Sorted by modality.
            sizes: Number of rows of each modality.
            fresh: Whether BatchNorms use the statistics of these rows although the block is in eval mode; their
                running statistics stay.
        """
        rows = self.linear(rows)
        if self.norm is not None:
            rows = self.norm(rows)
        elif len(self.norms) == 1:
            rows = batch_norm(next(iter(self.norms.values())), rows, fresh)  # type: ignore[arg-type]
        else:
            parts = zip(self.norms.values(), rows.split(list(sizes)))
            rows = torch.cat([batch_norm(norm, part, fresh) for norm, part in parts])  # type: ignore[arg-type]
        dropped: Tensor = self.dropout(rows.relu())
        return dropped


def batch_norm(norm: nn.BatchNorm1d, rows: Float[Tensor, "row channel"], fresh: bool) -> Float[Tensor, "row channel"]:
    """Normalise rows; fewer than two, which have no variance, use the running statistics also in training."""
    if (norm.training or fresh) and rows.shape[0] < 2:
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(rows, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps)
    if fresh and not norm.training:
        return F.batch_norm(rows, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
    normed: Tensor = norm(rows)
    return normed


def xavier(layer: nn.Linear) -> nn.Linear:
    """Initialise a layer as SBNet does: Xavier weights, biases of 0.01."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.constant_(layer.bias, 0.01)
    return layer
