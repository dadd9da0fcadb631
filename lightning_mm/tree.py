"""Maps over nests: dicts, lists, tuples and named tuples of tensors, arrays, texts and other values.

- A **leaf** is every value that is not a mapping, list or tuple; None, texts and packed sequences are leaves too.
- A **column** is a list of one plain value per sample (texts, paths, numbers; None if missing), or a tuple of texts. A
  tuple of numbers is a setting such as a size, and a list of tensors or arrays is a container.
- A **batch leaf** has one row per sample: a tensor or array with the samples on its first axis, or a column. So
  :class:`lightning_mm.data.Collate` batches: it stacks tensors and arrays, makes a tensor of numbers and a list of
  texts, and keeps the containers around them. All other leaves are the same for all samples.

Maps keep the type of containers: named tuples, dict subclasses such as ``ModelOutput``, ``UserDict``; other mappings
become dicts. Maps run under ``torch.compile``, ``torch.export`` and ``torch.jit.trace``.

Shapes: B samples, N of them taken.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_mm.errors import LightningMMError

Path = tuple[Any, ...]
"""The keys and positions that lead to a leaf."""


def is_column(nest: Any) -> bool:
    """Whether a list or tuple holds one plain value per sample.

    Example:
        >>> is_column(["a", None]), is_column((2, 2)), is_column([torch.ones(2), torch.ones(2)])
        (True, False, False)
    """
    if not isinstance(nest, (list, tuple)) or hasattr(nest, "_fields"):
        return False
    for item in nest:
        if isinstance(item, (Tensor, np.ndarray, list, tuple, Mapping)):
            return False
        if isinstance(nest, tuple) and not isinstance(item, (str, bytes)):
            return False
    return len(nest) > 0


def never(nest: Any) -> bool:
    """No container is a leaf."""
    return False


def map_leaves(
    nest: Any, change: Callable[[Path, Any], Any], path: Path = (), is_leaf: Callable[[Any], bool] = never
) -> Any:
    """Replace every leaf by ``change(path, leaf)``.

    Args:
        nest: Stays as it is.
        change: Called in the order of the nest.
        path: The path of the nest itself.
        is_leaf: Which containers are leaves as well, such as :func:`is_column`.
    """
    if isinstance(nest, Tensor):  # first, as it is the most frequent
        return change(path, nest)
    if isinstance(nest, Mapping) and not is_leaf(nest):
        return rebuild(nest, {key: map_leaves(item, change, (*path, key), is_leaf) for key, item in nest.items()})
    if isinstance(nest, (list, tuple)) and not isinstance(nest, PackedSequence) and not is_leaf(nest):
        return rebuild(nest, [map_leaves(item, change, (*path, i), is_leaf) for i, item in enumerate(nest)])
    return change(path, nest)


def rebuild(like: Any, items: Any) -> Any:
    """Make a container of the type of another one from a dict (for mappings) or a list of its new items."""
    if isinstance(like, Mapping):
        if type(like) is OrderedDict:
            return OrderedDict(items)  # torch.compile cannot copy it
        if type(like) is dict or not isinstance(like, (dict, UserDict)):
            return items
        made = copy.copy(like)  # it may hold more than its items
        for key, item in items.items():
            made[key] = item
        return made
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def map_tensors(nest: Any, change: Callable[[Tensor], Any]) -> Any:
    """Replace every tensor by ``change(tensor)``; other leaves stay."""
    return map_leaves(nest, lambda path, leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def leaves_of(nest: Any, is_leaf: Callable[[Any], bool] = never) -> list[tuple[Path, Any]]:
    """All leaves in order, each with its path; ``is_leaf`` as in :func:`map_leaves`."""
    found: list[tuple[Path, Any]] = []
    map_leaves(nest, lambda path, leaf: found.append((path, leaf)), (), is_leaf)
    return found


def tensors_of(nest: Any) -> list[Tensor]:
    """All tensors in order."""
    return [leaf for _, leaf in leaves_of(nest) if isinstance(leaf, Tensor)]


def dotted(path: Path) -> str:
    """A path as text: ``("text", "ids", 0)`` is ``"text.ids.0"``."""
    return ".".join([str(key) for key in path])


def rows_of(leaf: Any) -> int | None:
    """Number of rows of a batch leaf; None for other leaves."""
    if isinstance(leaf, (Tensor, np.ndarray)):
        return leaf.shape[0] if leaf.ndim else None
    return len(leaf) if is_column(leaf) else None


def batch_size(nest: Any) -> int | None:
    """Number of samples: rows of the first tensor that has rows, else of the first other batch leaf, else None."""
    if isinstance(nest, Tensor) and nest.ndim:
        return nest.shape[0]
    others: list[int] = []
    for _, leaf in leaves_of(nest, is_column):
        rows = rows_of(leaf)
        if rows is not None and isinstance(leaf, Tensor):
            return rows
        if rows is not None:
            others.append(rows)
    return others[0] if others else None


def take_rows(nest: Any, rows: Tensor, size: int, shared: Collection[str] = ()) -> Any:
    """Take some samples out of a batch.

    Args:
        nest: Leaves that are not batch leaves of ``size`` rows stay as they are.
        rows: Positions of the samples, ``Int64[N]``.
        size: Number of samples B of the batch.
        shared: Dotted paths of leaves that are the same for all samples, even if they have ``size`` rows.

    Example:
        >>> take_rows({"ids": torch.arange(3), "caption": ["a", "b", "c"]}, torch.tensor([2, 0]), 3)
        {'ids': tensor([2, 0]), 'caption': ['c', 'a']}
    """

    def take(path: Path, leaf: Any) -> Any:
        return leaf if rows_of(leaf) != size or (shared and dotted(path) in shared) else _rows(leaf, rows)

    return map_leaves(nest, take, (), is_column)


def _rows(leaf: Any, rows: Tensor) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.index_select(0, rows.to(leaf.device))
    if isinstance(leaf, np.ndarray):
        return leaf[rows.cpu().numpy()]
    return type(leaf)([leaf[row] for row in rows.tolist()])


def merge_rows(parts: Sequence[Any], sizes: Sequence[int], order: Tensor | None = None, path: Path = ()) -> Any:
    """Join nests of the same structure along the samples: the reverse of :func:`take_rows`.

    Args:
        parts: Their tensors and arrays are batch first; other leaves that have no row per sample must be equal.
        sizes: Number of samples of each part.
        order: Rows of the joined parts in the order in which the result has them, ``Int64[B]``; as they come if None.
        path: The path of the nests themselves.

    Raises:
        LightningMMError: If the parts have different structures, tensors that are not batch first, or other leaves
            that differ; the message names the path.
    """
    first, where = parts[0], f" at {dotted(path)!r}" if path else ""
    forms = [sorted(map(str, part)) if isinstance(part, Mapping) else type(part).__name__ for part in parts]
    if any(form != forms[0] for form in forms):
        other = next(form for form in forms if form != forms[0])
        raise LightningMMError(f"cannot join parts of a batch: {forms[0]} and {other}{where}; expected the same form")
    per_sample = all(rows_of(part) == size for part, size in zip(parts, sizes))
    if isinstance(first, (Tensor, np.ndarray)) and not per_sample:
        raise LightningMMError(
            f"cannot join parts of a batch: parts of {list(sizes)} samples have shapes "
            f"{[tuple(part.shape) for part in parts]}{where}; expected the samples on the first axis"
        )
    if per_sample:
        joined = _joined(parts)
        return joined if order is None else _rows(joined, order)
    if isinstance(first, Mapping):
        return rebuild(first, {k: merge_rows([part[k] for part in parts], sizes, order, (*path, k)) for k in first})
    if isinstance(first, (list, tuple)) and all(len(part) == len(first) for part in parts):
        return rebuild(first, [merge_rows(items, sizes, order, (*path, i)) for i, items in enumerate(zip(*parts))])
    if any(part != first for part in parts):
        raise LightningMMError(
            f"cannot join parts of a batch: values of type {type(first).__name__}{where} differ; expected tensors or "
            "lists with one row per sample, or the same value in all parts"
        )
    return first


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(list(parts))
    return type(parts[0])([item for part in parts for item in part])
