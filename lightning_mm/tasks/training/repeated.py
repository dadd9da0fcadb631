"""Whether the samples of a fit are the same in every epoch, and how many there are."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils._pytree import tree_leaves


def changes_of_data(datamodule: Any) -> str | None:
    """Why the training samples of a data module are others in each epoch; None if it says nothing of the kind."""
    if getattr(datamodule, "augment", None) is not None:
        return "the training data are augmented"
    if hasattr(datamodule, "redraws") and datamodule.redraws():
        return "the training data are drawn anew in every epoch"
    return None


def count_samples(loaders: Any) -> int | None:
    """The number of samples in the data sets of some loaders; None if one of them has no length."""
    datasets = [getattr(loader, "dataset", None) for loader in tree_leaves(loaders) if loader is not None]
    sizes = [len(one) for one in datasets if isinstance(one, Sized)]
    return sum(sizes) if len(sizes) == len(datasets) else None
