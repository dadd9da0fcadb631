"""The axes of samples and channels in the output of a layer.

Shapes: B samples, T steps (or windows, positions) merged into the batch axis, C channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lightning_mm.errors import LightningMMError

Order = Literal["plain", "sample_major", "step_major", "any"]
"""``plain``: the batch axis has B entries; merged axes: ``sample_major`` is b * T + t, ``step_major`` is t * B + b;
``any``: unknown, and not needed if all samples have one combination."""


@dataclass(frozen=True)
class Layout:
    """The axes of the outputs of a layer that have ``ndim`` axes."""

    ndim: int
    batch_axis: int
    channel_axis: int
    order: Order = "plain"

    def place(
        self, coefficients: Shaped[Tensor, "batch channel"], output: Float[Tensor, " *output"]
    ) -> Shaped[Tensor, " *#output"]:
        """Reshape ``[B, C]`` coefficients to broadcast with the output ``[..., B or B*T, ..., C, ...]``.

        A single row applies to all samples, whatever their axis.
        """
        if coefficients.shape[0] == 1:
            return coefficients.view([-1 if axis == self.channel_axis else 1 for axis in range(self.ndim)])
        times = self._times(output.shape[self.batch_axis], coefficients.shape[0])
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

    def by_sample(self, tensor: Shaped[Tensor, " *layer"], batch: int) -> Shaped[Tensor, "batch step *rest"]:
        """Move samples first, then the steps merged with them (or one): ``[B, T, ...]``, then all other axes."""
        times = self._times(tensor.shape[self.batch_axis], batch)
        moved = tensor.movedim(self.batch_axis, 0)
        if self.order == "step_major":
            return moved.unflatten(0, (times, batch)).transpose(0, 1)
        return moved.unflatten(0, (batch, times))

    def merged(self, tensor: Shaped[Tensor, "batch step *rest"]) -> Shaped[Tensor, " *layer"]:
        """Undo :meth:`by_sample`."""
        if self.order == "step_major":
            tensor = tensor.transpose(0, 1)
        return tensor.flatten(0, 1).movedim(0, self.batch_axis)

    def channels_last(
        self, tensor: Shaped[Tensor, " *layer"], batch: int
    ) -> Shaped[Tensor, "batch step *rest channel"]:
        """Move axes as in :meth:`by_sample`, and channels to the last axis."""
        return self.by_sample(tensor, batch).movedim(self._channel_by_sample, -1)

    def channels_back(self, tensor: Shaped[Tensor, "batch step *rest channel"]) -> Shaped[Tensor, " *layer"]:
        """Undo :meth:`channels_last`."""
        return self.merged(tensor.movedim(-1, self._channel_by_sample))

    @property
    def _channel_by_sample(self) -> int:
        """The axis of the channels after :meth:`by_sample`."""
        return self.channel_axis + (1 if self.channel_axis > self.batch_axis else 2)

    def _times(self, size: int, batch: int) -> int:
        """Return the number of entries per sample on the batch axis; all of them if one row applies to all samples."""
        if batch == 1:
            return size
        if size % max(batch, 1) or (self.order == "plain" and size != batch):
            raise LightningMMError(
                f"a layer returned {size} entries on axis {self.batch_axis} for {batch} samples; expected "
                f"{'as many' if self.order == 'plain' else 'a multiple'}. The network runs it on a part of the batch, "
                "or the example was not typical; leave the layer out with `exclude`"
            )
        return size // max(batch, 1)


@dataclass(frozen=True)
class Site:
    """A module of the base that gets a bank: its name, channels and the layouts of its outputs (one per ndim)."""

    name: str
    channels: int
    layouts: tuple[Layout, ...]
    foldable: bool = True
    """Whether a scale and a shift can be folded into its weights; False for some subclasses that override forward."""
    details: dict[str, Any] = field(default_factory=dict)
    """Details of the layer that the kind of adapter needs, in plain types, see ``Kind.choose``."""
    left_alone: bool = False
    """Whether the network leaves the output alone, see :class:`~lightning_mm.adapters.layers.in_place.Outputs`."""

    def layout(self, output: Float[Tensor, " ..."]) -> Layout:
        """Return the layout of an output, by its number of axes."""
        for layout in self.layouts:
            if layout.ndim == output.ndim:
                return layout
        raise LightningMMError(
            f"layer {self.name!r} returned {output.ndim} axes, but {[layout.ndim for layout in self.layouts]} for "
            "`example`; pass an example that is typical of the data"
        )

    def to_dict(self) -> dict[str, Any]:
        layouts = [asdict(layout) for layout in self.layouts]
        state = {"name": self.name, "channels": self.channels, "layouts": layouts, "foldable": self.foldable}
        state |= {"left_alone": True} if self.left_alone else {}
        return {**state, "details": self.details} if self.details else state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Site:
        layouts = tuple(Layout(**layout) for layout in state["layouts"])
        return cls(
            state["name"],
            state["channels"],
            layouts,
            state["foldable"],
            state.get("details", {}),
            state.get("left_alone", False),
        )


def changed_indices(
    before: Shaped[Tensor, " *output"], after: Shaped[Tensor, " *output"], axis: int
) -> Int[Tensor, " changed"]:
    """Return the indices along an axis at which any entry differs; NaN counts as equal to NaN."""
    different = ~torch.isclose(before, after, rtol=1e-5, atol=1e-7, equal_nan=True)
    return different.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
