"""The Lightning data module around any map-style data set of dict samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from lightning_mm.data.collate import Collate, never_empty
from lightning_mm.data.corrupt.base import Corrupt
from lightning_mm.data.datasets.base.splits import SPLITS
from lightning_mm.data.fields import field_of
from lightning_mm.data.hard_table import HardTable
from lightning_mm.data.keyed_dataset import Augmentation, KeyedDataset
from lightning_mm.data.loader_process import begin_loader_process
from lightning_mm.data.rows import SWITCHINGS, OrderedRowBatchSampler, RowBatchSampler, Switching
from lightning_mm.data.sampler import KeyedBatchSampler, OrderedBatchSampler
from lightning_mm.errors import LightningMMError, check_choice, check_whole
from lightning_mm.missing.policies import Complete, MissingnessPolicy, UniformCombinations
from lightning_mm.modalities import Modalities

_SPLITS_OF_STAGE = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}
_HISTOGRAM_SAMPLES = 100_000
_HISTOGRAM_ROWS = 32


class ModalityDropoutDataModule(LightningDataModule):
    """Loads batches in which some modalities are marked as absent; what was observed is never overwritten.

    A batch is ``{"inputs": {name: [B, ...]}, "available": Bool[B, M], "observed": Bool[B, M], "target": [B, ...],
    "index": Int64[B]}``. Shuffling, augmentation and dropping are pure functions of (seed, sample index, epoch), so
    that they do not change with the number of workers or devices, and a resumed run sees what the uninterrupted one
    would have seen. Validation, test and prediction (on the test split) use epoch 0 and count every sample once over
    all devices.

    Args:
        dataset: Called with ``train``, ``val`` or ``test``; returns a map-style data set of
            ``{"inputs": {modality: value or None}, "target": ...}``. If a whole split may lack a modality, a method
            ``template(modality, sample)`` returns a value of the shape that it would have in a sample.
        modalities: Modalities to load, in the order of the masks' columns; a part of those of the data set is allowed.
        train_policy: What to drop in training; ``UniformCombinations()`` when not given. What policies may know of the
            samples, such as their label, comes from the data set, see :func:`lightning_mm.data.fields.field_of`.
        val_policy: What to drop in validation; nothing when not given.
        test_policy: What to drop in test and prediction; nothing when not given.
        augment: Called with a training sample and a numpy generator; returns the augmented sample.
        batch_size: Samples in a training batch of one device.
        eval_batch_size: Samples in other batches of one device; ``batch_size`` when not given.
        num_workers: Processes that load; 0 loads in the main process.
        pin_memory: Whether to copy batches into page-locked memory.
        persistent_workers: Whether workers stay alive between epochs; without workers it has no effect.
        prefetch_factor: Batches each worker loads ahead; without workers it has no effect.
        drop_last: Whether training leaves out the last batch when it is smaller.
        seed: Seed of shuffling, augmentation and dropping.
        switching: Train on one modality of a sample at a time, in the order ``random``, ``alternate``, ``half_epoch``
            or ``per_sample`` of :class:`~lightning_mm.data.rows.RowBatchSampler`; a batch has ``batch_size`` such rows.
            ``train_policy`` must then draw the same modalities in every epoch. A sample is read once for each of its
            modalities in an epoch, and once before the first, to know which it has.
        train_observed: A hard table of what exists in the training split at all, in every epoch, such as
            :class:`~lightning_mm.missing.PairedShare`, :class:`~lightning_mm.missing.MissingRates` or
            :class:`~lightning_mm.missing.CsvTable`; the rest is never shown, nor read if the data set can leave it
            unread, see :class:`~lightning_mm.data.hard_table.HardTable`.
        corrupt: Modalities that are there, but damaged: ``train``, ``val`` or ``test`` to modality to a corruption,
            such as :class:`~lightning_mm.data.GaussianNoise`, or any callable of the input and a numpy generator. It is
            applied to single samples, after augmentation; what a sample lacks stays absent.

    Raises:
        LightningMMError: If a setting is out of range; in ``setup``, if a split is empty or does not know a modality;
            when training starts, if ``train_policy`` does not go with ``switching``.
    """

    def __init__(
        self,
        dataset: Callable[[str], Dataset[Any]],
        modalities: list[str],
        train_policy: MissingnessPolicy | None = None,
        val_policy: MissingnessPolicy | None = None,
        test_policy: MissingnessPolicy | None = None,
        augment: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        drop_last: bool = False,
        seed: int = 0,
        switching: Switching | None = None,
        train_observed: MissingnessPolicy | None = None,
        corrupt: dict[str, dict[str, Callable[[Any, Any], Any]]] | None = None,
    ) -> None:
        super().__init__()
        if switching is not None:
            check_choice("data.switching", switching, SWITCHINGS)
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_workers": num_workers}
        for name, value in sizes.items():
            if value is not None:
                check_whole(f"data.{name}", value, 0 if name == "num_workers" else 1)
        self.dataset = dataset
        self.modalities = Modalities(modalities)
        self.policies: dict[str, MissingnessPolicy] = {
            "train": train_policy or UniformCombinations(),
            "val": val_policy or Complete(),
            "test": test_policy or Complete(),
        }
        self.augment: Augmentation | None = augment
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.persistent_workers, self.prefetch_factor = persistent_workers, prefetch_factor
        self.drop_last, self.seed, self.switching = drop_last, seed, switching
        self.train_observed = train_observed
        for split in corrupt or {}:
            check_choice("data.corrupt", split, SPLITS)
        self.corrupt: dict[str, dict[str, Corrupt]] = corrupt or {}
        self._splits: dict[str, KeyedDataset] = {}
        self._fields: dict[tuple[str, str], list[str]] = {}
        self._remarked: set[str] = set()

    def setup(self, stage: str) -> None:
        for split in _SPLITS_OF_STAGE[stage]:
            self._split(split)
            if split not in self._remarked:
                self._remarked.add(split)
                for remark in self.remarks(split):
                    rank_zero_info(f"{self._split(split).name}: {remark}")
        if stage == "fit":
            counts = self.histogram("train")
            rank_zero_info(_describe(counts, self.policies["train"], self._split("train").name))

    def train_dataloader(self) -> DataLoader[Any]:
        length = len(self._split("train"))
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", False):
            if self.switching is None:
                return self._loader("train", OrderedBatchSampler(length, self.batch_size, train=True))
            rows = OrderedRowBatchSampler(self._present(), self.switching, self.batch_size, seed=self.seed)
            return self._loader("train", rows)
        settings: dict[str, Any] = {"batch_size": self.batch_size, "drop_last": self.drop_last, "seed": self.seed}
        if self.switching is None:
            sampler = KeyedBatchSampler(length, train=True, **settings)
        else:
            sampler = RowBatchSampler(self._present(), self.switching, **settings)
        if self.trainer is not None:
            # Lightning sets the epoch after it has made the iterator, and on resume does not make another: worker
            # processes would have started with the batches of epoch 0 by then
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
            batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress
            if self.trainer.fit_loop.epoch_loop.restarting and not batches.is_last_batch:
                sampler.continue_after(batches.current.processed)  # stopped in the middle of an epoch
        return self._loader("train", sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self._eval_sampler("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self._eval_sampler("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self._eval_sampler("test"))

    def plain_dataloader(
        self, split: str, whole: bool = False, corrupt: Mapping[str, Corrupt] | None = None
    ) -> DataLoader[Any]:
        """Load a split in order, every sample once, without augmentation and with all modalities that it observed.

        Args:
            split: ``train``, ``val`` or ``test``.
            whole: Whether a data set that draws another part of a sample in every epoch gives whole samples.
            corrupt: Modality to what damages it; nothing is damaged when not given, whatever the setting ``corrupt``.
        """
        given = self._split(split)
        dataset = KeyedDataset(given.dataset, self.modalities, None, self.seed, given.name, whole, corrupt)
        return self._loader(split, self._eval_sampler(split), dataset, Complete())

    def histogram(self, split: str, epoch: int = 0) -> dict[str, int]:
        """Count the samples of a split that are shown with each combination in an epoch.

        Counts what the policy draws, without reading the data: modalities that the data set lacks are not counted.
        Of longer data sets the first 100 000 samples are counted.
        """
        size = min(len(self._split(split)), _HISTOGRAM_SAMPLES)
        policy = self.bound(self.policies[split], split)
        drawn = policy.draw(self.modalities, range(size), epoch=epoch, seed=self.seed)
        table = self._split(split).dataset
        if isinstance(table, HardTable):
            exists = table.available[:size]
            left = drawn & exists
            drawn = torch.where(left.any(1, keepdim=True), left, exists)
        if not drawn.any(1).all():
            raise LightningMMError(
                f"{self._split(split).name}: {self.policies[split]!r} leaves samples without any modality; a table of "
                "what exists belongs in data.train_observed, which leaves such samples out"
            )
        rows, counts = torch.unique(drawn, dim=0, return_counts=True)
        named = {self.modalities.name(row): int(count) for row, count in zip(rows, counts)}
        return {name: named[name] for name in self.modalities.select(list(named))}

    def bound(self, policy: MissingnessPolicy, split: str) -> MissingnessPolicy:
        """Give a policy the fields of the samples of a split, if it depends on some.

        The policies of the data module are bound when they are used.

        Args:
            policy: Any policy.
            split: ``train``, ``val`` or ``test``.
        """
        return policy.bound(partial(self._field, split))

    def _field(self, split: str, field: str) -> list[str]:
        if (split, field) not in self._fields:  # labels may have to be read with their samples
            given = self._split(split)
            own = given.dataset.field if isinstance(given.dataset, HardTable) else partial(field_of, given.dataset)
            self._fields[split, field] = own(field, given.name)
        return self._fields[split, field]

    def remarks(self, split: str) -> list[str]:
        """What a data set says of the modalities that are loaded, e.g. how it handles numbers that are missing.

        They are in its attribute ``remarks``, modality to one sentence, if it has one.
        """
        remarks = getattr(self._split(split).dataset, "remarks", None)
        known = remarks if isinstance(remarks, Mapping) else {}
        return [str(known[name]) for name in self.modalities if name in known]

    def redraws(self) -> bool:
        """Whether the training data set returns other samples in other epochs, before augmentation."""
        return self._split("train").redraws

    def _present(self) -> NDArray[np.bool_]:
        """The modalities of each training sample that are observed and not dropped in any epoch, ``Bool[N, M]``."""
        dataset, policy = self._split("train"), self.bound(self.policies["train"], "train")
        index = range(len(dataset))
        first, second = (policy.draw(self.modalities, index, epoch=epoch, seed=self.seed) for epoch in (0, 1))
        if not torch.equal(first, second):
            raise LightningMMError(
                f"data.switching={self.switching!r} visits a fixed set of modalities, but train_policy {policy!r} "
                "draws others in every epoch; use Complete, or a table such as ExactShare or SavedTable"
            )
        observed = torch.from_numpy(dataset.observed())
        return never_empty(observed & first, observed).numpy()

    def _split(self, split: str) -> KeyedDataset:
        if split not in self._splits:
            dataset = self.dataset(split)
            augment = self.augment if split == "train" else None
            name = f"{type(dataset).__name__} ({split})"
            if split == "train" and self.train_observed is not None:
                dataset = HardTable(dataset, self.modalities, self.train_observed, self.seed, name)
            corrupt = self.corrupt.get(split)
            self._splits[split] = KeyedDataset(dataset, self.modalities, augment, self.seed, name, corrupt=corrupt)
        return self._splits[split]

    def _eval_sampler(self, split: str) -> OrderedBatchSampler:
        return OrderedBatchSampler(len(self._split(split)), self.eval_batch_size, train=False)

    def _loader(
        self,
        split: str,
        sampler: KeyedBatchSampler,
        dataset: KeyedDataset | None = None,
        policy: MissingnessPolicy | None = None,
    ) -> DataLoader[Any]:
        dataset = dataset or self._split(split)
        workers = self.num_workers > 0
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,  # the sampler yields whole batches of keys
            collate_fn=Collate(
                self.modalities, self.bound(policy or self.policies[split], split), self.seed, dataset.template
            ),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.persistent_workers and workers,
            prefetch_factor=self.prefetch_factor if workers else None,
            worker_init_fn=begin_loader_process if workers else None,
        )


def _describe(counts: dict[str, int], policy: MissingnessPolicy, name: str) -> str:
    total = sum(counts.values())
    lines = [f"{name}: {total} samples, combinations drawn in epoch 0 by {policy!r}:"]
    frequent = sorted(counts, key=lambda combination: -counts[combination])[:_HISTOGRAM_ROWS]
    shown = [combination for combination in counts if combination in frequent]
    lines += [f"  {combination}: {counts[combination]} ({counts[combination] / total:.1%})" for combination in shown]
    if len(shown) < len(counts):
        lines.append(f"  and {len(counts) - len(shown)} less frequent ones")
    return "\n".join(lines)
