"""A network of several BatchNorms, its calls, and adapters with their statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters import Adapted, BatchNormSSF, adapt, refit_batch_norm
from lightning_mm.missing import Constant
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import trained_statistics
from tests.support.their_module import MODALITIES

NAMES = Modalities(["a", "b", "c"])
FILL = Constant({"b": 0.5})
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Net(nn.Module):
    """BatchNorms before and after the fusion, with and without weights, one used twice, and a dropout."""

    def __init__(self, statistics: bool = True, head_affine: bool = False) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(2, 6, 3, padding=1) for _ in NAMES)
        self.shared = nn.BatchNorm2d(6, track_running_stats=statistics)
        self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5, track_running_stats=statistics))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(5, 4)
        self.last = nn.BatchNorm1d(4, affine=head_affine, track_running_stats=statistics)

    def forward(self, a: Tensor, *, rest: dict[str, Tensor], available: Tensor | None = None) -> Tensor:
        features = self.stems[1](rest["b"]) * 2 + self.stems[2](rest["c"])
        fused = self.shared(self.stems[0](a)) + self.shared(features)
        out: Tensor = self.last(self.head(self.drop(self.mix(fused).mean((2, 3)))))
        return out if available is None else out + available.float().sum(1, keepdim=True)


def network(seed: int = 0, **settings: Any) -> Net:
    torch.manual_seed(seed)
    made = Net(**settings)
    with torch.no_grad():
        for norm in (made.shared, made.mix[2]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-1, 1)
    if settings.get("statistics", True):
        trained_statistics(made)
    return made


def calls(number: int = 3, size: int = 6) -> list[Call]:
    torch.manual_seed(1)
    a, b, c = (torch.randn(number, size, 2, 4, 4) * (1 + k) + k for k in range(3))
    return [((a[i],), {"rest": {"b": b[i], "c": c[i]}}) for i in range(number)]


def refitted(net: Net, **settings: Any) -> Adapted:
    adapted = adapt(net, NAMES, BatchNormSSF(), fill=FILL, example=calls(1)[0], **settings)
    refit_batch_norm(adapted.adapter, net, calls(), floor=0.0)
    return adapted


THEIRS: dict[str, Any] = {
    "network": "net",
    "available": "2",
    "modalities": MODALITIES,
    "inputs": {"camera": "image", "radar": "echo"},
}
