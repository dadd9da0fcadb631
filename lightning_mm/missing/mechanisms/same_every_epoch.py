"""A policy that draws the same in every epoch, for hard tables.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.missing.policies import Fields, MissingnessPolicy, hashed_seed
from lightning_mm.modalities import Modalities


class SameEveryEpoch(MissingnessPolicy):
    """The draw of another policy, the same in every epoch: what exists at all, for ``train_observed``.

    Args:
        policy: Draws.

    Example:
        >>> from lightning_mm.missing import IndependentMissing
        >>> table = SameEveryEpoch(IndependentMissing(0.5))
        >>> first, second = (table.draw(Modalities(["a", "b"]), range(99), epoch=e, seed=0) for e in (0, 1))
        >>> first.equal(second)
        True
    """

    def __init__(self, policy: MissingnessPolicy) -> None:
        self.policy = policy

    def bound(self, fields: Fields) -> SameEveryEpoch:
        return SameEveryEpoch(self.policy.bound(fields))

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        # its own seed: what is dropped by a policy with the seed of the run does not repeat it
        return self.policy.draw(modalities, index, epoch=0, seed=hashed_seed(f"{seed}/same every epoch"))
