"""MAR and MNAR: whether a modality is missing depends on a field of the sample, such as its site or its label.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError, shown
from lightning_mm.missing.mechanisms.field_table import field_values
from lightning_mm.missing.mechanisms.groups import (
    PMissing,
    all_modalities,
    check_p_missing,
    draw_groups,
    shares_present,
)
from lightning_mm.missing.policies import Fields, MissingnessPolicy
from lightning_mm.modalities import Modalities


class DependsOnField(MissingnessPolicy):
    """Each value of a field has its own shares of missing modalities.

    With metadata (``subject``, ``site``, day or night) this is *missing at random* (MAR); with ``field: label`` it is
    *missing not at random* (MNAR). The share that is missing in the end among the samples of a value is what the
    settings say, up to chance; no sample is left without any modality. A draw depends on the seed, the sample index,
    the epoch and the sample's own value, and on nothing else.

    The data module gets the values from the data set: ``label`` is its target, if that is one number, ``id`` its
    attribute ``ids``; all others come from its attribute ``fields``, ``{name: one value per sample}``.

    Args:
        field: Name of the field.
        p_missing: Value of the field, as text, to one share for all modalities, or to modality and share; modalities
            that are not named are never missing.
        default: The same for all other values; by default they are an error.
        table: A CSV file to read the field from: its first column holds the name of a sample (an ``id`` of the data
            set, or the part of it before a ``/``), and the column headed ``field`` the value.
        of: All modalities, written like a combination (``audio+video``), if fewer are loaded: the draw is that of all
            of them, and rows of samples that have none of those loaded are empty; a hard table leaves these out.

    Raises:
        LightningMMError: If a share is out of range; in :meth:`bound`, if the data set has no such field or a value has
            no setting; in :meth:`draw`, if so much would be missing that empty rows cannot be avoided.

    Example:
        >>> policy = DependsOnField("site", {"A": {"depth": 0.9}, "B": 0.0})
        >>> policy = policy.bound({"site": ["A", "B"] * 5_000}.__getitem__)  # the data module does this
        >>> drawn = policy.draw(Modalities(["rgb", "depth"]), range(10_000), epoch=0, seed=0)
        >>> [(~drawn[site::2]).float().mean(0).mul(10).round().tolist() for site in (0, 1)]
        [[0.0, 9.0], [0.0, 0.0]]

    Reference:
        Rubin: Inference and missing data, Biometrika 1976, for the terms.
    """

    def __init__(
        self,
        field: str,
        p_missing: dict[str, float | dict[str, float]],
        default: float | dict[str, float] | None = None,
        table: str | None = None,
        of: str | None = None,
    ) -> None:
        settings: dict[str, PMissing] = {str(value): one for value, one in p_missing.items()}
        if not settings and default is None:
            raise LightningMMError("DependsOnField: p_missing names no value of the field; name one, or give a default")
        for value, one in settings.items():
            check_p_missing(f"DependsOnField: p_missing of {value!r}", one)
        if default is not None:
            check_p_missing("DependsOnField: default", default)
        self.field, self.p_missing, self.default, self.table, self.of = field, settings, default, table, of
        self._values: Sequence[str] | None = None

    def bound(self, fields: Fields) -> DependsOnField:
        values = field_values(self.field, self.table, fields)
        found = sorted(set(values))
        strangers = [value for value in found if value not in self.p_missing]
        if strangers and self.default is None:
            raise LightningMMError(
                f"DependsOnField: p_missing names {shown(list(self.p_missing))} of the field {self.field!r}, and the "
                f"samples have {shown(found)}; name {strangers[0]!r} too, or give a default for all others"
            )
        if self.p_missing and len(strangers) == len(found):
            raise LightningMMError(
                f"DependsOnField: p_missing names {shown(list(self.p_missing))} of the field {self.field!r}, and no "
                f"sample has one of these; the samples have {shown(found)}"
            )
        policy = copy(self)
        policy._values = values
        return policy

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        if self._values is None:
            raise LightningMMError(
                f"{self!r} needs the field {self.field!r} of the samples: ModalityDropoutDataModule gets it from the "
                "data set; elsewhere call bound first, such as bound({'site': [...]}.__getitem__)"
            )
        every = all_modalities(modalities, self.of, repr(self))
        settings: list[PMissing] = list(self.p_missing.values())
        if self.default is not None:
            settings.append(self.default)
        numbers = {value: number for number, value in enumerate(self.p_missing)}
        group = [numbers.get(self._values[place], len(numbers)) for place in np.asarray(index).tolist()]
        return draw_groups(
            [shares_present(one, every, repr(self)) for one in settings],
            np.array(group, dtype=np.int64),
            modalities,
            index,
            epoch=epoch,
            seed=seed,
            who=repr(self),
        )
