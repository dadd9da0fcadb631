"""Placeholders for absent modalities.

A fill has one row per modality, the same for every sample that lacks it. It is applied inside the forward, so that the
values of absent inputs (NaN, stale frames, other ids) can reach neither outputs nor gradients.

Shapes: B samples, M modalities; an input is a tensor ``[B, ...]`` or a nest (dict, list, tuple) of such tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import may_look
from lightning_mm.tree import dotted, is_column, map_leaves, rows_of

LENGTH = "length"
"""The entry of a nested input that holds the lengths of padded sequences."""

Nest = Any
"""A tensor ``[B, ...]``, or a dict, list or tuple of nests."""


class Fill(nn.Module):
    """Base class of all fills; subclasses define :meth:`row`."""

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        """Return the value that replaces one absent sample.

        Args:
            name: The modality.
            leaf: One tensor of its input, ``[B, ...]``; only its shape, dtype and device may be used.
            path: Path of the leaf in a nested input, e.g. ``"length"``; empty for a plain tensor.

        Shape:
            Broadcastable to ``[1, ...]`` of the leaf.
        """
        raise NotImplementedError

    def forward(self, name: str, value: Nest, present: Bool[Tensor, " batch"]) -> Nest:
        """Replace the rows of ``value`` where ``present`` (``Bool[B]``) is False; nothing is changed in place."""
        return map_leaves(value, lambda path, leaf: self._fill(name, leaf, present, dotted(path)), (), is_column)

    def _fill(self, name: str, leaf: Any, present: Bool[Tensor, " batch"], path: str) -> Any:
        if not isinstance(leaf, Tensor):
            if rows_of(leaf) == len(present) and not bool(present.all()):
                texts = any(isinstance(item, (str, bytes)) for item in leaf)
                raise LightningMMError(
                    f"modality {name!r} holds {'texts' if texts else 'values that are no tensors'}, which no fill can "
                    f"replace; {'tokenise them' if texts else 'make tensors of them'} before they are batched"
                )
            return leaf
        if leaf.layout is not torch.strided:
            raise LightningMMError(
                f"modality {name!r}: no fill replaces a {leaf.layout} tensor; write tensor.to_dense()"
            )
        if present.device != leaf.device:
            present = present.to(leaf.device)
        if leaf.shape[:1] != present.shape:
            raise LightningMMError(
                f"modality {name!r}{f' ({path})' if path else ''}: expected {present.shape[0]} samples first, "
                f"got shape {tuple(leaf.shape)}; inputs are batch first"
            )
        # an absent sequence is one step long, since one without steps cannot be packed
        is_length = path.rpartition(".")[2] == LENGTH and not leaf.is_floating_point()
        row = leaf.new_ones(()) if is_length else self.row(name, leaf, path).to(dtype=leaf.dtype, device=leaf.device)
        if may_look(present) and not leaf.requires_grad and not bool(present.any()):
            return row.expand(leaf.shape).clone(memory_format=torch.contiguous_format)
        return torch.where(present.view(-1, *[1] * (leaf.ndim - 1)), leaf, row)


class Zeros(Fill):
    """Zeros: the mean input after normalisation (the choice of arXiv 2310.03986)."""

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        return leaf.new_zeros(())


class Constant(Fill):
    """One number per modality, by default zero; ``Constant({"image": 1.0})`` is the all-ones image of ViLT."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__()
        self.values = dict(values)

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        return leaf.new_full((), self.values.get(name, 0.0))


class Mean(Fill):
    """The mean of each channel over the training data; zero for modalities without values.

    Args:
        values: Modality to its channel means, or to one number for all channels.
        channel_axis: Axis of the channels in a batch, 1 for images ``[B, C, H, W]``, -1 for sequences ``[B, T, C]``.
    """

    def __init__(self, values: Mapping[str, float | Sequence[float]], channel_axis: int = 1) -> None:
        super().__init__()
        self.values = {
            name: [float(v) for v in (value if isinstance(value, Sequence) else [value])]
            for name, value in values.items()
        }
        self.channel_axis = channel_axis

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        if name not in self.values or not leaf.is_floating_point():
            return leaf.new_zeros(())
        values = self.values[name]
        if len(values) not in (1, leaf.shape[self.channel_axis]):
            raise LightningMMError(
                f"fill Mean of {name!r}: expected 1 or {leaf.shape[self.channel_axis]} channel means, got {len(values)}"
            )
        shape = [1] * leaf.ndim
        shape[self.channel_axis] = len(values)
        return torch.tensor(values, device=leaf.device).view(shape)


class Noise(Fill):
    """Gaussian noise, the same row for every sample and call, so that evaluation is repeatable; zeros for integers."""

    def __init__(self, std: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.std, self.seed = std, seed

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        if not leaf.is_floating_point():
            return leaf.new_zeros(())
        generator = torch.Generator().manual_seed(self.seed)
        return self.std * torch.randn(1, *leaf.shape[1:], generator=generator)


class Learned(Fill):
    """A trainable row per modality with one entry per channel; zeros at the start.

    Args:
        channels: Modality to the size of its channel axis; other modalities are filled with zeros.
        channel_axis: Axis of the channels in a batch, 1 for images, -1 for sequences.
    """

    def __init__(self, channels: Mapping[str, int], channel_axis: int = 1) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.channels = dict(channels)
        self.rows = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name, size in channels.items()})

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        if name not in self.rows or not leaf.is_floating_point():
            return leaf.new_zeros(())
        shape = [1] * leaf.ndim
        shape[self.channel_axis] = -1
        return self.rows[name].view(shape)


class Tokens(Fill):
    """Token ids for an absent text, e.g. the tokenised empty string ``[101, 102]``, padded to the length of the batch.

    Args:
        ids: Modality to the ids of its first tokens.
        pad: The id of padding.
        path: Path of the ids in a nested input, in which the attention mask becomes 1 for the given tokens; empty for a
            plain tensor.
    """

    def __init__(self, ids: Mapping[str, Sequence[int]], pad: int = 0, path: str = "") -> None:
        super().__init__()
        self.ids = {name: list(values) for name, values in ids.items()}
        self.pad, self.path = pad, path

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        if name not in self.ids or leaf.ndim != 2:
            return leaf.new_zeros(())
        ids = self.ids[name][: leaf.shape[1]]
        is_mask = path != self.path
        row = leaf.new_full((1, leaf.shape[1]), 0 if is_mask else self.pad)
        row[0, : len(ids)] = 1 if is_mask else torch.tensor(ids, dtype=leaf.dtype, device=leaf.device)
        return row


class EmptyText(Fill):
    """The tokenised empty text: ``[CLS] [SEP]`` with an attention mask of ones, and padding.

    For the inputs of BERT and similar networks, ``{"input_ids": Int[B, L], "attention_mask": [B, L], ...}``; other
    entries, such as ``token_type_ids``, become zero.

    Args:
        cls: The id of ``[CLS]``; 101 of BERT uncased.
        sep: The id of ``[SEP]``.
        pad: The id of ``[PAD]``.

    Example:
        >>> text = {"input_ids": torch.tensor([[101, 7, 8, 102]]), "attention_mask": torch.ones(1, 4).long()}
        >>> filled = EmptyText()("text", text, torch.tensor([False]))
        >>> filled["input_ids"].tolist(), filled["attention_mask"].tolist()
        ([[101, 102, 0, 0]], [[1, 1, 0, 0]])
    """

    def __init__(self, cls: int = 101, sep: int = 102, pad: int = 0) -> None:
        super().__init__()
        self.cls, self.sep, self.pad = cls, sep, pad

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        entry = path.rpartition(".")[2]
        if leaf.ndim != 2 or leaf.is_floating_point() or entry not in ("input_ids", "attention_mask"):
            return leaf.new_zeros(())
        start = [self.cls, self.sep] if entry == "input_ids" else [1, 1]
        row = leaf.new_full((1, leaf.shape[1]), self.pad if entry == "input_ids" else 0)
        row[0, :2] = leaf.new_tensor(start[: leaf.shape[1]])
        return row


class PerModality(Fill):
    """A separate fill for each modality.

    Args:
        fills: Modality to its fill; other modalities are filled with zeros.

    Example:
        >>> fill = PerModality({"image": Constant({"image": 1.0}), "text": EmptyText()})
        >>> fill("image", torch.zeros(1, 2), torch.tensor([False])).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, fills: dict[str, Fill]) -> None:
        super().__init__()
        self.fills = dict(fills)
        self.parts = nn.ModuleList(fills.values())  # registers their parameters

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        if name not in self.fills:
            return leaf.new_zeros(())
        return self.fills[name].row(name, leaf, path)


def fill_inputs(
    fill: Fill, modalities: Sequence[str], inputs: Mapping[str, Nest], available: Bool[Tensor, "batch modality"]
) -> dict[str, Nest]:
    """Fill absent inputs of ``{modality: input}`` by ``available``, ``Bool[B, M]``; other keys are not changed."""
    filled = dict(inputs)
    for position, name in enumerate(modalities):
        filled[name] = fill(name, inputs[name], available[:, position])
    return filled
