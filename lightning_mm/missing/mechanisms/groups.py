"""Draws for samples of several groups, each with its own shares of missing modalities.

Shapes: B samples, M modalities, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.missing.policies import IndependentMissing
from lightning_mm.missing.rates import calibrated
from lightning_mm.modalities import Modalities

PMissing = float | dict[str, float]
"""One share for all modalities, or modality to share; modalities that are not named are never missing."""


def check_p_missing(what: str, p_missing: PMissing) -> None:
    """Raise a LightningMMError unless all shares are between 0 and 1."""
    for value in p_missing.values() if isinstance(p_missing, dict) else [p_missing]:
        check_fraction(what, value)


def all_modalities(modalities: Modalities, of: str | None, who: str) -> Modalities:
    """The modalities that are drawn: those of ``of``, written like a combination, else those that are loaded.

    Raises:
        LightningMMError: If ``of`` lacks a modality that is loaded.
    """
    every = list(modalities) if of is None else [name.strip() for name in of.split("+")]
    lacking = [name for name in modalities if name not in every]
    if lacking:
        raise LightningMMError(f"{who}: of lacks {lacking[0]!r}; write all modalities, such as 'audio+video'")
    return Modalities(every)


def shares_present(p_missing: PMissing, every: Sequence[str], who: str) -> dict[str, float]:
    """Modality to the share of samples that have it.

    Raises:
        LightningMMError: If a modality is named that does not exist.
    """
    if not isinstance(p_missing, dict):
        return dict.fromkeys(every, 1.0 - p_missing)
    unknown = [name for name in p_missing if name not in every]
    if unknown:
        raise LightningMMError(
            f"{who}: p_missing names the modality {unknown[0]!r}, and there are {list(every)}; if fewer are loaded, "
            "name all in of, such as of='audio+video'"
        )
    return {name: 1.0 - p_missing.get(name, 0.0) for name in every}


def draw_groups(
    shares: Sequence[Mapping[str, float]],
    group: NDArray[np.int64],
    modalities: Modalities,
    index: Sequence[int] | Int[Tensor, " batch"],
    *,
    epoch: int,
    seed: int,
    who: str,
) -> Bool[Tensor, "batch modality"]:
    """Draw ``available``; within a group modalities are missing independently, except that no row is empty.

    Args:
        shares: Of each group, modality to the share of samples that have it, for all modalities that exist.
        group: The group of each sample, ``Int[B]``.
        modalities: Those that are loaded: the columns.
        index: Positions of the samples.
        epoch: The epoch.
        seed: The seed.
        who: The policy, for messages.

    Raises:
        LightningMMError: If so much would be missing that empty rows cannot be avoided.
    """
    every = Modalities(list(shares[0]))
    samples = np.asarray(index, dtype=np.int64)
    available = torch.zeros(len(samples), len(every), dtype=torch.bool)
    for number in np.unique(group).tolist():
        rows = group == number
        policy = IndependentMissing(calibrated(shares[number], who))
        available[torch.from_numpy(rows)] = policy.draw(every, samples[rows].tolist(), epoch=epoch, seed=seed)
    return available[:, [every.index(name) for name in modalities]]
