"""Samplers: who reads what, over epochs and ranks."""

import itertools

import pytest
import torch.distributed as dist
from torch.utils.data import DistributedSampler, SequentialSampler

from lightning_mm.data.sampler import KeyedBatchSampler, OrderedBatchSampler
from lightning_mm.errors import LightningMMError


def _ranks(length: int, batch_size: int, train: bool, world: int, **settings) -> list[list[list[tuple[int, int]]]]:
    return [
        list(KeyedBatchSampler(length, batch_size, train, place=(rank, world), **settings)) for rank in range(world)
    ]


def _indices(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [index for batch in batches for index, _ in batch]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("length", [4, 5, 7, 10, 16, 33])
def test_evaluation_counts_every_sample_once_with_equally_many_batches(
    length: int, batch_size: int, world: int
) -> None:
    ranks = _ranks(length, batch_size, train=False, world=world)
    assert sorted(itertools.chain.from_iterable(map(_indices, ranks))) == list(range(length))
    assert len({len(batches) for batches in ranks}) == 1
    for rank, batches in enumerate(ranks):
        assert len(KeyedBatchSampler(length, batch_size, False, place=(rank, world))) == len(batches)
        assert all(1 <= len(batch) <= batch_size + 1 for batch in batches)
        assert all(epoch == 0 for batch in batches for _, epoch in batch)


def test_evaluation_on_one_rank_is_in_order_with_full_batches() -> None:
    sampler = OrderedBatchSampler(5, 2, train=False)
    sampler.set_epoch(3)
    assert list(sampler) == [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0)]]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 7, 12])
def test_training_covers_all_samples_and_ranks_are_equally_long(length: int, world: int) -> None:
    ranks = _ranks(length, 2, train=True, world=world)
    sizes = [[len(batch) for batch in batches] for batches in ranks]
    assert all(size == sizes[0] for size in sizes)
    indices = list(itertools.chain.from_iterable(map(_indices, ranks)))
    assert set(indices) == set(range(length))
    assert len(indices) - length < world  # no more padding than needed


def test_the_order_is_keyed_by_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = KeyedBatchSampler(40, 8, train=True, seed=seed)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert {key[1] for batch in batches for key in batch} == {epoch}
        return _indices(batches)

    orders = [order(seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert all(sorted(indices) == list(range(40)) for indices in orders)
    assert len({tuple(indices) for indices in orders}) == 4
    assert order(1, 1) == orders[3]


def test_drop_last() -> None:
    assert [len(batch) for batch in _ranks(11, 4, True, 1, drop_last=True)[0]] == [4, 4]
    assert [len(batch) for batch in _ranks(12, 4, True, 1, drop_last=True)[0]] == [4, 4, 4]
    with pytest.raises(LightningMMError, match="drop_last leaves no batch: each of 2 ranks has 2 samples"):
        _ranks(3, 4, True, 2, drop_last=True)


def test_ranks_are_read_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = KeyedBatchSampler(10, 2, train=False)
    assert len(sampler) == 5
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 5)
    assert list(sampler) == [[(1, 0), (6, 0)]]


def test_fewer_samples_than_ranks() -> None:
    with pytest.raises(LightningMMError, match="cannot evaluate 2 samples on 3 ranks, each needs at least one"):
        _ranks(2, 1, False, 3)


def test_lightning_leaves_the_samplers_in_place() -> None:
    """By the types that Lightning asks for."""
    assert isinstance(KeyedBatchSampler(3, 1, True), DistributedSampler)
    assert isinstance(OrderedBatchSampler(3, 1, True), SequentialSampler)
    overfit = OrderedBatchSampler(3, 2, train=True)
    overfit.set_epoch(4)
    assert list(overfit) == [[(0, 4), (1, 4)], [(2, 4)]]
