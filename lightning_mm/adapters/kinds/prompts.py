"""Prompt tokens: each combination has its own tokens, prepended to the input of a transformer block.

They are prepended at each adapted block and removed from its output (deep prompts), so the sequence keeps the length
that the network expects. Unlike other kinds, fresh prompts are not an identity: any token takes a share of the
attention. Complete samples pass through the block without them, in a second run of it.

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
from lightning_mm.errors import LightningMMError, check_whole


class PromptBank(Bank):
    """``K`` rows of L tokens, ``[K, L, C]``; a basis that adds rows up adds up the tokens of absent modalities."""

    changes_input = True
    foldable = False

    def __init__(self, rows: int, length: int, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(0.02 * torch.randn(rows, length, channels))

    def enter(self, call: LayerCall) -> Call:
        """Prepend the prompt tokens to the first argument, and extend masks by as many positions."""
        if not call.args:
            raise LightningMMError(
                f"block {call.site.name!r} was called without a positional argument to prepend prompt tokens to; "
                "choose other blocks with `layers`"
            )
        tokens = call.args[0]
        batch, time = _axes(call.site, tokens)
        size, length = tokens.shape[time], self.tokens.shape[1]
        prompts = call.mix(self.tokens.flatten(1)).unflatten(1, self.tokens.shape[1:])
        prompts = prompts.to(tokens.dtype).expand(tokens.shape[batch], -1, -1)
        changed = torch.cat([prompts if time == 1 else prompts.transpose(0, 1), tokens], dim=time)
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
                f"block {call.site.name!r} got {expected} tokens and {length} prompt tokens and returned "
                f"{output.shape[time]} tokens; choose blocks that keep the length of the sequence with `layers`"
            )
        output = output.narrow(time, length, expected)
        used = call.uses_rows().expand(output.shape[batch])
        if not tracing() and bool(used.all()):
            return output
        plain = _first(call.module.forward(*args, **kwargs)).to(output.dtype)
        return torch.where(used.view(-1, 1, 1) if batch == 0 else used.view(1, -1, 1), output, plain)

    def fold(self, call: LayerCall) -> None:
        raise LightningMMError("prompt tokens are not a change of weights; keep the hooks instead")


_SAMPLES = {"plain": "on their own axis", "any": "on an unknown axis"}


class PromptTokens(Kind):
    """Prompt tokens at transformer blocks; not an identity at the start, cannot be folded.

    Args:
        length: L, the number of tokens of each combination at each block.
        layers: Names or patterns of the blocks (``["*encoder.layer.?"]``): modules that take tokens ``[B, T, C]`` or
            ``[T, B, C]`` as their first argument and return as many. Default: every ``nn.TransformerEncoderLayer``.

    Raises:
        LightningMMError: If the length is not a whole number of at least 1; later, if the network has no such block.
    """

    targets = (nn.Module,)

    def __init__(self, length: int = 4, layers: list[str] | None = None) -> None:
        check_whole("PromptTokens: length", length, 1)
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
                f"PromptTokens finds no transformer block in {type(network).__name__}; name its blocks in `layers`"
            )
        return {name: {"channel_axis": -1} for name in chosen}, {}

    def bank(self, site: Site, rows: int) -> PromptBank:
        for layout in site.layouts:
            if layout.ndim != 3 or layout.order != "plain":
                raise LightningMMError(
                    f"block {site.name!r} cannot take prompt tokens: it outputs {layout.ndim} axes with samples "
                    f"{_SAMPLES.get(layout.order, 'merged with steps')}; expected tokens [batch, token, channel] or "
                    "[token, batch, channel]; choose other blocks with `layers`"
                )
        return PromptBank(rows, self.length, site.channels)


def _axes(site: Site, tokens: Tensor) -> tuple[int, int]:
    """Return the axes of the samples and of the tokens."""
    batch = site.layout(tokens).batch_axis
    return batch, 1 - batch


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


_OF_TORCH = ("src_mask", "src_key_padding_mask", "is_causal")
"""Arguments of ``nn.TransformerEncoderLayer`` after the tokens."""


def _longer(name: str, value: Any, batch: int, size: int, length: int) -> Any:
    """Extend a mask over T tokens by the prompt tokens, which every token may attend to; return other values unchanged.

    ``name`` is the name of an argument of ``nn.TransformerEncoderLayer``, empty for other blocks. In boolean masks True
    means "masked out" to torch's block and "visible" to other blocks; float masks are added to the scores, so the new
    entries are zero, and one in integer masks.
    """
    if not isinstance(value, Tensor) or not value.ndim or value.shape[-1] != size:
        return value
    visible = 0.0 if value.is_floating_point() else 1.0
    if value.dtype == torch.bool:
        visible = 0.0 if name else 1.0
    if name:
        square = name == "src_mask"
    else:  # if a batch has as many samples as tokens, a mask of two axes is taken for [sample, token]
        square = value.ndim >= 2 and value.shape[-2] == size and (value.ndim > 2 or size != batch)
    padded = F.pad(
        value.to(torch.uint8) if value.dtype == torch.bool else value,
        (length, 0, *((length, 0) if square else ())),
        value=visible,
    )
    return padded.to(value.dtype)
