"""Training batches of rows: each is one modality of a sample, in an order that says how training switches modality.

Shapes: N samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from lightning_mm.data.sampler import KeyedBatchSampler
from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import random_uniform

Switching = Literal["random", "alternate", "half_epoch", "per_sample"]
SWITCHINGS = ("random", "alternate", "half_epoch", "per_sample")
_SHUFFLE = 0xB7  # keeps this stream of random numbers apart from the samplers of samples
_DRAW = 0xD1


class RowBatchSampler(KeyedBatchSampler):
    """Yields one list of ``(index, epoch, column)`` for each training batch of this rank: a modality of a sample each.

    The order is keyed by ``(seed, epoch)``. Except for ``per_sample``, every modality that is present is visited
    exactly once in an epoch; where ranks cannot be filled evenly, the first rows of a part are visited again.

    Args:
        present: Which modalities the samples have, ``Bool[N, M]``.
        switching: ``random``: all rows shuffled. ``alternate``: samples shuffled, the modalities of each one after the
            other. ``half_epoch``: all rows of the first modality, then all of the next, in separate batches.
            ``per_sample``: samples shuffled, one of the modalities of each drawn at random.
        batch_size: Rows in a batch of one rank.
        drop_last: Whether to leave out the last batch when it is smaller; of each modality for ``half_epoch``.
        seed: Seed of the order.
        place: ``(rank, number of ranks)``; read from torch.distributed when it is first needed if not given.

    Raises:
        LightningMMError: If no sample has a modality; when iterated, if dropping leaves no batch.

    Reference:
        Own reconstruction of the orders of SBNet (arXiv 2303.06129). Read: facts of its code. Chosen by us: new orders
        in every epoch (SBNet shuffles once), separate batches of ``half_epoch``, and ``per_sample``.
    """

    def __init__(
        self,
        present: NDArray[np.bool_],
        switching: Switching,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        place: tuple[int, int] | None = None,
    ) -> None:
        if not present.any():
            raise LightningMMError("switching: no training sample has any of the modalities")
        self.present, self.switching = present, switching
        super().__init__(len(present), batch_size, train=True, drop_last=drop_last, seed=seed, place=place)

    def __iter__(self) -> Iterator[Any]:
        columns = self.present.shape[1]
        for batch in super().__iter__():
            yield [(row // columns, epoch, row % columns) for row, epoch in batch]

    def _train_batches(self, rank: int, world: int) -> list[NDArray[np.int64]]:
        batches = []
        for part in self._parts():
            each = -(-len(part) // world)
            rows = np.resize(part, each * world)
            for start in range(0, each, self.batch_size):
                size = min(self.batch_size, each - start)
                if size == self.batch_size or not self.drop_incomplete:
                    # ranks share what would be one batch of one rank
                    first = start * world + rank * size
                    batches.append(rows[first : first + size])
        if not batches:
            raise LightningMMError(
                f"drop_last leaves no batch: none has batch_size {self.batch_size} rows on each of {world} ranks; set "
                "drop_last=false or a smaller batch_size"
            )
        return batches

    def _parts(self) -> list[NDArray[np.int64]]:
        """Rows in the order of this epoch, ``index * M + column``, in parts that share no batch."""
        present, columns = self.present, self.present.shape[1]
        rng = np.random.default_rng([_SHUFFLE, self.seed % 2**64, self.epoch])
        shuffled: Callable[[NDArray[np.int64]], NDArray[np.int64]] = rng.permutation if self.shuffle else np.asarray
        rows = np.flatnonzero(present)
        if self.switching == "random":
            return [shuffled(rows)]
        if self.switching == "half_epoch":
            parts = [shuffled(rows[rows % columns == column]) for column in range(columns)]
            return [part for part in parts if len(part)]
        samples = shuffled(np.flatnonzero(present.any(1)))
        if self.switching == "alternate":
            ordered = samples[:, None] * columns + np.arange(columns)
            return [ordered[present[samples]]]
        counts = present[samples].sum(1)
        epoch = self.epoch if self.shuffle else 0
        drawn = (random_uniform(self.seed ^ _DRAW, epoch, samples.tolist(), 1)[:, 0] * counts).astype(np.int64)
        order = np.argsort(~present[samples], axis=1, kind="stable")  # present columns first
        return [samples * columns + np.take_along_axis(order, drawn[:, None], axis=1)[:, 0]]


class OrderedRowBatchSampler(RowBatchSampler, SequentialSampler):
    """The same rows in every epoch, samples in data set order: training with ``Trainer(overfit_batches=...)``.

    ``per_sample`` draws one modality of each sample, the same in every epoch. Lightning replaces every sampler that is
    not a ``SequentialSampler``; hence the second base, of which only the type is used.
    """

    def __init__(self, present: NDArray[np.bool_], switching: Switching, batch_size: int, **settings: Any) -> None:
        RowBatchSampler.__init__(self, present, switching, batch_size, **settings)
        self.shuffle = False
