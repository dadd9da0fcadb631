"""Policies with an exact share of samples that lack modalities, the same samples in every epoch.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_fraction, check_whole
from lightning_mm.missing.policies import MissingnessPolicy, hashed_seed, random_uniform
from lightning_mm.modalities import Modalities

_TOLERANCE = 1e-9


class ExactShare(MissingnessPolicy):
    """A share ``p_missing`` of the samples lacks one modality, the same samples in every epoch.

    If several modalities may be lost, each is missing in an equal part of these samples. This is a fixed table (the
    protocol "eta" of the papers on missing-aware prompts) without a file: in every block of ``block`` consecutive
    samples, exactly the share ``p_missing`` is chosen at random, so shares are exact for any length of the data set. A
    draw depends on all settings, the seed and the sample index, but not on the epoch.
    :func:`~lightning_mm.missing.save_table` writes a table to a file.

    Args:
        p_missing: Share of the samples that lack a modality.
        lose: The modalities that may be lost, one in each of these samples; default: all.
        split: Any text, such as ``"train"``, so that several splits have different tables.
        block: Number of consecutive samples that are drawn together; ``p_missing * block`` must be a whole number that
            is divisible by the number of modalities to lose.

    Raises:
        LightningMMError: If ``p_missing`` is not a probability or ``block`` is not positive; in :meth:`draw`, if the
            shares are not whole numbers, a modality is unknown, or a sample would be left without any modality.

    Example:
        >>> policy = ExactShare(0.5, lose=["text"], block=10)
        >>> (~policy.draw(Modalities(["image", "text"]), range(100), epoch=0, seed=0)).sum(0).tolist()
        [0, 50]

    Reference:
        Lee et al.: Multimodal Prompting with Missing Modalities for Visual Recognition, CVPR 2023, section 4.1.
    """

    def __init__(self, p_missing: float = 0.7, lose: list[str] | None = None, split: str = "", block: int = 20) -> None:
        check_fraction("p_missing", p_missing)
        check_whole("block", block, 1)
        self.p_missing, self.lose, self.split, self.block = p_missing, lose, split, block

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        names = self._names(modalities)
        missing = round(self.p_missing * self.block)
        if abs(missing - self.p_missing * self.block) > _TOLERANCE * self.block or missing % len(names):
            raise LightningMMError(
                f"{self!r}: {self.p_missing} of {self.block} samples cannot be divided into {len(names)} equal whole "
                "numbers, one for each modality to lose; choose another block"
            )
        samples = np.asarray(index, dtype=np.int64)
        blocks, inverse = np.unique(samples // self.block, return_inverse=True)
        numbers = random_uniform(self._key(modalities, seed), 0, blocks.tolist(), self.block)
        ranks = numbers.argsort(1).argsort(1)[inverse.reshape(-1), samples % self.block]
        available = np.ones((len(samples), len(modalities)), dtype=bool)
        for place, name in enumerate(names):
            available[(ranks < missing) & (ranks % len(names) == place), modalities.index(name)] = False
        return torch.from_numpy(available)

    def _names(self, modalities: Modalities) -> list[str]:
        names = list(modalities) if self.lose is None else list(self.lose)
        strangers = [name for name in names if name not in modalities]
        if strangers or not names or len(set(names)) != len(names):
            raise LightningMMError(
                f"lose must be distinct modalities out of {list(modalities)}, at least one, got {names}"
            )
        if len(modalities) == 1 and self.p_missing > 0:
            raise LightningMMError(f"{self!r} would leave samples without a modality: there is only {list(modalities)}")
        return names

    def _key(self, modalities: Modalities, seed: int) -> int:
        """Return a seed that depends on all settings of the table."""
        text = f"{seed}/{self.p_missing!r}/{self._names(modalities)}/{self.split}/{self.block}/{list(modalities)}"
        return hashed_seed(text)


class PairedShare(MissingnessPolicy):
    """A share of the samples has every modality, each of the others exactly one, the same samples in every epoch.

    A hard table of unpaired data, for ``train_observed`` of the data module. In every block of ``block`` consecutive
    samples exactly the share ``share`` is paired, chosen at random; the others get the modalities in turn, so that over
    whole blocks their numbers differ by one at most. A draw depends on all settings, the seed and the sample index, and
    not on the epoch.

    Args:
        share: Share of the samples with every modality, 0 to 1.
        of: All modalities, written like a combination (``audio+video``), if fewer are loaded: the table is that of all
            of them, and rows of samples that have none of those loaded are empty; a hard table leaves these out.
        block: Number of consecutive samples that are drawn together; ``share * block`` must be a whole number.
        unpaired: Whether the other samples exist; without them rows are full or empty, so that a network is trained on
            paired samples alone, the same as in the table with the others.

    Raises:
        LightningMMError: If ``share`` is out of range or ``block`` is not positive; in :meth:`draw`, if ``of`` lacks a
            modality that is loaded.

    Example:
        >>> PairedShare(0.5, block=4).draw(Modalities(["a", "b"]), range(4), epoch=0, seed=0).sum(1).sort().values
        tensor([1, 1, 2, 2])
    """

    def __init__(self, share: float, of: str | None = None, block: int = 10, unpaired: bool = True) -> None:
        check_fraction("share", share)
        check_whole("block", block, 1)
        if abs(round(share * block) - share * block) > _TOLERANCE * block:
            raise LightningMMError(f"PairedShare: {share} of {block} samples is no whole number; choose another block")
        self.share, self.of, self.block, self.unpaired = share, of, block, unpaired

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        every = list(modalities) if self.of is None else [name.strip() for name in self.of.split("+")]
        lacking = [name for name in modalities if name not in every]
        if lacking:
            raise LightningMMError(f"{self!r}: of lacks {lacking[0]!r}; write all modalities, such as 'audio+video'")
        paired, samples = round(self.share * self.block), np.asarray(index, dtype=np.int64)
        blocks, inverse = np.unique(samples // self.block, return_inverse=True)
        text = f"{seed}/paired/{self.share!r}/{self.block}/{every}"
        key = hashed_seed(text)
        numbers = random_uniform(key, 0, blocks.tolist(), self.block)
        ranks = numbers.argsort(1).argsort(1)[inverse.reshape(-1), samples % self.block]
        # numbered through all blocks, so that none gets more than its turn
        turns = (ranks - paired + samples // self.block * (self.block - paired)) % len(every)
        single = (turns[:, None] == np.arange(len(every))) & self.unpaired
        available = np.where((ranks < paired)[:, None], True, single)
        return torch.from_numpy(available[:, [every.index(name) for name in modalities]])
