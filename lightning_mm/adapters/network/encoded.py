"""The outputs of the encoders in one call of a network, known before anything behind the encoders runs.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from lightning_mm.adapters.tracing import tracing
from lightning_mm.tree import map_tensors


class EncodersDone(BaseException):
    """Ends the first step of a call once all encoders have run; networks that catch ``Exception`` do not catch it."""


class Encoded:
    """What the encoders returned in the first step of a call, for the second.

    Args:
        available: ``Bool[B, M]``.
        expected: Number of encoders; the first step ends early when each of them has noted its code.

    Attributes:
        collecting: Whether the first step runs.
        codes: Column of a modality to what others need of the output of its encoder, batch first.
    """

    def __init__(self, available: Bool[Tensor, "batch modality"], expected: int) -> None:
        self.available, self.expected = available, expected
        self.collecting = True
        self.codes: dict[int, Tensor] = {}
        self._outputs: dict[str, list[Any]] = {}

    def note(self, column: int, code: Tensor) -> None:
        """Keep the code of one modality.

        Raises:
            EncodersDone: If it was the last one. A graph records the whole network; what is not used is dropped later.
        """
        self.codes[column] = code
        if len(self.codes) == self.expected and not tracing():
            raise EncodersDone

    def keep(self, encoder: str, output: Any) -> None:
        """Keep a copy of an output: the network may change its own in place before the first step ends."""
        copy = map_tensors(output, lambda leaf: leaf.clone())
        self._outputs.setdefault(encoder, []).append(copy)

    def take(self, encoder: str) -> list[Any]:
        """Return the output of the next run of an encoder as a list of one item, empty if it did not run before."""
        kept = self._outputs.get(encoder, [])
        return [kept.pop(0)] if kept else []
