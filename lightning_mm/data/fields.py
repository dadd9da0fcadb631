"""Fields of samples: what is known of each without reading its inputs, such as its label, site or patient.

Policies of missingness may depend on them.

Shapes: N samples of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch

from lightning_mm.errors import LightningMMError

LABEL, ID = "label", "id"


def field_of(dataset: Any, field: str, name: str = "data set") -> list[str]:
    """Return one value per sample, as text.

    Args:
        dataset: Its attribute ``fields``, ``{field: N values}``, is asked first. ``id`` is its attribute ``ids``, and
            ``label`` the target of each sample: of data sets with a method ``read_some(index, modalities)`` no input
            is read for it, of others every sample is read once.
        field: The name of the field.
        name: Name of the data set in errors.

    Raises:
        LightningMMError: If there is no such field, it has another number of values, or a label is not one number.
    """
    fields = getattr(dataset, "fields", None)
    known: Mapping[str, Sequence[Any]] = fields if isinstance(fields, Mapping) else {}
    if field in known:
        values: list[Any] = list(known[field])
    elif field == ID and getattr(dataset, "ids", None) is not None:
        values = list(dataset.ids)
    elif field == LABEL:
        values = [_label(dataset, index, name) for index in range(len(dataset))]
    else:
        raise LightningMMError(
            f"{name} has no field {field!r}, only {[*known, LABEL]}; give the data set an attribute "
            f"{'ids, one text for each sample' if field == ID else 'fields = {name: one value for each sample}'}"
            f"{'' if field == ID else ', or read the field from a table'}"
        )
    if len(values) != len(dataset):
        raise LightningMMError(
            f"{name}: expected {len(dataset)} values of the field {field!r}, one for each sample, got {len(values)}"
        )
    return [str(value.item() if isinstance(value, np.generic | torch.Tensor) else value) for value in values]


def _label(dataset: Any, index: int, name: str) -> int:
    cheap = knows_parts(dataset, "read_some", "__getitem__")
    sample = dataset.read_some(index, []) if cheap else dataset[index]
    target = sample.get("target") if isinstance(sample, Mapping) else None
    number = target
    if isinstance(target, np.generic | np.ndarray | torch.Tensor) and np.prod(target.shape) == 1:
        number = target.item()
    if not isinstance(number, Integral):
        raise LightningMMError(
            f"{name}: the target of sample {index} is not one whole number, so that it is no {LABEL!r}; give the data "
            f"set an attribute fields = {{{LABEL!r}: one value for each sample}}, or read a field from a table"
        )
    return int(number)


def knows_parts(dataset: object, part: str, whole: str) -> bool:
    """Whether the class that says how a sample is read also says how a part of it is."""
    told = (vars(one) for one in type(dataset).__mro__)
    return next((part in own for own in told if part in own or whole in own), False)
