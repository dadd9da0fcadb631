"""What the networks check and read alike: names, masks, images, sequences, and parts named after modalities.

Shapes: B samples, M modalities, T time steps, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError, check_fraction, check_whole
from lightning_mm.missing.fills import LENGTH, Nest

VALUES = "values"
"""The entry of a nested input that holds the steps of padded sequences; ``length`` holds their lengths."""


def check_inputs(inputs: Mapping[str, Nest], modalities: Sequence[str]) -> None:
    """Raise a LightningMMError unless there is an input for each modality and no other."""
    missing = [name for name in modalities if name not in inputs]
    unknown = [name for name in inputs if name not in modalities]
    if missing or unknown:
        which = f"lack {missing}" if missing else f"have unknown {unknown}"
        raise LightningMMError(
            f"inputs {which}; expected one for each of {list(modalities)}, got {list(inputs)} "
            "(an absent modality still needs a placeholder and False in `available`)"
        )


def check_available(available: Tensor | None, modalities: Sequence[str], size: int | None = None) -> None:
    """Raise a LightningMMError unless the mask is None or ``Bool[B, M]``, with ``size`` rows where that is given."""
    if available is None:
        return
    columns = available.ndim == 2 and available.shape[1] == len(modalities)
    if not columns or size not in (None, available.shape[0]) or available.dtype != torch.bool:
        expected = f"({'batch' if size is None else size}, {len(modalities)})"
        raise LightningMMError(
            f"available: expected a bool tensor of shape {expected}, one column for each of {list(modalities)}, "
            f"got {available.dtype} {tuple(available.shape)}"
        )


def check_images(inputs: Mapping[str, Tensor], channels: Mapping[str, int]) -> None:
    """Raise a LightningMMError unless all inputs are images ``[B, C_m, H, W]`` on one pixel grid.

    Args:
        inputs: Modality to its images.
        channels: Modality to its number of channels C_m.
    """
    check_inputs(inputs, list(channels))
    first = next(iter(channels))
    grid = tuple(inputs[first].shape)
    for name, count in channels.items():
        shape = tuple(inputs[name].shape)
        if len(shape) != 4 or shape[1] != count:
            hint = f"; repeat a single channel with `.expand(-1, {count}, -1, -1)`" if shape[1:2] == (1,) else ""
            raise LightningMMError(
                f"modality {name!r}: expected [batch, {count}, height, width] ({count} channels), got {shape}{hint}"
            )
        if shape[0] != grid[0] or shape[2:] != grid[2:]:
            raise LightningMMError(
                f"modality {name!r}: expected the batch and size of {first!r} {grid}, got {shape}; all modalities must "
                "be on one pixel grid"
            )


def common_batch(features: Mapping[str, Tensor]) -> int:
    """Return the number of samples that all modalities have.

    Raises:
        LightningMMError: If they differ.
    """
    sizes = {name: one.shape[0] for name, one in features.items()}  # len() would fix it in exports
    batch = next(iter(sizes.values()))
    if any(size != batch for size in sizes.values()):
        raise LightningMMError(f"inputs have different numbers of samples: {sizes}")
    return batch


def check_positive(**settings: int) -> None:
    """Raise a LightningMMError that names the first setting that is no whole number of at least 1."""
    for name, value in settings.items():
        check_whole(name, value, 1)


def check_probability(**settings: float) -> None:
    """Raise a LightningMMError that names the first setting below 0, or not below 1."""
    for name, value in settings.items():
        check_fraction(name, value, below_one=True)


def check_floating(values: Tensor) -> None:
    """Raise a LightningMMError that names the dtype unless it is one of floating point."""
    if not values.is_floating_point():
        raise LightningMMError(f"expected floating point numbers, got {values.dtype}; convert them with `.float()`")


def parts_of_modalities(parts: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """``nn.ModuleDict(parts)``; a name that it cannot hold ("pop", "a.b") is a LightningMMError."""
    held = nn.ModuleDict()
    for name, part in parts.items():
        try:
            held[name] = part
        except KeyError as error:
            raise LightningMMError(f"modality {name!r} cannot name a part of a network: {error}") from error
    return held


def vector_widths(encoders: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the width of the vectors of each modality's encoder, its ``out_channels``.

    Raises:
        LightningMMError: If an encoder does not say it; the message names the modality.
    """
    for name, encoder in encoders.items():
        if not isinstance(getattr(encoder, "out_channels", None), int):
            raise LightningMMError(
                f"modality {name!r}: its encoder {type(encoder).__name__} must say how wide its vectors are in an "
                "attribute `out_channels`"
            )
    return {name: int(encoder.out_channels) for name, encoder in encoders.items()}  # type: ignore[arg-type]


def encode_vectors(name: str, encoder: nn.Module, value: Nest, width: int) -> Float[Tensor, "batch {width}"]:
    """Run a modality's encoder, which returns vectors ``[B, width]``; a LightningMMError names the modality."""
    try:
        features: Tensor = encoder(value)
    except LightningMMError as error:
        raise LightningMMError(f"modality {name!r}: {error}") from error
    if features.ndim != 2 or features.shape[1] != width:
        raise LightningMMError(
            f"modality {name!r}: expected vectors [batch, {width}] (its `out_channels`) from its "
            f"{type(encoder).__name__}, got {tuple(features.shape)}"
        )
    return features


def read_sequence(
    value: Nest, channels: int
) -> tuple[Float[Tensor, "batch time {channels}"], Bool[Tensor, "batch time"]]:
    """Read the steps of padded sequences, zero in the padding, and which of them count.

    Args:
        value: ``Float[B, T, C]``, ``{"values": Float[B, T, C], "length": Int[B]}``, or ``Float[B, C]`` for one step.
            A length below 0 counts as 0, one above T as T.
        channels: The expected C.

    Returns:
        Steps and flags. A sequence of length 0 counts as one step of zeros, so that means and
        attention are over something.

    Raises:
        LightningMMError: If it is not such a sequence, has other channels or no step, or is not of floating point.
    """
    forms = f'[batch, time, {channels}] or {{"values": [batch, time, {channels}], "length": [batch]}}'
    length = None
    values = value
    if isinstance(value, Mapping):
        if VALUES not in value or LENGTH not in value:
            raise LightningMMError(f"expected {forms}, got a dict of {list(value)}")
        values, length = value[VALUES], value[LENGTH]
    elif isinstance(value, Tensor) and value.ndim == 2:
        values = value.unsqueeze(1)
    if not isinstance(values, Tensor) or values.ndim != 3 or values.shape[2] != channels or not values.shape[1]:
        got = tuple((value if isinstance(value, Tensor) else values).shape) if isinstance(values, Tensor) else values
        raise LightningMMError(f"expected {forms} with at least one step and {channels} channels, got {got}")
    check_floating(values)
    if length is None:
        return values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    whole = isinstance(length, Tensor) and not length.is_floating_point() and length.dtype != torch.bool
    if not whole or length.shape != values.shape[:1]:
        got = f"{length.dtype} {tuple(length.shape)}" if isinstance(length, Tensor) else type(length).__name__
        raise LightningMMError(f"expected a length for each of {values.shape[0]} sequences as integers, got {got}")
    steps, length = torch.arange(values.shape[1], device=values.device), length.unsqueeze(1)
    return torch.where((steps < length).unsqueeze(2), values, 0.0), steps < length.clamp(min=1)
