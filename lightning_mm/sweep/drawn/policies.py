"""What policies of missingness draw for the samples that a sweep evaluates.

Shapes: N samples of the split, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_mm.data.module import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import MissingnessPolicy
from lightning_mm.modalities import Modalities

Data = LightningDataModule | DataLoader[Any]


def check_policies(policies: Mapping[str, MissingnessPolicy], data: Data, split: str, known: Modalities) -> None:
    """Draw each once before networks run, so that a mistake in a policy does not cost a whole sweep.

    Args:
        policies: Name to policy.
        data: A data module, or a loader, whose samples are not known before it is read.
        split: ``test`` or ``val``.
        known: The columns of the masks.

    Raises:
        LightningMMError: If a name cannot be used, or a policy does not fit the modalities or the samples.
    """
    samples: Sequence[int] = ()
    if policies and isinstance(data, ModalityDropoutDataModule):
        data.prepare_data()
        samples = range(len(cast(Any, data.plain_dataloader(split).dataset)))
    for name, policy in policies.items():
        if not name or "/" in name:
            raise LightningMMError(f"a policy's name must be non-empty and without '/', got {name!r}")
        drawn(policy, data, split, known, samples)


def drawn(
    policy: MissingnessPolicy, data: Data, split: str, known: Modalities, index: Sequence[int] | Tensor
) -> NDArray[np.bool_]:
    """What a policy draws for samples of a split, ``Bool[N, M]``."""
    if isinstance(data, ModalityDropoutDataModule):
        policy = data.bound(policy, split)
    found: NDArray[np.bool_] = policy.draw(known, index, epoch=0, seed=getattr(data, "seed", 0)).numpy()
    return found
