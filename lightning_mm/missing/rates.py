"""A hard table drawn from the share of samples that lack each modality.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.missing.policies import IndependentMissing, MissingnessPolicy, hashed_seed
from lightning_mm.modalities import Modalities

_TOLERANCE = 1e-9
_SMALLEST = 1e-6  # from here on, shares are wrong by less than one in a million samples
_HALVINGS = 60


class MissingRates(MissingnessPolicy):
    """Each modality is missing in a given share of the samples, the same samples in every epoch.

    A hard table of incomplete data, for ``train_observed`` of the data module. Modalities are missing independently of
    each other, except that no sample is left without any; unlike under
    :class:`~lightning_mm.missing.IndependentMissing`, whose samples lose less than it says where empty ones are drawn
    again, the share that is missing in the end is ``p_missing``. A draw depends on all settings, the seed and the
    sample index, and not on the epoch, so that shares are exact up to chance.

    Args:
        p_missing: One share for all modalities, or all modalities with the share of each, such as ``{"flair": 0.588,
            "t1ce": 0.392, "t1": 0.146, "t2": 0.794}`` (the proportions of the table ``mr2468`` of PASSION).
        of: All modalities, written like a combination (``audio+video``), if fewer are loaded and ``p_missing`` is one
            number: the table is that of all of them, and rows of samples that have none of those loaded are empty; a
            hard table leaves these out.

    Raises:
        LightningMMError: If a share is out of range; in :meth:`draw`, if a modality that is loaded has no share, or so
            much would be missing that samples without any modality cannot be avoided.

    Example:
        >>> drawn = MissingRates(0.4).draw(Modalities(["a", "b"]), range(10_000), epoch=0, seed=0)
        >>> (~drawn).float().mean(0).mul(100).round().tolist(), bool(drawn.any(1).all())
        ([40.0, 40.0], True)
    """

    def __init__(self, p_missing: float | dict[str, float], of: str | None = None) -> None:
        for value in p_missing.values() if isinstance(p_missing, dict) else [p_missing]:
            check_fraction("MissingRates: p_missing", value)
        if isinstance(p_missing, dict) and of is not None:
            raise LightningMMError(
                f"MissingRates: of={of!r} is for one share for all modalities; p_missing names them itself"
            )
        self.p_missing, self.of = p_missing, of

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        shares = self._shares(modalities)
        chances = calibrated(shares, repr(self))
        every = Modalities(list(shares))
        key = hashed_seed(f"{seed}/rates/{shares!r}")
        drawn = IndependentMissing(chances).draw(every, index, epoch=0, seed=key)
        return drawn[:, [every.index(name) for name in modalities]]

    def _shares(self, modalities: Modalities) -> dict[str, float]:
        """Modality to the share of samples that have it, for all modalities of the table."""
        if isinstance(self.p_missing, dict):
            named = self.p_missing
        else:
            every = list(modalities) if self.of is None else [name.strip() for name in self.of.split("+")]
            named = dict.fromkeys(every, self.p_missing)
        lacking = [name for name in modalities if name not in named]
        if lacking:
            raise LightningMMError(
                f"{self!r}: no share for the modality {lacking[0]!r}, only for {list(named)}; name all modalities"
            )
        return {name: 1.0 - p_missing for name, p_missing in named.items()}


def calibrated(shares: Mapping[str, float], who: str) -> dict[str, float]:
    """Probabilities for :class:`~lightning_mm.missing.IndependentMissing` that leave given shares.

    Args:
        shares: Modality to the share of samples that have it.
        who: The policy, for the message.

    Raises:
        LightningMMError: If no probabilities do.
    """
    chances = _chances(shares)
    if chances is None:
        most = 1 - 1 / len(shares)
        raise LightningMMError(
            f"{who} would leave samples without a modality: the shares that are present add up to "
            f"{math.fsum(shares.values()):g}, less than 1; with {len(shares)} modalities at most {most:.3g} may be "
            "missing on average"
        )
    return chances


def _chances(shares: Mapping[str, float]) -> dict[str, float] | None:
    """Probabilities of being missing which, given that a row is not empty, leave the shares; ``None`` if none do.

    A modality of share s, present with probability s z, is present in s z / P(not empty) of the rows, so that z is
    P(not empty). ``P(not empty) - z`` is concave in z and 0 at z = 0: there is at most one other root.
    """
    total = math.fsum(shares.values())
    if total < 1 - _TOLERANCE:
        return None

    def excess(z: float) -> float:
        return 1 - math.prod(1 - share * z for share in shares.values()) - z

    low, high = _SMALLEST, 1.0
    if excess(high) < 0:
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    else:
        low = high
    return {name: 1 - share * low for name, share in shares.items()}
