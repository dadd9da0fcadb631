"""A network of encoders with exact results, small multiples of 1/4: no batch rounds differently from another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Additive, Kind, adapt
from lightning_mm.modalities import Modalities

NAMES = Modalities(["a", "b", "c"])
WIDTH = 4


def quarters(*shape: int, seed: int) -> Tensor:
    """Random multiples of 1/4 between -1 and 1."""
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 4


class Encoder(nn.Module):
    """A layer and a ReLU; notes the number of samples of each of its calls."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, WIDTH)
        self.layer.weight.data, self.layer.bias.data = quarters(WIDTH, 3, seed=seed), quarters(WIDTH, seed=seed + 1)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.layer(x).relu()


class Exact(nn.Module):
    """Encoders, a sum that changes the first output in place, and a head that is trained."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Encoder(seed) for seed, name in enumerate(NAMES)})
        self.fusion, self.head = nn.Linear(WIDTH, 6), nn.Sequential(nn.Dropout(dropout), nn.Linear(6, 2))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        total = self.encoders["a"](a)
        total += self.encoders["b"](b)
        total.mul_(0.5).add_(self.encoders["c"](c))
        return self.head(self.fusion(total).tanh())

    def runs(self) -> dict[str, list[int]]:
        """How many samples each encoder got in its calls since the last question."""
        found = {name: encoder.sizes[:] for name, encoder in self.encoders.items()}
        for encoder in self.encoders.values():
            encoder.sizes.clear()  # type: ignore[union-attr, operator]
        return found


def samples(size: int = 24, seed: int = 5) -> dict[str, Tensor]:
    """Inputs of all samples."""
    return {name: quarters(size, 3, seed=seed + place) for place, name in enumerate(NAMES)}


def adapted(kind: Kind | None = None, network: nn.Module | None = None, **settings: Any) -> Adapted:
    """The network with an adapter behind its encoders."""
    torch.manual_seed(0)
    example = ((), {name: torch.randn(2, 3) for name in NAMES})
    exclude = settings.pop("exclude", ["encoders*"])
    made = adapt(
        network or Exact(), NAMES, kind or SSF(), basis=Additive(), example=example, exclude=exclude, **settings
    )
    if isinstance(made.base, Exact):
        made.base.runs()  # those of the probe
    return made
