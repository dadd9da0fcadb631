"""An encoder of short texts that outputs one vector, for :class:`~lightning_mm.models.LateFusionClassifier`.

Shapes: B samples, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import Nest
from lightning_mm.models.inputs import check_positive
from lightning_mm.models.vector_encoders import SequenceEncoder

IDS, MASK = "input_ids", "attention_mask"


class TokenEncoder(nn.Module):
    """An embedding of tokens, and a :class:`SequenceEncoder` over them.

    Args:
        vocabulary: Number of tokens, padding (0) included.
        width: Size of an embedding, and of every stage but the last.
        out_channels: Size of the vector.
        depth: Stages of the sequence encoder, each halves the number of steps.
        kernel_size: Tokens that a convolution sees, an odd number.

    Shape:
        ``{"input_ids": Int[B, L], "attention_mask": Int[B, L]}`` (1 for tokens, which come first, 0 for padding) ->
        ``[B, out_channels]``. A text without tokens is one step of zeros.

    Raises:
        LightningMMError: If a setting is below 1, or the input has another form or a token outside of the vocabulary.

    Example:
        >>> text = {"input_ids": torch.tensor([[3, 4, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
        >>> TokenEncoder(9)(text).shape
        torch.Size([1, 64])
    """

    def __init__(
        self, vocabulary: int, width: int = 32, out_channels: int = 64, depth: int = 2, kernel_size: int = 3
    ) -> None:
        super().__init__()
        check_positive(vocabulary=vocabulary, width=width)
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.sequence = SequenceEncoder(width, width, out_channels, depth, kernel_size)
        self.in_channels, self.out_channels = vocabulary, out_channels

    def forward(self, text: Nest) -> Float[Tensor, "batch {self.out_channels}"]:
        tokens, mask = _read(text)
        if (
            tokens.device.type == "cpu"
            and tokens.numel()
            and not 0 <= int(tokens.min()) <= int(tokens.max()) < (self.vocabulary)
        ):
            raise LightningMMError(
                f"expected tokens from 0 to {self.vocabulary - 1}, got {int(tokens.min())} to {int(tokens.max())}; set "
                "vocabulary to that of the data set"
            )
        features: Tensor = self.sequence({"values": self.embedding(tokens), "length": mask.sum(1)})
        return features


def _read(text: Nest) -> tuple[Tensor, Tensor]:
    parts = [text.get(name) for name in (IDS, MASK)] if isinstance(text, Mapping) else []
    shapes = [tuple(one.shape) for one in parts if isinstance(one, Tensor) and not one.is_floating_point()]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 2 or not shapes[0][1]:
        got = (
            {name: tuple(one.shape) for name, one in text.items() if isinstance(one, Tensor)}
            if (isinstance(text, Mapping))
            else type(text).__name__
        )
        raise LightningMMError(f'expected {{"{IDS}": Int[batch, token], "{MASK}": Int[batch, token]}}, got {got}')
    tokens, mask = parts
    assert isinstance(tokens, Tensor)
    assert isinstance(mask, Tensor)
    return tokens.long(), mask.long()
