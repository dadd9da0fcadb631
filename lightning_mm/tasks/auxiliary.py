"""Auxiliary losses: a linear head on each encoder, so that every modality learns the task by itself.

After training, the heads make a baseline: the mean of the logits of the modalities that are present (``late_drop``).
On a frozen base they are an adapter by themselves, for incomplete samples alone (``late_share``).

Shapes: B samples, M modalities, D features of an encoder, K outputs of the task, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.tasks.checkpoints import check_state, network_state
from lightning_mm.tasks.training.strategies import weighted_by_share

WeightedTerm = tuple[Tensor, Tensor | None]
"""A mean, and the scalar that it was divided by; ``None`` for the number of samples."""

_HEARD: ContextVar[dict[EncoderTap, Any] | None] = ContextVar("lightning_mm_auxiliary", default=None)
"""The outputs that taps keep in the calls of this thread; None outside of :meth:`AuxiliaryHeads.listening`."""


class EncoderTap:
    """Forward hook that keeps an encoder's output inside ``listening``; an object, so that it survives deepcopy."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        heard = _HEARD.get()
        if heard is not None:
            heard[self] = output


class AuxiliaryHeads(nn.Module):
    """One linear head per encoder of a network; they are part of the task and not of the network.

    Args:
        network: Has ``encoders``, an ``nn.ModuleDict`` of one encoder per modality, each with ``out_channels``: the
            number of its features D, or a list of numbers if it returns a list of maps.
        modalities: Names of the columns of ``available``, in order.
        num_outputs: Outputs K of a head.
        dense: Whether the task has a target per pixel. The head is then a 1x1 convolution on the last map
            ``[B, D, h, w]``, resized to the target; otherwise encoders return ``[B, D]``.

    Raises:
        LightningMMError: If the network has no such encoders; the message says what was found.
    """

    def __init__(self, network: nn.Module, modalities: Sequence[str], num_outputs: int, dense: bool = False) -> None:
        super().__init__()
        encoders = getattr(network, "encoders", None)
        if not isinstance(encoders, nn.ModuleDict):
            found = "none" if encoders is None else f"a {type(encoders).__name__}"
            raise LightningMMError(
                f"auxiliary_weight needs a network with `encoders`, an nn.ModuleDict of one encoder per modality; "
                f"{type(network).__name__} has {found}; name them so, or set auxiliary_weight to 0"
            )
        absent = [name for name in modalities if name not in encoders]
        if absent:
            raise LightningMMError(
                f"auxiliary_weight needs one encoder per modality; {type(network).__name__}.encoders lacks {absent}, "
                f"it has {list(encoders)}"
            )
        if len({id(encoders[name]) for name in modalities}) < len(modalities):
            raise LightningMMError(
                f"auxiliary_weight needs another encoder for each modality; {type(network).__name__}.encoders "
                "holds one module under several names"
            )
        self.dense = dense
        self.heads, self.widths = nn.ModuleDict(), dict[str, int]()
        self.taps = {name: EncoderTap() for name in modalities}
        for name, tap in self.taps.items():
            width = self.widths[name] = _width(name, encoders[name])
            self.heads[name] = nn.Conv2d(width, num_outputs, 1) if dense else nn.Linear(width, num_outputs)
            encoders[name].register_forward_hook(tap)

    def parameters_per_combination(self) -> int:
        """Count the parameters of the heads of the largest incomplete combination."""
        each = sorted(sum(one.numel() for one in head.parameters()) for head in self.heads.values())
        return sum(each[1:])

    def load(self, path: str | Path) -> bool:
        """Load the heads from the checkpoint of a task, strictly; return whether it holds any.

        Raises:
            LightningMMError: If it holds others.
        """
        state = network_state(path, "auxiliary.")
        if not any(key.startswith("heads.") for key in state):
            return False
        check_state(self, state, f"base_ckpt {path}")
        self.load_state_dict(state)
        return True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep the outputs of the encoders in forwards inside this context, in this thread; may be nested."""
        heard = _HEARD.get()
        token = _HEARD.set({} if heard is None else heard)
        try:
            yield
        finally:
            _HEARD.reset(token)

    def forward(
        self, available: Tensor, target: Tensor, terms: Callable[[Tensor, Tensor], Sequence[WeightedTerm]]
    ) -> Tensor:
        """Mean over the modalities of the loss of their heads; call it inside :meth:`listening`, after the network.

        A head gets only the rows that have its modality; without any its loss is zero, with a gradient of zero. In a
        distributed run the loss of a head is weighted so that its mean over processes is that of all rows, of which
        processes may have unequal numbers; all processes must call this.

        Args:
            available: ``Bool[B, M]``, at least one modality in each row.
            target: ``[B, ...]``.
            terms: The terms of the task's loss of outputs ``[b, K]`` or ``[b, K, H, W]`` and their targets, see
                :meth:`~lightning_mm.tasks.BaseTask.loss_terms`.
        """
        found: list[list[tuple[Tensor, Tensor]]] = []
        for column, (name, head) in enumerate(self.heads.items()):
            rows = available[:, column]
            outputs = head(self._features(name, len(rows))[rows])
            if not len(outputs):
                found.append([(outputs.sum(), outputs.new_zeros(()))])
                continue
            if self.dense and outputs.shape[-2:] != target.shape[-2:]:
                outputs = F.interpolate(outputs, target.shape[-2:], mode="bilinear", align_corners=False)
            count = outputs.new_tensor(len(outputs), dtype=torch.float32)
            found.append([(loss, count if weight is None else weight) for loss, weight in terms(outputs, target[rows])])
        most = max(map(len, found))
        for one in found:  # a head without rows gets as many terms as the others, of weight zero
            one += one[:1] * (most - len(one))
        losses = torch.stack([torch.stack([loss.float() for loss, _ in one]) for one in found])
        weights = torch.stack([torch.stack([weight.float() for _, weight in one]) for one in found])
        return weighted_by_share(losses, weights).sum(1).mean()

    def mean_logits(self, available: Tensor, outputs: Tensor) -> Tensor:
        """Mean of the logits of the heads of available modalities; call it inside :meth:`listening`, after the network.

        Args:
            available: ``Bool[B, M]``, at least one modality in each row.
            outputs: What the network returned, ``[B, K]`` or ``[B, K, H, W]``; only its size is used.

        Returns:
            Logits of the shape of ``outputs``; those of a head of an absent modality never enter.
        """
        total = torch.zeros((), device=available.device)
        for column, (name, head) in enumerate(self.heads.items()):
            logits = head(self._features(name, len(available)))
            if self.dense and logits.shape[-2:] != outputs.shape[-2:]:
                logits = F.interpolate(logits, outputs.shape[-2:], mode="bilinear", align_corners=False)
            present = available[:, column].view(-1, *[1] * (logits.ndim - 1))
            total = total + torch.where(present, logits.float(), 0.0)
        return total / available.sum(1).view(-1, *[1] * (total.ndim - 1))

    def shared_logits(self, available: Tensor, outputs: Tensor, share: float) -> Tensor:
        """Mix :meth:`mean_logits` into the outputs of incomplete samples; those of complete ones stay, bit for bit.

        Args:
            available: ``Bool[B, M]``, at least one modality in each row.
            outputs: What the network returned, ``[B, K]`` or ``[B, K, H, W]``.
            share: Share of the heads, 0 to 1.
        """
        mixed = outputs.float().lerp(self.mean_logits(available, outputs), share).to(outputs.dtype)
        return torch.where(available.all(1).view(-1, *[1] * (outputs.ndim - 1)), outputs, mixed)

    def _features(self, name: str, size: int) -> Tensor:
        output, width = (_HEARD.get() or {}).get(self.taps[name]), self.widths[name]
        if output is None:
            raise LightningMMError(f"auxiliary_weight: the encoder of {name!r} did not run in the forward")
        last = output[-1] if isinstance(output, (list, tuple)) and output and self.dense else output
        expected = f"[{size}, {width}, height, width] or a list of maps" if self.dense else f"[{size}, {width}]"
        if not isinstance(last, Tensor) or last.ndim != (4 if self.dense else 2) or last.shape[:2] != (size, width):
            came = tuple(last.shape) if isinstance(last, Tensor) else f"a {type(last).__name__}"
            raise LightningMMError(
                f"auxiliary_weight: the encoder of {name!r} should return {expected}, as its out_channels says; got "
                f"{came}; set auxiliary_weight to 0 for this network"
            )
        return last


def limit_rank(auxiliary: AuxiliaryHeads | None, rank: int) -> None:
    """Make every head a product of two linear maps: ``rank * (D + K) + K`` parameters instead of ``K (D + 1)``.

    Raises:
        LightningMMError: If there are no heads, or the rank is below 1.
    """
    check_whole("auxiliary_rank", rank, 1)
    if auxiliary is None:
        raise LightningMMError("auxiliary_rank needs auxiliary heads; set auxiliary_weight above 0")
    for name, head in auxiliary.heads.items():
        if isinstance(head, nn.Conv2d):
            parts: list[nn.Module] = [nn.Conv2d(head.in_channels, rank, 1, bias=False)]
            parts.append(nn.Conv2d(rank, head.out_channels, 1))
        else:
            assert isinstance(head, nn.Linear)
            parts = [nn.Linear(head.in_features, rank, bias=False), nn.Linear(rank, head.out_features)]
        auxiliary.heads[name] = nn.Sequential(*parts)


def _width(name: str, encoder: nn.Module) -> int:
    """Channels of the last output of an encoder."""
    channels: Any = getattr(encoder, "out_channels", None)
    last = channels[-1] if isinstance(channels, (list, tuple)) and channels else channels
    if not isinstance(last, int):
        raise LightningMMError(
            f"auxiliary_weight: the encoder of {name!r} ({type(encoder).__name__}) should have `out_channels`, a "
            f"number or a list of numbers, got {channels!r}"
        )
    return last
