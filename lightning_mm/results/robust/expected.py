"""What to expect of a network in use: the mean over combinations, by how often each modality is available.

Combinations without any modality are left out: no network has a value for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.modality_names import MOST_LISTED, SEPARATOR, ModalityNames

BERNOULLI = (0.2, 0.1, 0.05)
"""Probabilities of a missing modality that benchmarks of segmentation print."""


@dataclass(frozen=True)
class Scenario:
    """How often each modality is available, independently of the others.

    Args:
        name: For tables.
        p_available: Modality to probability; modalities that are not named are always available.
    """

    name: str
    p_available: Mapping[str, float]

    def weights(self, modalities: Sequence[str]) -> dict[str, float]:
        """The probability of each combination that can occur, given that some modality is available.

        Raises:
            LightningMMError: If a modality is unknown, a probability is none, or nothing is ever available.
        """
        names = ModalityNames(modalities)
        unknown = [name for name in self.p_available if name not in names]
        if unknown:
            raise LightningMMError(f"p_available: unknown modality {unknown[0]!r}; this sweep has {list(names)}")
        for name, p in self.p_available.items():
            check_fraction(f"p_available of {name}", p)
        often = {name: float(self.p_available.get(name, 1.0)) for name in names}
        possible = {name: [(True, p), (False, 1 - p)] for name, p in often.items()}
        possible = {name: [(inside, p) for inside, p in cases if p] for name, cases in possible.items()}
        if math.prod(map(len, possible.values())) > 2**MOST_LISTED:
            raise LightningMMError(
                f"p_available: more than {MOST_LISTED} modalities may be missing, which makes too many combinations; "
                "set 1 for those that hardly ever are"
            )
        found: dict[str, float] = {}
        for cases in product(*possible.values()):
            inside = [name for name, (there, _) in zip(names, cases) if there]
            if inside:
                found[SEPARATOR.join(inside)] = math.prod(p for _, p in cases)
        total = math.fsum(found.values())
        if total == 0:
            raise LightningMMError("p_available: expected some modality that is available at times, got 0 for all")
        return {name: found[name] / total for name in sorted(found, key=lambda name: name.count(SEPARATOR))}


def usual_scenarios(modalities: Sequence[str]) -> list[Scenario]:
    """Those of :data:`BERNOULLI`; none for more modalities than have combinations that can be listed."""
    return [bernoulli(p, modalities) for p in BERNOULLI] if len(modalities) <= MOST_LISTED else []


def bernoulli(p_missing: float, modalities: Sequence[str]) -> Scenario:
    """Every modality is missing with the same probability.

    Reference:
        Liao et al., Benchmarking multi-modal semantic segmentation under sensor failures (arXiv 2503.18445), which
        prints p = 0.2, 0.1 and 0.05.

    Example:
        >>> weights = bernoulli(0.1, ["rgb", "depth"]).weights(["rgb", "depth"])
        >>> {name: round(weight, 3) for name, weight in weights.items()}
        {'rgb': 0.091, 'depth': 0.091, 'rgb+depth': 0.818}
    """
    check_fraction("p_missing", p_missing, below_one=True)
    return Scenario(f"p={p_missing:g}", dict.fromkeys(modalities, 1 - p_missing))
