"""Where the samples and the channels lie in the output of a layer.

Shapes: B samples, T steps (or windows, positions) merged into the batch axis, C channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Order = Literal["plain", "sample_major", "step_major"]
"""``plain``: the axis has B entries; merged axes: ``sample_major`` is b * T + t, ``step_major`` is t * B + b."""


@dataclass(frozen=True)
class Layout:
    """Axes of one kind of output of a layer."""

    ndim: int
    batch_axis: int
    channel_axis: int
    order: Order = "plain"

    def place(self, coefficients: Tensor, output: Tensor) -> Tensor:
        """Bring ``[B, C]`` coefficients to a shape that broadcasts with the output ``[..., B or B*T, ..., C, ...]``."""
        times = output.shape[self.batch_axis] // coefficients.shape[0]
        if self.order == "sample_major":
            coefficients = coefficients.repeat_interleave(times, dim=0)
        elif self.order == "step_major":
            coefficients = coefficients.repeat(times, 1)
        shape = [1] * self.ndim
        shape[self.batch_axis] = coefficients.shape[0]
        shape[self.channel_axis] = coefficients.shape[1]
        if self.batch_axis > self.channel_axis:
            coefficients = coefficients.transpose(0, 1)
        return coefficients.reshape(shape)


@dataclass(frozen=True)
class Site:
    """A module of the base that gets a bank: its name, channels and the layouts in which it fires (one per rank)."""

    name: str
    channels: int
    layouts: tuple[Layout, ...]

    def layout(self, output: Tensor) -> Layout:
        for layout in self.layouts:
            if layout.ndim == output.ndim:
                return layout
        raise RuntimeError(
            f"layer {self.name!r} put out {output.ndim} axes, in the probe {[layout.ndim for layout in self.layouts]}; "
            "give `example` a call that is typical of the data"
        )

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "channels": self.channels, "layouts": [asdict(layout) for layout in self.layouts]}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Site:
        return cls(state["name"], state["channels"], tuple(Layout(**layout) for layout in state["layouts"]))


def changed_indices(before: Tensor, after: Tensor, axis: int) -> Tensor:
    """Which entries along an axis differ anywhere, as indices; NaN counts as equal to NaN."""
    different = ~torch.isclose(before, after, rtol=1e-5, atol=1e-7, equal_nan=True)
    return different.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
