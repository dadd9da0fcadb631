"""MulT: every modality attends to every other one, step by step, and the last steps of all give the answer.

Shapes: B samples, T time steps, C_m channels of modality m, D width of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import (
    check_inputs,
    check_positive,
    check_probability,
    common_batch,
    parts_of_modalities,
    read_sequence,
)
from lightning_mm.models.mult.encoder import CrossmodalEncoder, attendable, embed
from lightning_mm.models.mult.weights import from_reference, to_reference

LEAST_MEMORY_LEVELS = 3
TEXT = "text"
"""The modality whose raw features and attention weights the reference drops."""


class MulT(nn.Module):
    """The multimodal transformer: crossmodal encoders, a memory for each modality, a perceptron over their last steps.

    In eval mode equal to the released code; :meth:`load_reference` takes its weights. Absent modalities are zeros, or
    another fill: a step of zeros has no position. The network does not take ``available``.

    Sequences of one length, plain tensors, are read as the released code does, which knows no padding. Sequences with
    lengths are read up to their end: the answer for a sample is that for the sample alone, unpadded.

    With two modalities an encoder has one source to ask; a single modality goes to its memory at once. (The released
    code has three.)

    Args:
        widths: Modality to the channels C_m of a step.
        num_outputs: Number of outputs K, 1 for sentiment.
        dim: Width D of a step in the crossmodal encoders, a multiple of ``heads``; memories are as many times as
            wide as there are other modalities.
        heads: Attention heads.
        levels: Layers of a crossmodal encoder; memories have at least 3.
        attention_dropout: Modality to the probability of dropping an attention weight when it is the source; by
            default 0.1 for ``text`` and 0 for all others.
        memory_dropout: The same in the memories.
        relu_dropout: Of the hidden features of perceptrons.
        residual_dropout: Of what attention and perceptrons add.
        embedding_dropout: Of embedded steps, and of the raw features of ``text``.
        output_dropout: Of the hidden features before the head.
        causal: Whether a step sees no later one, in eval mode too.

    Shape:
        Each of ``{modality: ...}`` is ``[B, T, C_m]``, ``{"values": [B, T, C_m], "length": Int[B]}``, or ``[B, C_m]``
        for one step; T may differ between modalities -> ``[B, K]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = MulT({"text": 6, "audio": 3}, dim=4, heads=2, levels=1)
        >>> audio = {"values": torch.zeros(2, 5, 3), "length": torch.tensor([5, 2])}
        >>> network({"text": torch.zeros(2, 7, 6), "audio": audio}).shape
        torch.Size([2, 1])

    Reference:
        Tsai et al.: Multimodal Transformer for unaligned multimodal language sequences, arXiv 1906.00295, section 3;
        code and weights: github.com/yaohungt/Multimodal-Transformer.
    """

    def __init__(
        self,
        widths: dict[str, int],
        num_outputs: int = 1,
        dim: int = 30,
        heads: int = 5,
        levels: int = 5,
        attention_dropout: dict[str, float] | None = None,
        memory_dropout: float = 0.1,
        relu_dropout: float = 0.1,
        residual_dropout: float = 0.1,
        embedding_dropout: float = 0.25,
        output_dropout: float = 0.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        check_positive(num_outputs=num_outputs, dim=dim, heads=heads, levels=levels)
        shared = {"relu_dropout": relu_dropout, "residual_dropout": residual_dropout}
        shared |= {"embedding_dropout": embedding_dropout}
        check_probability(memory_dropout=memory_dropout, output_dropout=output_dropout, **shared)
        self.modalities = Modalities(widths)
        self.channels = dict(widths)
        self.dim, self.num_outputs, self.causal = dim, num_outputs, causal
        if dim % heads:
            raise LightningMMError(f"dim must be a multiple of heads, got dim {dim} and heads {heads}")
        check_positive(**{f"channels of modality {name!r}": channels for name, channels in widths.items()})
        dropouts = self._attention_dropouts(attention_dropout)
        self.raw_dropout = nn.Dropout(embedding_dropout)
        # A 1x1 convolution of the reference, batch first.
        self.projections = parts_of_modalities(
            {name: nn.Linear(size, dim, bias=False) for name, size in widths.items()}
        )
        self.crossmodal = parts_of_modalities(
            {
                target: nn.ModuleDict(
                    {
                        source: CrossmodalEncoder(dim, heads, levels, dropouts[source], **shared)
                        for source in self.modalities
                        if source != target
                    }
                )
                for target in self.modalities
            }
        )
        memory, deep = dim * max(len(widths) - 1, 1), max(levels, LEAST_MEMORY_LEVELS)
        self.memories = parts_of_modalities(
            {name: CrossmodalEncoder(memory, heads, deep, memory_dropout, **shared) for name in self.modalities}
        )
        fused = memory * len(widths)
        self.fusion_in, self.fusion_out = nn.Linear(fused, fused), nn.Linear(fused, fused)
        self.output_dropout = nn.Dropout(output_dropout)
        self.head = nn.Linear(fused, num_outputs)

    def forward(self, inputs: Mapping[str, Nest]) -> Float[Tensor, "batch {self.num_outputs}"]:
        """Outputs of every sample; absent inputs come filled."""
        check_inputs(inputs, self.modalities)
        projected, placed, lengths = {}, {}, {}
        for name in self.modalities:
            projected[name], placed[name], lengths[name] = self._project(name, inputs[name])
        common_batch(projected)
        embedded = {name: embed(projected[name], placed[name]) for name in self.modalities}
        ends = []
        for target in self.modalities:
            steps, positioned = projected[target], placed[target]
            asked = [
                encoder(embedded[target], embedded[source], self._attendable(target, source, projected, lengths))
                for source, encoder in cast(nn.ModuleDict, self.crossmodal[target]).items()
            ]
            if asked:
                steps = torch.cat(asked, dim=2)
                positioned = steps[:, :, 0] != 0
            own = self._attendable(target, target, projected, lengths)
            steps = self.memories[target](embed(steps, positioned), None, own)
            last = (lengths[target] - 1).view(-1, 1, 1).expand(-1, 1, steps.shape[2])
            ends.append(steps.gather(1, last).squeeze(1))
        fused = torch.cat(ends, dim=1)
        fused = fused + self.fusion_out(self.output_dropout(F.relu(self.fusion_in(fused))))
        outputs: Tensor = self.head(fused)
        return outputs

    def load_reference(self, state_dict: Mapping[str, object]) -> None:
        """Load weights of the released code, strictly.

        Args:
            state_dict: Its ``state_dict``, with or without the prefix ``module.``, bare or as the entry ``state_dict``
                of a checkpoint. Two unused buffers of every encoder are left out.

        Raises:
            LightningMMError: If keys are missing, left over or of another shape, which are named, or if this network
                has other modalities than ``text``, ``audio`` and ``vision``.
        """
        self.load_state_dict(from_reference(state_dict, self.state_dict(), self.modalities))

    def to_reference(self) -> dict[str, Tensor]:
        """The weights as a ``state_dict`` of the released code, which loads it strictly.

        Raises:
            LightningMMError: If this network has other modalities than ``text``, ``audio`` and ``vision``.
        """
        return to_reference(self.state_dict(), self.modalities)

    def _project(
        self, name: str, value: Nest
    ) -> tuple[Float[Tensor, "batch time {self.dim}"], Bool[Tensor, "batch time"], Int[Tensor, " batch"]]:
        """Projected steps of a modality, which of them have a position, and how many of them count."""
        try:
            values, valid = read_sequence(value, self.channels[name])
        except LightningMMError as error:
            raise LightningMMError(f"modality {name!r}: {error}") from error
        if name == TEXT:
            values = self.raw_dropout(values)
        projection = cast(nn.Linear, self.projections[name])
        # The reference gives no position to a step with projected channel 0 exactly zero: a step of zeros. Computed
        # with the weight, since a shift that an adapter adds after the projection would give absent steps a position.
        placed = values.detach() @ projection.weight[0].detach() != 0
        return projection(values), placed, valid.sum(1)

    def _attendable(
        self, target: str, source: str, steps: Mapping[str, Tensor], lengths: Mapping[str, Tensor]
    ) -> Bool[Tensor, "batch query key"]:
        queries, keys = steps[target].shape[1], steps[source].shape[1]
        return attendable(lengths[target], lengths[source], queries, keys, self.causal)

    def _attention_dropouts(self, given: dict[str, float] | None) -> dict[str, float]:
        unknown = [name for name in given or {} if name not in self.modalities]
        if unknown:
            raise LightningMMError(f"attention_dropout has unknown {unknown}; expected some of {list(self.modalities)}")
        check_probability(**{f"attention_dropout of {name!r}": value for name, value in (given or {}).items()})
        own = {name: 0.1 if name == TEXT else 0.0 for name in self.modalities}
        return own if given is None else dict.fromkeys(self.modalities, 0.0) | given
