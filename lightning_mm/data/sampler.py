"""A sampler with keys that carry the epoch, which the random draws for a sample depend on.

A key is ``(index, epoch)`` and a batch is a list of keys. Because the epoch travels with the key, workers (persistent
ones too) augment and drop modalities by ``(seed, index, epoch)`` alone, and an epoch after a resume equals the
uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler, SequentialSampler

from lightning_mm.errors import LightningMMError

Key = tuple[int, int]
RowKey = tuple[int, int, int]
"""A key with the column of the only modality that counts as available, see :mod:`lightning_mm.data.rows`."""
_SHUFFLE = 0x5A  # keeps this stream of random numbers apart from the augmentation's


class KeyedBatchSampler(DistributedSampler[Any]):
    """Yields one list of ``(index, epoch)`` for each batch of this rank; to be used with
    ``DataLoader(batch_size=None)``.

    It is a ``DistributedSampler`` so that Lightning calls ``set_epoch`` and does not replace it.

    Training: a permutation keyed by ``(seed, epoch)``, padded by wrapping around so that all ranks are equally long.
    Evaluation: data set order, epoch 0, every sample exactly once over all ranks, and the same number of non-empty
    batches on every rank, because a rank that runs out of batches earlier would leave the others waiting for ever.

    Args:
        length: Number of samples in the data set.
        batch_size: Samples in a batch of one rank; where ranks cannot be filled evenly, evaluation may have one more.
        train: Whether to shuffle and pad (training) or to keep order and count (evaluation).
        drop_last: Whether training leaves out the last batch of a rank when it is smaller.
        seed: Seed of the permutation.
        place: ``(rank, number of ranks)``; read from torch.distributed when it is first needed if not given.

    Raises:
        LightningMMError: When iterated, if evaluation has fewer samples than ranks, or dropping leaves no batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        train: bool,
        drop_last: bool = False,
        seed: int = 0,
        place: tuple[int, int] | None = None,
    ) -> None:
        rank, world = place or (0, 1)
        super().__init__(range(length), num_replicas=world, rank=rank, shuffle=train, seed=seed)  # type: ignore[arg-type]
        self.length, self.batch_size, self.train = length, batch_size, train
        self.drop_incomplete, self.place = drop_last, place
        self._done: tuple[int, int] | None = None

    def continue_after(self, batches: int) -> None:
        """Leave out the first batches of the current epoch, which a resumed run has trained on."""
        self._done = self.epoch, batches

    def __iter__(self) -> Iterator[Any]:
        epoch = self.epoch if self.train else 0
        done = self._done[1] if self._done is not None and self._done[0] == epoch else 0
        for batch in self._batches()[done:]:
            yield [(int(index), epoch) for index in batch]

    def __len__(self) -> int:
        return len(self._batches())

    def _batches(self) -> list[NDArray[np.int64]]:
        if self.place is not None:
            rank, world = self.place
        else:  # read now, not at construction: the process group may have come up since
            ready = dist.is_available() and dist.is_initialized()
            rank, world = (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)
        return self._train_batches(rank, world) if self.train else self._eval_batches(rank, world)

    def _train_batches(self, rank: int, world: int) -> list[NDArray[np.int64]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([_SHUFFLE, self.seed % 2**64, self.epoch]).permutation(self.length)
        each = -(-self.length // world)
        mine = np.resize(order, each * world)[rank::world]
        batches = [mine[start : start + self.batch_size] for start in range(0, each, self.batch_size)]
        if self.drop_incomplete and len(batches[-1]) < self.batch_size:
            batches.pop()
        if not batches:
            raise LightningMMError(
                f"drop_last leaves no batch: each of {world} ranks has {each} samples, fewer than batch_size "
                f"{self.batch_size}; set drop_last=false or a smaller batch_size"
            )
        return batches

    def _eval_batches(self, rank: int, world: int) -> list[NDArray[np.int64]]:
        if self.length < world:
            raise LightningMMError(
                f"cannot evaluate {self.length} samples on {world} ranks, each needs at least one; use fewer devices"
            )
        mine = np.arange(rank, self.length, world)
        largest, smallest = -(-self.length // world), self.length // world
        count = min(-(-largest // self.batch_size), smallest)  # no rank may need a batch that it cannot fill
        if -(-len(mine) // self.batch_size) == count:
            return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]
        return list(np.array_split(mine, count))


class OrderedBatchSampler(KeyedBatchSampler, SequentialSampler):
    """In data set order: evaluation, and training with ``Trainer(overfit_batches=...)``.

    With ``overfit_batches`` Lightning replaces every sampler that is not a ``SequentialSampler`` by one, without the
    keys; hence the second base, of which only the type is used.
    """

    def __init__(self, length: int, batch_size: int, train: bool, place: tuple[int, int] | None = None) -> None:
        KeyedBatchSampler.__init__(self, length, batch_size, train=train, place=place)
        self.shuffle = False
