"""A network with one encoder for each modality, for the tests of absent rows and of constant encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Basis, adapt
from lightning_mm.modalities import Modalities
from lightning_mm.models import ImageEncoder, LateFusionClassifier, SequenceEncoder, VectorEncoder
from tests.support.adapter_networks import randomise, trained_statistics

NAMES = Modalities(["image", "motion", "text"])


def inputs(batch: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(batch, 1, 10, 7, generator=generator),
        "motion": {"values": torch.randn(batch, 9, 3, generator=generator), "length": 1 + torch.arange(batch) % 9},
        "text": torch.randn(batch, 5, generator=generator),
    }


def network(mask_absent: bool = False) -> LateFusionClassifier:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {
        "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
        "motion": SequenceEncoder(3, width=8, out_channels=6, depth=2),
        "text": VectorEncoder(5, width=8, out_channels=8),
    }
    made = LateFusionClassifier(encoders, 4, hidden=8, mask_absent=mask_absent)
    trained_statistics(made)
    return made.eval()


def make(basis: Basis, encoders: dict[str, str] | None = None, mask_absent: bool = False, **settings: Any) -> Adapted:
    adapted = adapt(
        network(mask_absent), NAMES, settings.pop("kind", SSF()), basis=basis, example=((inputs(2),), {}),
        encoders=encoders, **settings,
    )  # fmt: skip
    randomise(adapted, scale=0.2)
    return adapted


class InPlace(nn.Module):
    """Changes what its encoders put out where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(4, 6) for name in ("a", "b")})
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        a, b = (nn.functional.leaky_relu(self.encoders[name](inputs[name]), inplace=True) for name in ("a", "b"))
        return self.head(a.add_(b))
