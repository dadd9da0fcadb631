"""Layers that can be adapted, by type."""

from __future__ import annotations

from torch import nn

Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *Transposed)
Normalisation = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm,
)  # fmt: skip
Adaptable = (nn.Linear, *Convolution, *Normalisation, nn.MultiheadAttention)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.Embedding)


def known_type(module: nn.Module) -> type[nn.Module] | None:
    """The torch layer whose own ``forward`` the module runs; None for a subclass that does something else."""
    kinds = (*Adaptable, nn.Embedding)
    return next((kind for kind in kinds if isinstance(module, kind) and type(module).forward is kind.forward), None)
