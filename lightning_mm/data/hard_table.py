"""A training set in which some modalities of some samples do not exist.

Shapes: N samples of the data set, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.fields import field_of, knows_parts
from lightning_mm.errors import LightningMMError
from lightning_mm.missing.csv_table import CsvTable
from lightning_mm.missing.only_complete import OnlyComplete, complete_rows
from lightning_mm.missing.policies import MissingnessPolicy
from lightning_mm.modalities import Modalities


class HardTable(Dataset[dict[str, Any]]):
    """Hides what a table says does not exist, in every epoch and from everything that reads the training set.

    Unlike a policy that drops modalities at random, under which every value is seen sooner or later. A data set with a
    method ``read_some(index, modalities)``, which returns a sample with these inputs, is asked for what exists only, so
    that other files are not opened and need not be there; of other data sets (also of a subclass with a
    ``__getitem__`` of its own and no such method) samples are read whole and the rest of them is thrown away. The same
    holds for ``draw_some(index, rng, modalities)`` and ``draw_sample``. Samples of which nothing exists are left out. A
    data set that computes something from all samples, such as their mean, may have a method ``hide``; it is called once
    with ``{modality: Bool[N]}``, the samples that have each modality that is loaded.

    Args:
        dataset: ``dataset[i] -> {"inputs": {modality: value or None}, "target": ...}``.
        modalities: The modalities that are loaded.
        table: Says what exists; it must say the same in every epoch. A :class:`~lightning_mm.missing.CsvTable` looks
            samples up by the attribute ``ids`` of the data set.
        seed: Seed of the draw.
        name: Name of the data set in errors.

    Attributes:
        available: ``Bool[n, M]`` of the n samples that are left.

    Raises:
        LightningMMError: If no sample is left, the table draws something else in another epoch, or it goes by names and
            the data set does not name its samples.
    """

    available: Bool[Tensor, "sample modality"]

    def __init__(
        self, dataset: Any, modalities: Modalities, table: MissingnessPolicy, seed: int, name: str = "data set"
    ) -> None:
        drawn = _drawn(dataset, modalities, table.bound(partial(field_of, dataset, name=name)), seed, name)
        self.rows = drawn.any(1).nonzero()[:, 0].tolist()
        if not self.rows:
            raise LightningMMError(f"{name}: the table {table!r} leaves no sample any of {list(modalities)}")
        self.dataset, self.modalities, self.available = dataset, modalities, drawn[torch.tensor(self.rows)]
        if hasattr(dataset, "hide"):
            dataset.hide({one: drawn[:, column].numpy() for column, one in enumerate(modalities)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._hidden(index, None)

    def field(self, field: str, name: str = "data set") -> list[str]:
        """The values of a field of the samples that are left, see :func:`~lightning_mm.data.fields.field_of`."""
        values = field_of(self.dataset, field, name)
        return [values[row] for row in self.rows]

    def __getattr__(self, name: str) -> Any:
        # what only some data sets have; asked for by hasattr
        if name in ("template", "remarks", "redraws", "class_names") and "dataset" in vars(self):
            return getattr(self.dataset, name)
        if name == "draw_sample" and "dataset" in vars(self) and hasattr(self.dataset, name):
            return self._hidden
        raise AttributeError(name)

    def _hidden(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        row, exists = self.rows[index], self.available[index].tolist()
        names = [name for name, there in zip(self.modalities, exists) if there]
        sample: Mapping[str, Any]
        if rng is not None and knows_parts(self.dataset, "draw_some", "draw_sample"):
            sample = self.dataset.draw_some(row, rng, names)
        elif rng is not None:
            sample = self.dataset.draw_sample(row, rng)
        elif knows_parts(self.dataset, "read_some", "__getitem__"):
            sample = self.dataset.read_some(row, names)
        else:
            sample = self.dataset[row]
        if not isinstance(sample, Mapping) or not isinstance(sample.get("inputs"), Mapping):
            return sample  # type: ignore[return-value]  # refused by name by whoever reads it
        # a mistyped modality is left out, and reported by who reads the sample
        known = [name for name in self.modalities if name in sample["inputs"] or name not in names]
        return {**sample, "inputs": {name: sample["inputs"].get(name) if name in names else None for name in known}}


def _drawn(
    dataset: Any, modalities: Modalities, table: MissingnessPolicy, seed: int, name: str
) -> Bool[Tensor, "sample modality"]:
    if isinstance(table, OnlyComplete):
        return complete_rows(_drawn(dataset, modalities, table.table, seed, name))
    if not isinstance(table, CsvTable):
        drawn, *later = (table.draw(modalities, range(len(dataset)), epoch=epoch, seed=seed) for epoch in range(4))
        if not all(torch.equal(drawn, one) for one in later):
            raise LightningMMError(
                f"{name}: data.train_observed says what exists at all, but {table!r} draws something else in every "
                "epoch; use MissingRates, PairedShare, ExactShare or SavedTable, put it into SameEveryEpoch, or give "
                "it as data.train_policy"
            )
        return drawn
    ids = getattr(dataset, "ids", None)
    if ids is None or len(ids) != len(dataset):
        raise LightningMMError(
            f"{name} does not name its samples (an attribute ids, one text for each), which the table {table.path} "
            "looks up; use a table by position, such as MissingRates or SavedTable"
        )
    return table.draw_named(modalities, [str(one) for one in ids])
