"""A data set read by ``(index, epoch)`` keys: checks samples and augments them by (seed, index, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_mm.data.collate import check_sample
from lightning_mm.data.corrupt.base import Corrupt, corrupted
from lightning_mm.data.sampler import Key, RowKey
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities

Sample = dict[str, Any]
Augmentation = Callable[[Sample, np.random.Generator], Sample]

KEPT = ("corner",)
"""Other entries of a sample that reach the batch: the first position of a crop in the whole sample."""
_AUGMENT = 0xA6  # keeps this stream of random numbers apart from the sampler's
_DRAW = 0xD4  # and this one from the augmentation's
_SEARCH = 64  # samples searched for the name of a modality that the first one lacks


class KeyedDataset(Dataset[list[Sample]]):
    """Reads lists of keys from a map-style data set.

    Args:
        dataset: ``dataset[i] -> {"inputs": {modality: value or None}, "target": ...}`` with a length. If it has a
            method ``draw_sample(i, rng)``, that is called instead with a generator keyed by (seed, index, epoch):
            for data sets that read another part of a long recording in every epoch. If it has a method
            ``template(modality, sample)``, it returns a value (its numbers do not matter) of the shape that a modality
            would have next to the inputs of a sample that was read and augmented, or None if it cannot say: for data
            sets of which a whole split may lack a modality.
        modalities: The modalities to keep; other inputs are left out.
        augment: Called with the sample and a generator keyed by (seed, index, epoch).
        seed: Seed of the augmentation.
        name: Name of the data set in errors, e.g. ``Scenes (train)``.
        whole: Whether ``dataset[i]`` is read even if there is a ``draw_sample``.
        corrupt: Modality to what damages it, after augmentation, by (seed, index, epoch, modality) alone.

    Raises:
        LightningMMError: If the data set is empty, has no length, or does not know one of the modalities, or
            ``corrupt`` names another one; when read, if a sample has another form or none of the modalities.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        modalities: Modalities,
        augment: Augmentation | None = None,
        seed: int = 0,
        name: str = "data set",
        whole: bool = False,
        corrupt: Mapping[str, Corrupt] | None = None,
    ) -> None:
        self.dataset, self.modalities, self.augment, self.seed, self.name = dataset, modalities, augment, seed, name
        self.whole, self.corrupt = whole, dict(corrupt or {})
        for modality in self.corrupt:
            if modality not in modalities:
                raise LightningMMError(f"corrupt: unknown modality {modality!r}; expected some of {list(modalities)}")
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise LightningMMError(f"{name}: expected a data set with __len__ and __getitem__, got {dataset!r}")
        if len(dataset) == 0:
            raise LightningMMError(f"{name}: the data set is empty; expected at least one sample")
        self._found: dict[str, Any] = {}
        self._check_names()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def redraws(self) -> bool:
        """Whether a sample may be another one in another epoch, before it is augmented."""
        return not self.whole and hasattr(self.dataset, "draw_sample")

    def __getitem__(self, keys: Sequence[Key | RowKey]) -> list[Sample]:
        return [
            self.read(index, epoch) if not column else {**self.read(index, epoch), "column": column[0]}
            for index, epoch, *column in keys
        ]

    def read(self, index: int, epoch: int) -> Sample:
        """Read one sample: wanted inputs (None if not observed), ``target``, ``index``, ``epoch``, and a ``corner``."""
        raw = self._raw(index, self._generator(_DRAW, index, epoch) if self.redraws else None)
        inputs = {name: raw["inputs"].get(name) for name in self.modalities}
        if all(value is None for value in inputs.values()):
            raise LightningMMError(
                f"{self.name}: sample {index} has none of the modalities {list(self.modalities)}, only "
                f"{sorted(map(str, raw['inputs']))}; leave such samples out of the data set"
            )
        sample: Sample = {"inputs": inputs, "target": raw["target"], **{key: raw[key] for key in KEPT if key in raw}}
        if self.augment is not None:
            sample = self.augment(sample, self._generator(_AUGMENT, index, epoch))
        if self.corrupt:
            sample = corrupted(sample, self.corrupt, self.seed, index, epoch)
        return {**sample, "index": index, "epoch": epoch}

    def observed(self) -> NDArray[np.bool_]:
        """Which modalities each sample has, ``Bool[N, M]``; reads every sample once."""
        inputs = [self._raw(index)["inputs"] for index in range(len(self))]
        return np.array([[one.get(name) is not None for name in self.modalities] for one in inputs])

    def template(self, modality: str, sample: Mapping[str, Any]) -> Any:
        """Return a value of the shape that a modality would have in a sample without it, for placeholders.

        It is what the data set's own ``template`` gives, else the first value of the modality that any sample has.

        Raises:
            LightningMMError: If neither is there.
        """
        if hasattr(self.dataset, "template"):
            offered = self.dataset.template(modality, sample)
            if offered is not None:
                return offered
        if modality not in self._found:
            self._found[modality] = self._first(modality)
        return self._found[modality]

    def _first(self, modality: str) -> Any:
        for index in range(len(self)):
            if self._raw(index)["inputs"].get(modality) is not None:
                return self.read(index, 0)["inputs"][modality]
        raise LightningMMError(
            f"{self.name}: no sample has modality {modality!r}, so its shape is unknown; drop it from data.modalities, "
            "or give the data set a method template(modality, sample) that returns a value of that shape"
        )

    def _generator(self, stream: int, index: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([stream, self.seed % 2**64, index, epoch])

    def _raw(self, index: int, rng: np.random.Generator | None = None) -> Mapping[str, Any]:
        dataset: Any = self.dataset
        sample = dataset[index] if rng is None else dataset.draw_sample(index, rng)
        check_sample(sample, self.name, index)
        return sample

    def _check_names(self) -> None:
        """Report mistyped names at once; single samples may lack a modality, so several are checked."""
        known: set[str] = set()
        for index in range(min(len(self), _SEARCH)):
            known |= set(self._raw(index)["inputs"])
            unknown = [name for name in self.modalities if name not in known]
            if not unknown:
                return
        raise LightningMMError(
            f"{self.name}: unknown modality {unknown[0]!r}; the data set has {sorted(known)} (a modality that is "
            f"rarely there must be given as None in one of the first {_SEARCH} samples)"
        )
