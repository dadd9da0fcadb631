"""A network of three vectors whose encoders run one after another, for adapters that need the outputs of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters import Adapted, Basis, Kind, PredictedFeatures, adapt
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b", "c"])
MASKS = NAMES.masks()[torch.tensor([6, 0, 3, 1, 1, 5, 2, 4, 0])]
WIDTHS = {"a": 5, "b": 6, "c": 4}


class Network(nn.Module):
    """Encoders run in the reverse order, each output is used (and changed in place) before the next encoder runs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(3, width) for name, width in WIDTHS.items()})
        self.heads = nn.ModuleDict({name: nn.Linear(width, 2) for name, width in WIDTHS.items()})
        self.last = nn.Linear(2, 2)
        self.runs = 0

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        total: Any = 0
        for name, x in (("c", c), ("b", b), ("a", a)):
            total = total + self.heads[name](self.encoders[name](x.sin()).mul_(0.5).tanh())
        self.runs += 1
        return self.last(total)


def inputs(batch: int = len(MASKS), seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 3, generator=generator) for name in NAMES}


def make(kind: Kind | None = None, basis: Basis | None = None, moved: bool = True, **settings: Any) -> Adapted:
    torch.manual_seed(0)
    adapted = adapt(Network(), NAMES, kind or PredictedFeatures(3), basis=basis, example=((), inputs(2)), **settings)
    if moved:
        randomise(adapted.adapter)
    return adapted
