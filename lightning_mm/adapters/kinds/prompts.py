"""Prompt tokens: each combination has tokens of its own that a transformer block sees beside those of its input.

They are put before the tokens of the input at each adapted block and taken away behind it (deep prompts), so that the
length of the sequence stays what the network expects. Unlike other kinds, fresh prompts are no identity: any token
takes a share of the attention. Samples that lack nothing go through the block without them, in a second run of it.

Reference: Lee et al., "Multimodal Prompting with Missing Modalities for Visual Recognition" (missing-aware prompts),
CVPR 2023, section 3.3; Jia et al., "Visual Prompt Tuning", ECCV 2022, section 3.2 (deep prompts).

Shapes: B samples, T tokens of the input, L prompt tokens, K rows of the basis, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind, chosen_by_pattern
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError


class PromptBank(Bank):
    """``K`` rows of L tokens, ``[K, L, C]``; a basis that adds rows up adds the tokens of absent modalities."""

    changes_input = True

    def __init__(self, rows: int, length: int, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(rows, length, channels))

    def enter(self, call: LayerCall) -> Call:
        """The call with the prompt tokens before those of its first argument, and masks as much longer."""
        if not call.args:
            raise LightningMMError(
                f"block {call.site.name!r} was called without a positional argument, which prompt tokens are put before"
            )
        tokens = call.args[0]
        batch, time = _axes(call.site, tokens)
        size, length = tokens.shape[time], self.tokens.shape[1]
        own = call.mix(self.tokens.flatten(1)).unflatten(1, self.tokens.shape[1:])
        own = own.to(tokens.dtype).expand(tokens.shape[batch], -1, -1)
        changed = torch.cat([own if time == 1 else own.transpose(0, 1), tokens], dim=time)
        as_torch = isinstance(call.module, nn.TransformerEncoderLayer)
        names = _OF_TORCH if as_torch else ("",) * len(call.args)
        rest = [_longer(name, value, tokens.shape[batch], size, length) for name, value in zip(names, call.args[1:])]
        named = {
            key: _longer(key if as_torch else "", value, tokens.shape[batch], size, length)
            for key, value in call.kwargs.items()
        }
        return (changed, *rest), named

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *shorter"]:
        args, kwargs = call.given
        batch, time = _axes(call.site, output)
        length, expected = self.tokens.shape[1], args[0].shape[time]
        if output.shape[time] != expected + length:
            raise LightningMMError(
                f"block {call.site.name!r} was given {expected} tokens and {length} prompt tokens and returned "
                f"{output.shape[time]}; name blocks that keep the length of the sequence"
            )
        output = output.narrow(time, length, expected)
        used = call.uses_rows().expand(output.shape[batch])
        if not tracing() and bool(used.all()):
            return output
        plain = _first(type(call.module).forward(call.module, *args, **kwargs)).to(output.dtype)
        return torch.where(used.view(-1, 1, 1) if batch == 0 else used.view(1, -1, 1), output, plain)

    def fold(self, call: LayerCall) -> None:
        raise LightningMMError("prompt tokens are no change of the weights; keep the hooks instead")


_WHERE = {"plain": "on one of them", "any": "on one that cannot be told"}


class PromptTokens(Kind):
    """Prompt tokens at transformer blocks; no identity at the start, cannot be folded.

    Args:
        length: L, tokens of each combination at each block.
        layers: Names or patterns of the blocks (``["*encoder.layer.?"]``): modules that take tokens ``[B, T, C]`` or
            ``[T, B, C]`` as their first argument and put out as many. Default: every ``nn.TransformerEncoderLayer``.

    Raises:
        LightningMMError: If the length is less than one; when it meets a network, if there is no such block.
    """

    targets = (nn.Module,)

    def __init__(self, length: int = 4, layers: list[str] | None = None) -> None:
        if length < 1:
            raise LightningMMError(f"PromptTokens needs a length of at least 1, got {length}")
        self.length, self.layers = length, layers

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        if self.layers is None:
            chosen = [
                name for name, module in network.named_modules() if isinstance(module, nn.TransformerEncoderLayer)
            ]
        else:
            chosen = list(chosen_by_pattern(self, network, self.layers))
        if not chosen:
            raise LightningMMError(
                f"PromptTokens knows no transformer block in {type(network).__name__}; name its blocks in `layers`"
            )
        return {name: {"channel_axis": -1} for name in chosen}, {}

    def bank(self, site: Site, rows: int) -> PromptBank:
        for layout in site.layouts:
            if layout.ndim != 3 or layout.order != "plain":
                raise LightningMMError(
                    f"block {site.name!r} cannot be given prompt tokens: it puts out {layout.ndim} axes, samples "
                    f"{_WHERE.get(layout.order, 'merged with steps')}; expected tokens "
                    "[batch, token, channel] or [token, batch, channel]"
                )
        return PromptBank(rows, self.length, site.channels)


def _axes(site: Site, tokens: Tensor) -> tuple[int, int]:
    """The axes of the samples and of the tokens."""
    batch = site.layout(tokens).batch_axis
    return batch, 1 - batch


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


_OF_TORCH = ("src_mask", "src_key_padding_mask", "is_causal")
"""Arguments of ``nn.TransformerEncoderLayer`` behind the tokens."""


def _longer(name: str, value: Any, batch: int, size: int, length: int) -> Any:
    """A mask over T tokens with places for the prompt tokens, which all may attend to.

    ``name`` is that of an argument of torch's own block, empty for all others. True means "not to be seen" to torch's
    own blocks, and "to be seen" to others that take bools; numbers that are added to the scores are zero, whole
    numbers one.
    """
    if not isinstance(value, Tensor) or not value.ndim or value.shape[-1] != size:
        return value
    seen = 0.0 if value.is_floating_point() else 1.0
    if value.dtype == torch.bool:
        seen = 0.0 if name else 1.0
    if name:
        square = name == "src_mask"
    else:  # of a batch of as many samples as tokens, a mask of two axes is taken for one of samples
        square = value.ndim >= 2 and value.shape[-2] == size and (value.ndim > 2 or size != batch)
    padded = F.pad(
        value.to(torch.uint8) if value.dtype == torch.bool else value,
        (length, 0, *((length, 0) if square else ())),
        value=seen,
    )
    return padded.to(value.dtype)
