"""Types of layers that can be adapted."""

from __future__ import annotations

from torch import nn

from lightning_mm.adapters.layers.foreign import role_of

Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *Transposed)
Normalisation = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm,
)  # fmt: skip
Adaptable = (nn.Linear, *Convolution, *Normalisation, nn.MultiheadAttention)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.Embedding)


def known_type(module: nn.Module) -> type[nn.Module] | None:
    """Return the torch layer type with the ``forward`` that the module runs; None if a subclass overrides it."""
    kinds = (*Adaptable, nn.Embedding)
    return next((kind for kind in kinds if isinstance(module, kind) and type(module).forward is kind.forward), None)


def acts_as(module: nn.Module, types: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module is a layer of one of these types, or does what one of them does (another library's)."""
    if isinstance(module, types):
        return True
    role = role_of(module)
    return role is not None and (nn.Linear if role in ("linear", "transposed") else nn.LayerNorm) in types
