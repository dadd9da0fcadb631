"""One small network with layers for every kind of adapter, and all kinds and bases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_mm.adapters import (
    IA3,
    SSF,
    Adapted,
    Additive,
    Basis,
    BatchNormSSF,
    BitFit,
    Bottleneck,
    Hyper,
    Kind,
    LoRA,
    NormTuning,
    OneHot,
    Pairwise,
    PredictedFeatures,
    PromptTokens,
    ScaleOnly,
    Shared,
    ShiftOnly,
    Together,
    adapt,
)
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise, trained_statistics

NAMES = Modalities(["a", "b", "c"])
WIDTH = 8
KINDS: dict[str, Callable[[], Kind]] = {
    "SSF": SSF,
    "ScaleOnly": ScaleOnly,
    "ShiftOnly": ShiftOnly,
    "BitFit": BitFit,
    "NormTuning": NormTuning,
    "LoRA": lambda: LoRA(2),
    "IA3": lambda: IA3(outputs=["head"], inputs=["mixer.linear2"]),
    "Bottleneck": lambda: Bottleneck(2),
    "PromptTokens": lambda: PromptTokens(2),
    "Together": lambda: Together([SSF(), LoRA(2), PromptTokens(1)]),
    "BatchNormSSF": BatchNormSSF,
    "PredictedFeatures": PredictedFeatures,
    "SSF + PredictedFeatures": lambda: Together([SSF(), PredictedFeatures(2)]),
}
BASES: dict[str, Callable[[], Basis]] = {
    "OneHot": OneHot,
    "Additive": Additive,
    "Pairwise": Pairwise,
    "Shared": Shared,
    "Hyper": Hyper,
}


class Network(nn.Module):
    """An encoder per modality, a transformer block over their tokens, a batch norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        encoders = {name: nn.Sequential(nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()) for name in NAMES}
        self.encoders = nn.ModuleDict(encoders)
        self.mixer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        tokens = [encoder(x) for encoder, x in zip(self.encoders.values(), (a, b, c))]
        return self.head(self.norm(self.mixer(torch.stack(tokens, 1)).mean(1)))


def inputs(batch: int = 7, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 4, generator=generator) for name in NAMES}


def build(kind: str = "SSF", basis: str = "OneHot", grouped: bool = False) -> Adapted:
    """An adapted network, its adapter away from the identity."""
    torch.manual_seed(0)
    network = Network()
    trained_statistics(network)
    adapted = adapt(network, NAMES, KINDS[kind](), basis=BASES[basis](), example=((), inputs(2)), grouped=grouped)
    randomise(adapted.adapter)
    return adapted
