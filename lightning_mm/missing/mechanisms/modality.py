"""MAR: whether a modality is missing depends on whether another one is.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.missing.mechanisms.groups import all_modalities, check_p_missing, draw_groups, shares_present
from lightning_mm.missing.policies import MissingnessPolicy, hashed_seed, random_uniform
from lightning_mm.modalities import Modalities


class DependsOnModality(MissingnessPolicy):
    """One modality is missing at random, and the shares of all others depend on whether it is.

    *Missing at random* (MAR) with a modality as the cause, such as a sensor that fails together with another one. The
    shares that are missing in the end are what the settings say, up to chance; no sample is left without any modality.

    Args:
        modality: The modality that decides.
        p_missing: The share of samples that lack it.
        where_present: Where it is present: one share for all others, or modality to share; modalities that are not
            named are never missing.
        where_absent: The same where it is absent; as one other modality must be left, shares of at most 1 - 1/n on
            average for n others.
        of: All modalities, written like a combination (``audio+video``), if fewer are loaded: the draw is that of all
            of them, and rows of samples that have none of those loaded are empty; a hard table leaves these out.

    Raises:
        LightningMMError: If a share is out of range; in :meth:`draw`, if a modality does not exist, or so much would be
            missing that empty rows cannot be avoided.

    Example:
        >>> policy = DependsOnModality("audio", 0.3, where_present={"depth": 0.1}, where_absent={"depth": 0.6})
        >>> drawn = policy.draw(Modalities(["rgb", "depth", "audio"]), range(10_000), epoch=0, seed=0)
        >>> audio, depth = drawn[:, 2], drawn[:, 1]
        >>> [round(float((~one).float().mean()), 1) for one in (audio, depth[audio], depth[~audio])]
        [0.3, 0.1, 0.6]
    """

    def __init__(
        self,
        modality: str,
        p_missing: float,
        where_present: float | dict[str, float],
        where_absent: float | dict[str, float],
        of: str | None = None,
    ) -> None:
        check_fraction("DependsOnModality: p_missing", p_missing)
        for name, given in (("where_present", where_present), ("where_absent", where_absent)):
            check_p_missing(f"DependsOnModality: {name}", given)
            if isinstance(given, dict) and modality in given:
                raise LightningMMError(f"DependsOnModality: {name} is of the others; leave {modality!r} out of it")
        self.modality, self.p_missing = modality, p_missing
        self.where_present, self.where_absent, self.of = where_present, where_absent, of

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        every = all_modalities(modalities, self.of, repr(self))
        if self.modality not in every or len(every) < 2:
            raise LightningMMError(
                f"{self!r}: expected a modality out of {list(every)} and others that depend on it; if fewer are "
                "loaded, name all in of, such as of='audio+video'"
            )
        others = [name for name in every if name != self.modality]
        shares = [
            {**shares_present(given, others, repr(self)), self.modality: there}
            for given, there in ((self.where_present, 1.0), (self.where_absent, 0.0))
        ]
        shares = [{name: one[name] for name in every} for one in shares]
        # its own stream: the numbers of the others do not say whether it is missing
        uniform = random_uniform(hashed_seed(f"{seed}/depends on {self.modality}"), epoch, index, 1)[:, 0]
        absent = (uniform < self.p_missing).astype(np.int64)
        return draw_groups(shares, absent, modalities, index, epoch=epoch, seed=seed, who=repr(self))
