"""Encoders of segmentation-models-pytorch, without the parts that a smaller depth leaves idle."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError, check_whole


def build_encoder(modality: str, name: str, channels: int, depth: int, weights: str | None) -> Any:
    """Build an encoder that outputs its input and ``depth`` scales, each half the size of the one before.

    Stages beyond ``depth`` stay in most encoders and never run; they are removed, so that every parameter has a use
    (parameter counts mean something, and DDP waits for no gradient in vain).

    Args:
        modality: For messages.
        name: Name of the encoder, ``tu-<model>`` for those of timm.
        channels: Input channels.
        depth: Number of scales.
        weights: Name of pretrained weights, ``None`` for a random start.

    Raises:
        LightningMMError: If there is no such encoder, or it cannot be built with these settings.
    """
    # imported here, as it takes a second that commands without an encoder need not wait
    from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names

    check_whole(f"channels of modality {modality!r}", channels, 1)
    if not name.startswith(("tu-", "timm-")) and name not in get_encoder_names():
        close = get_close_matches(name, get_encoder_names(), n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "use one such as 'resnet18' or 'mit_b0'"
        raise LightningMMError(f"modality {modality!r}: unknown encoder {name!r}; {hint}")
    try:
        encoder = get_encoder(name, in_channels=channels, depth=depth, weights=weights)
    except (KeyError, ValueError, RuntimeError) as error:
        raise LightningMMError(f"modality {modality!r}: encoder {name!r} cannot be built: {error}") from error
    if encoder.output_stride != 2**depth:
        raise LightningMMError(
            f"modality {modality!r}: encoder {name!r} has stride {encoder.output_stride} at depth {depth}, "
            f"expected {2**depth}"
        )
    # 64 pixels: two cells of the coarsest scale a side, and enough for the strided attention of MiT.
    drop_idle(encoder, torch.zeros(1, channels, 64, 64))
    return encoder


def drop_idle(network: nn.Module, example: Tensor) -> None:
    """Replace submodules by ``nn.Identity`` if their parameters do not reach the outputs.

    Found by the gradients of a probe, not by what ran: a module may be used through its weights alone, as
    ``nn.MultiheadAttention`` uses its output projection, and another may run without effect. An identity keeps the
    positions in an ``nn.Sequential``. If the outputs of the probe change nevertheless, nothing is removed that ran.

    Args:
        network: Changed in place; its training mode is kept. Outputs a list of tensors.
        example: An input, batch first.
    """
    ran: set[int] = set()
    was_training = network.training
    network.eval()
    hooks = [module.register_forward_hook(lambda module, *_: ran.add(id(module))) for module in network.modules()]
    parameters = list(network.parameters())
    with torch.enable_grad():
        outputs = network(example.requires_grad_())
        total = torch.stack([output.sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for hook in hooks:
        hook.remove()
    used = {id(parameter) for parameter, gradient in zip(parameters, gradients) if gradient is not None}
    idle = list(_idle_parts(network, used))
    for parent, name, _ in idle:
        setattr(parent, name, nn.Identity())
    if not _outputs_equal(network, example, outputs):
        for parent, name, module in idle:
            if any(id(part) in ran for part in module.modules()):
                setattr(parent, name, module)
    network.train(was_training)


def _idle_parts(parent: nn.Module, used: set[int]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Find the largest submodules that hold parameters, none of them in ``used``, with their parents and names."""
    for name, child in parent.named_children():
        held = [id(parameter) for parameter in child.parameters()]
        if held and not used.intersection(held):
            yield parent, name, child
        else:
            yield from _idle_parts(child, used)


def _outputs_equal(network: nn.Module, example: Tensor, expected: list[Tensor]) -> bool:
    try:
        with torch.no_grad():
            outputs = network(example)
    except (RuntimeError, TypeError):  # shapes or arguments that an identity does not take
        return False
    return len(outputs) == len(expected) and all(map(torch.equal, outputs, expected))
