"""A replacement for the ``forward`` of a frozen encoder, which runs on samples that it has not encoded before.

Until a kept output has been compared with a fresh one, it runs on all samples: the first epoch is that of a run that
keeps nothing, and the first batch of known samples shows whether outputs depend on anything but inputs. Later it runs
on fewer samples at once, which rounds differently in some kernels.

Shapes: B samples, N of them encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.call import Current
from lightning_mm.adapters.encoders_first import OtherForward
from lightning_mm.adapters.kept.keys import sample_keys
from lightning_mm.adapters.kept.rows import KeptRows, Place
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import leaves_of, map_leaves, map_tensors, tensors_of

LEAVE_OUT = "leave out keep_encoder_outputs"


class KeptForward(OtherForward):
    """The replacement, an object, so that it survives deepcopy and pickle.

    Args:
        encoder: The encoder.
        name: Its name in the network, for errors.
        current: Access to the running call of the adapter.
        rows: Its kept outputs.

    Attributes:
        asked: Keys of the samples of training since they were last cleared.
        found: Keys of samples of training that were kept before they came.
    """

    def __init__(self, encoder: nn.Module, name: str, current: Current, rows: KeptRows) -> None:
        super().__init__(encoder, current)
        self.name, self.rows = name, rows
        self.off = False
        self.asked: set[bytes] = set()
        self.found: set[bytes] = set()
        self._inner = [module for module in encoder.modules() if module is not encoder]
        self._form: Any = None  # an output without samples
        self._compared: set[bool] = set()  # with and without gradients
        self._outside: OtherForward | None = None
        if isinstance(self.own, OtherForward):  # of the adapter; stays outside, as it runs its own once in two steps
            self._outside, self.own = self.own, self.own.own
            self._outside.own, encoder.forward = self, self._outside

    def remove(self) -> None:
        if self._outside is None:
            super().remove()
        else:
            self._outside.own = self.own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = (args, kwargs)
        keys = None if self.off or tracing() or self._must_run() else sample_keys(call)
        if not keys:  # unknown, or a batch without samples
            return self._run(*args, **kwargs)
        if any(leaf.requires_grad for leaf in tensors_of(call)):
            raise self._learned("its input depends on a learned fill or on an adapter before it")
        known = {key: place for key in keys if (place := self.rows.places.get(key)) is not None}
        if torch.is_grad_enabled():
            self.asked.update(keys)
            self.found.update(known)
        if torch.is_grad_enabled() not in self._compared or not _alike(known.values()):
            return self._all(call, keys, known)
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}  # its first sample
        if new:
            rows = torch.tensor(list(new.values()))
            part = map_tensors(call, lambda leaf: leaf.index_select(0, rows.to(leaf.device)))
            _, leaves = self._encode(part, len(new))
            self.rows.add(list(new), leaves)
            known |= {key: (leaves, row) for row, key in enumerate(new)}
            if not _alike(known.values()):  # outputs that are as long as the longest sample of a batch
                return self._run(*args, **kwargs)
        return self._joined([known[key] for key in keys])

    def _must_run(self) -> bool:
        """Return whether someone listens to layers of the encoder, or it does not repeat itself."""
        return self.module.training or any(
            one.training or one._forward_hooks or one._forward_pre_hooks for one in self._inner
        )

    def _all(self, call: Call, keys: list[bytes], known: dict[bytes, Place]) -> Any:
        """Encode all samples, compare with what is known, and keep the rest."""
        output, leaves = self._encode(call, len(keys))
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        for key, (kept, row) in known.items():
            for old, now in zip(kept, leaves):
                if not _close(old[row], now[first[key]]):
                    raise LightningMMError(
                        f"encoder {self.name!r} returned another output for the same input than before: it reads "
                        f"something else, or its code has changed since the outputs were kept; {LEAVE_OUT}, or give "
                        "another folder"
                    )
        if len(known) > 1:  # one may be that of the fill, which shows little
            self._compared.add(torch.is_grad_enabled())
        new = [key for key in first if key not in known]
        if new:
            self.rows.add(new, [leaf[torch.tensor([first[key] for key in new])] for leaf in leaves])
        return output

    def _encode(self, call: Call, size: int) -> tuple[Any, list[Tensor]]:
        """Run the encoder; its output, and the tensors of it in the memory of the CPU.

        Raises:
            LightningMMError: If they have no row for each sample, or depend on what is learned.
        """
        output = self._run(*call[0], **call[1])
        leaves = [leaf for _, leaf in leaves_of(output)]
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (size,) for leaf in leaves):
            raise LightningMMError(
                f"encoder {self.name!r} returns something else than tensors with one row per sample, which cannot be "
                f"kept; {LEAVE_OUT}, or leave it out of `encoders`"
            )
        if any(leaf.requires_grad for leaf in leaves):
            raise self._learned("a part of it is learned")
        if self._form is None:
            self._form = map_tensors(output, lambda leaf: leaf[:0].clone())
        return output, [leaf.detach().cpu() for leaf in leaves]

    def _joined(self, places: Sequence[Place]) -> Any:
        """Return the outputs at some places, in new memory, in the form of an output of the encoder."""
        number = iter(range(len(places[0][0])))

        def join(path: Any, like: Tensor) -> Tensor:
            position = next(number)
            return torch.stack([leaves[position][row] for leaves, row in places]).to(like.device)

        return map_leaves(self._form, join)

    def _learned(self, reason: str) -> LightningMMError:
        return LightningMMError(
            f"outputs of encoder {self.name!r} cannot be kept, since {reason}; {LEAVE_OUT}, or leave these layers out "
            "of the adapter with `exclude` and use a fill without parameters"
        )


def _alike(places: Any) -> bool:
    """Return whether the outputs at some places have the same shapes."""
    blocks = {id(leaves): leaves for leaves, _ in places}.values()
    return len({tuple((leaf.dtype, leaf.shape[1:]) for leaf in leaves) for leaves in blocks}) <= 1


def _close(old: Tensor, now: Tensor) -> bool:
    """Return whether half the digits agree: a sample is rounded a little differently in another batch."""
    if old.shape != now.shape or old.dtype != now.dtype:
        return old.dtype == now.dtype and old.ndim == now.ndim  # as long as the longest sample of its batch
    if not now.is_floating_point():
        return torch.equal(old, now)
    distance = (old.double() - now.double()).nan_to_num().norm()
    return bool(distance <= torch.finfo(now.dtype).eps ** 0.5 * now.double().nan_to_num().norm())
