"""Nested inputs and outputs as flat lists of named tensors: ``motion`` is ``motion.values`` and ``motion.length``.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import LENGTH, Nest
from lightning_mm.tree import Path, dotted

BATCH = "batch"
"""The name of the batch axis in shapes."""
AVAILABLE = "available"
"""The name of the input ``Bool[B, M]`` of the program for all combinations."""


@dataclass(frozen=True)
class Leaf:
    """One tensor of the input of a modality.

    Args:
        modality: The modality.
        path: The keys that lead to it; empty if the input is a plain tensor.
        shape: Sizes; a variable size is given by its name, the first one ``"batch"``.
        dtype: Its dtype.
    """

    modality: str
    path: Path
    shape: tuple[int | str, ...]
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return dotted((self.modality, *self.path))

    @property
    def inner(self) -> str:
        """Its path inside its input, as fills take it."""
        return ".".join(map(str, self.path))

    @property
    def is_length(self) -> bool:
        """Whether it holds the lengths of padded sequences."""
        return bool(self.path) and self.path[-1] == LENGTH and not self.dtype.is_floating_point

    def sized(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return its shape with these sizes of named axes."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.shape)

    def blank(self, sizes: Mapping[str, int]) -> Tensor:
        """Make a placeholder: zeros, and lengths of one step, since an empty sequence cannot be packed."""
        make = torch.ones if self.is_length else torch.zeros
        return make(self.sized(sizes), dtype=self.dtype)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "path": list(self.path), "shape": list(self.shape), "dtype": name_of(self.dtype)}

    @classmethod
    def from_dict(cls, modality: str, state: Mapping[str, Any]) -> Leaf:
        return cls(modality, tuple(state["path"]), tuple(state["shape"]), dtype_of(state["dtype"]))


def name_of(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """``"float32"`` -> ``torch.float32``.

    Raises:
        LightningMMError: If torch has no such dtype.
    """
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or name_of(found) != name:
        raise LightningMMError(f"expected a dtype of torch such as 'float32', got {name!r}")
    return found


def completed(leaves: Sequence[Leaf], given: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Add placeholders for missing tensors; named axes have the size in ``given``, else the one in ``sizes``."""
    sizes = dict(sizes)
    for leaf in leaves:
        if leaf.name in given:
            shape = given[leaf.name].shape
            sizes |= {called: shape[axis] for axis, called in enumerate(leaf.shape) if isinstance(called, str)}
    return {leaf.name: given[leaf.name] if leaf.name in given else leaf.blank(sizes) for leaf in leaves}


# outputs ------------------------------------------------------------------------------------------------------------


def form_of(outputs: Nest) -> Any:
    """Describe the form of outputs in plain types: None, ``{"tensor": name}``, and dicts, lists and tuples of these.

    Raises:
        LightningMMError: If they hold anything but tensors and None.
    """

    def form(value: Nest, name: str) -> Any:
        if value is None:
            return None
        if isinstance(value, Tensor):
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"dict": {str(key): form(item, f"{name}.{key}") for key, item in value.items()}}
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [form(item, f"{name}.{i}") for i, item in enumerate(value)]}
        raise LightningMMError(
            f"the outputs of the network hold a {type(value).__name__} at {name!r}; an exported program outputs "
            "tensors, and dicts, lists and tuples of them"
        )

    return form(outputs, "output")


def names_in(form: Any) -> list[str]:
    """List the names of the tensors of a form, in the order of :func:`lightning_mm.tree.tensors_of`."""
    if form is None:
        return []
    ((kind, inner),) = form.items()
    if kind == "tensor":
        return [inner]
    if kind not in ("dict", "list", "tuple"):
        raise ValueError(kind)
    return [name for item in (inner.values() if kind == "dict" else inner) for name in names_in(item)]


def formed(form: Any, tensors: Mapping[str, Tensor]) -> Nest:
    """Arrange tensors in a form; named tuples become plain tuples."""
    if form is None:
        return None
    ((kind, inner),) = form.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: formed(item, tensors) for key, item in inner.items()}
    items = [formed(item, tensors) for item in inner]
    return items if kind == "list" else tuple(items)
