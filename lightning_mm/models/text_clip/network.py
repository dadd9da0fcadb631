"""A network for retrieval between texts and clips, with one space of embeddings for each modality of the clip.

Shapes: B clips, Q texts, M experts (modalities of the clip), D features of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import (
    check_available,
    check_inputs,
    check_positive,
    common_batch,
    encode_vectors,
    parts_of_modalities,
    vector_widths,
)
from lightning_mm.models.text_clip.gated import GatedEmbedding

HIGHEST_SCALE = 100.0
"""The largest factor of similarities that training can reach."""


class EmbeddingExperts(nn.Module):
    """An embedding of the clip per modality, and of the text per modality with a weight that says how much it counts.

    The forward is the side of the clips, which may miss modalities; :meth:`encode_text` is that of the query, which is
    always there. A clip's embedding of one modality depends on this modality alone, so that those present can be
    compared with a text whatever else is missing, and embeddings of a collection can be stored.

    Args:
        encoders: Modality to its encoder, as in :class:`~lightning_mm.models.LateFusionClassifier`; the order is the
            column order of ``available``.
        text: The encoder of texts, any module from a batch of texts to ``[Q, C]`` that says its C in ``out_channels``.
        width: Features D of an embedding.
        mask_absent: True: absent inputs never enter, and their embeddings are zero; in training, BatchNorm counts zeros
            in their place. False: the network ignores ``available`` and sees the fill of absent inputs.
        batch_norm: Whether gates are normalised over the batch, see
            :class:`~lightning_mm.models.text_clip.gated.GatedEmbedding`.
        dropout: Probability of dropping a feature of what encoders return, in training, below 1.
        temperature: Similarities are divided by it in a softmax over answers; trained, and never below 0.01.

    Shape:
        ``{modality: [B, ...]}`` and ``Bool[B, M]`` -> ``[B, M, D]``, each embedding of length 1.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> import torch
        >>> from lightning_mm.models import TokenEncoder, VectorEncoder
        >>> network = EmbeddingExperts({"face": VectorEncoder(5), "voice": VectorEncoder(3)}, TokenEncoder(9), width=8)
        >>> clips = {"face": torch.zeros(4, 5), "voice": torch.zeros(4, 3)}
        >>> texts = {"input_ids": torch.tensor([[3, 4], [5, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
        >>> network(clips).shape, [one.shape for one in network.encode_text(texts)]
        (torch.Size([4, 2, 8]), [torch.Size([2, 2, 8]), torch.Size([2, 2])])

    Reference:
        Gated embeddings and weights by the softmax of a linear layer of the text: arXiv 1804.02516; as in MMT,
        arXiv 2007.10639, without its transformer over the experts of a clip (chosen by us, so that experts stay apart).
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        text: nn.Module,
        width: int = 64,
        mask_absent: bool = True,
        batch_norm: bool = True,
        dropout: float = 0.0,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        check_positive(width=width)
        if not 1 / HIGHEST_SCALE <= temperature < math.inf:
            raise LightningMMError(f"temperature: expected {1 / HIGHEST_SCALE} or more, got {temperature}")
        if not isinstance(getattr(text, "out_channels", None), int):
            raise LightningMMError(
                f"text: {type(text).__name__} must say how wide its vectors are in an attribute `out_channels`"
            )
        self.modalities = Modalities(encoders)
        self.channels = {name: getattr(encoder, "in_channels", None) for name, encoder in encoders.items()}
        self.width, self.mask_absent = width, mask_absent
        self.widths = vector_widths(encoders)
        self.text_width = cast(int, text.out_channels)
        self.encoders = parts_of_modalities(encoders)
        self.zeros = Zeros()
        self.embeddings = parts_of_modalities(
            {name: GatedEmbedding(size, width, batch_norm, dropout) for name, size in self.widths.items()}
        )
        self.text = text
        self.text_embeddings = parts_of_modalities(
            {name: GatedEmbedding(self.text_width, width, batch_norm, dropout) for name in self.widths}
        )
        self.text_weights = nn.Linear(self.text_width, len(self.modalities))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(
        self, inputs: Mapping[str, Nest], available: Tensor | None = None
    ) -> Float[Tensor, "batch expert {self.width}"]:
        """Embeddings of clips; ``available=None`` means that all modalities are there."""
        check_inputs(inputs, self.modalities)
        check_available(available, self.modalities)
        present = available if self.mask_absent else None
        if present is not None:
            inputs = fill_inputs(self.zeros, self.modalities, inputs, present)
        features = {
            name: encode_vectors(name, encoder, inputs[name], self.widths[name])
            for name, encoder in self.encoders.items()
        }
        check_available(available, self.modalities, common_batch(features))
        found = torch.stack([embed(features[name]) for name, embed in self.embeddings.items()], dim=1)
        return found if present is None else torch.where(present.unsqueeze(2), found, 0.0)

    def encode_text(self, text: Nest) -> tuple[Float[Tensor, "text expert {self.width}"], Float[Tensor, "text expert"]]:
        """Embeddings of texts, ``[Q, M, D]`` of length 1, and the weight of each expert, ``[Q, M]``, with the sum 1."""
        features = encode_vectors("text", self.text, text, self.text_width)
        found = torch.stack([cast(Tensor, embed(features)) for embed in self.text_embeddings.values()], dim=1)
        return found, cast(Tensor, self.text_weights(features)).softmax(1)

    def scale(self) -> Float[Tensor, ""]:
        """The factor of similarities in a softmax over answers, one over the temperature, at most 100."""
        return self.log_scale.exp().clamp(max=HIGHEST_SCALE)
