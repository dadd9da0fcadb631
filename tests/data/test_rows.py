"""Batches of rows: every present modality exactly once in an epoch, in the order of `switching`, on any ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import Dataset

from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.data.rows import SWITCHINGS, RowBatchSampler
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete, ExactShare, UniformCombinations

ONCE: list[Any] = ["random", "alternate", "half_epoch"]
PRESENT = np.random.default_rng(0).random((23, 3)) < 0.6
ROWS = {(int(i), int(m)) for i, m in np.argwhere(PRESENT)}


class Table(Dataset[Any]):
    """Samples that lack what ``PRESENT`` says; each value is 100 times the index plus the column."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return int(PRESENT.any(1).sum())

    def __getitem__(self, place: int) -> dict[str, Any]:
        index = int(np.flatnonzero(PRESENT.any(1))[place])
        self.read.append(place)
        values = {
            name: torch.tensor([100.0 * place + m]) if PRESENT[index, m] else None for m, name in enumerate("abc")
        }
        return {"inputs": values, "target": place % 2}


def keys(sampler: RowBatchSampler, epoch: int) -> list[list[tuple[int, int, int]]]:
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("switching", ONCE)
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_present_row_is_visited_exactly_once_in_every_epoch(switching: Any, batch_size: int) -> None:
    sampler = RowBatchSampler(PRESENT, switching, batch_size, seed=3)
    orders = []
    for epoch in range(3):
        found = [(index, column) for batch in keys(sampler, epoch) for index, _, column in batch]
        assert sorted(found) == sorted(ROWS)
        assert {each for batch in keys(sampler, epoch) for _, each, _ in batch} == {epoch}
        assert max(map(len, keys(sampler, epoch))) <= batch_size
        assert len(sampler) == len(keys(sampler, epoch))
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]
    again = RowBatchSampler(PRESENT, switching, batch_size, seed=3)
    assert [(index, column) for batch in keys(again, 2) for index, _, column in batch] == orders[2]
    other = RowBatchSampler(PRESENT, switching, batch_size, seed=4)
    assert [(index, column) for batch in keys(other, 2) for index, _, column in batch] != orders[2]


def test_orders_are_what_their_names_say() -> None:
    alternate = [key for batch in keys(RowBatchSampler(PRESENT, "alternate", 5), 0) for key in batch]
    by_sample = [
        index for place, (index, _, _) in enumerate(alternate) if not place or alternate[place - 1][0] != index
    ]
    assert len(by_sample) == len(set(by_sample)), "the rows of a sample are neighbours"
    for index in set(by_sample):
        assert [column for i, _, column in alternate if i == index] == np.flatnonzero(PRESENT[index]).tolist()
    half = keys(RowBatchSampler(PRESENT, "half_epoch", 4), 0)
    columns = [{column for _, _, column in batch} for batch in half]
    assert all(len(one) == 1 for one in columns)
    assert [min(one) for one in columns] == sorted(min(one) for one in columns)
    mixed = keys(RowBatchSampler(PRESENT, "random", 8), 0)
    assert sum(len({column for _, _, column in batch}) > 1 for batch in mixed) == len(mixed)


def test_one_modality_of_each_sample_is_drawn_evenly() -> None:
    sampler, drawn = RowBatchSampler(PRESENT, "per_sample", 4), Counter[tuple[int, int]]()
    for epoch in range(600):
        found = [(index, column) for batch in keys(sampler, epoch) for index, _, column in batch]
        assert sorted(index for index, _ in found) == np.flatnonzero(PRESENT.any(1)).tolist()
        drawn.update(found)
    assert set(drawn) == ROWS
    for index, column in ROWS:
        share = drawn[index, column] / 600
        assert share == pytest.approx(1 / PRESENT[index].sum(), abs=0.08)


@pytest.mark.parametrize("switching", [*ONCE, "per_sample"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_what_one_rank_would_have(switching: Any, world: int) -> None:
    one = keys(RowBatchSampler(PRESENT, switching, 2 * world, place=(0, 1)), 1)
    ranks = [keys(RowBatchSampler(PRESENT, switching, 2, place=(rank, world)), 1) for rank in range(world)]
    assert len({len(each) for each in ranks}) == 1
    assert len(one) == len(ranks[0])
    for step, batch in enumerate(one):
        together = [key for rank in ranks for key in rank[step]]
        assert together[: len(batch)] == batch, "in the same order; only what fills the ranks comes after"
        assert len(together) < len(batch) + world


def test_a_resumed_epoch_continues_where_it_stopped_and_small_batches_are_dropped() -> None:
    sampler = RowBatchSampler(PRESENT, "random", 4)
    whole = keys(sampler, 2)
    sampler.continue_after(3)
    assert list(sampler) == whole[3:]
    dropped = keys(RowBatchSampler(PRESENT, "half_epoch", 4, drop_last=True), 0)
    assert {len(batch) for batch in dropped} == {4}
    with pytest.raises(LightningMMError, match="drop_last leaves no batch: none has batch_size 64 rows on each of 1"):
        keys(RowBatchSampler(PRESENT, "random", 64, drop_last=True), 0)
    with pytest.raises(LightningMMError, match="no training sample has any of the modalities"):
        RowBatchSampler(np.zeros((3, 2), dtype=bool), "random", 4)


def batches(**settings: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"train_policy": Complete(), "switching": "random", "batch_size": 5, "seed": 1, **settings}
    module = ModalityDropoutDataModule(lambda split: Table(), list("abc"), **given)
    module.setup("fit")
    return list(module.train_dataloader())


def test_batches_hold_one_available_modality_in_each_row_and_its_value() -> None:
    seen = []
    for batch in batches():
        assert (batch["available"].sum(1) == 1).all()
        assert (batch["available"] <= batch["observed"]).all()
        for row, index in enumerate(batch["index"].tolist()):
            (column,) = batch["available"][row].nonzero()[:, 0].tolist()
            assert batch["inputs"]["abc"[column]][row] == 100 * index + column
            seen.append((index, column))
    kept = np.flatnonzero(PRESENT.any(1)).tolist()
    assert sorted(seen) == sorted((kept.index(i), m) for i, m in ROWS)


def test_a_table_of_the_policy_is_kept_and_other_policies_are_refused() -> None:
    policy = ExactShare(0.5, block=2, lose=["a"])
    rows = sum(len(batch["index"]) for batch in batches(train_policy=policy))
    present = PRESENT[PRESENT.any(1)]
    drawn = policy.draw(
        ModalityDropoutDataModule(lambda _: Table(), list("abc")).modalities, range(len(present)), epoch=0, seed=1
    ).numpy()
    kept = present & drawn
    assert rows == int(np.where(kept.any(1, keepdims=True), kept, present).sum()) < int(present.sum())
    with pytest.raises(LightningMMError, match=r"'random' visits a fixed set of modalities, but train_policy Uniform"):
        batches(train_policy=UniformCombinations())


@pytest.mark.filterwarnings("ignore:.*returned `None`")
@pytest.mark.parametrize("switching", SWITCHINGS)
def test_overfit_batches_repeats_the_first_rows(switching: Any) -> None:
    seen: list[list[tuple[int, list[bool]]]] = []

    class Rows(LightningModule):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            seen.append(list(zip(batch["index"].tolist(), batch["available"].tolist())))

        def validation_step(self, *_: Any) -> None:
            pass

        def configure_optimizers(self) -> None:
            pass

    data = ModalityDropoutDataModule(lambda _: Table(), list("abc"), Complete(), batch_size=5, switching=switching)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, overfit_batches=1, enable_model_summary=False, **quiet)
    trainer.fit(Rows(), datamodule=data)
    first, again = seen
    assert first == again, "the same rows in every epoch"
    assert [sum(available) for _, available in first] == [1] * 5, "a row is one modality of a sample"
    assert [index for index, _ in first] == sorted(index for index, _ in first)


@pytest.mark.wrong_types
def test_an_unknown_order_is_named() -> None:
    with pytest.raises(LightningMMError, match=r"data\.switching must be one of .* got 'shuffled'"):
        batches(switching="shuffled")
