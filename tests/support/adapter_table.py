"""The table of the adapters: every kind on every type of layer, and what each pair must do.

A cell passes, is not foldable, or is not applicable for the reason given in :data:`NOT_APPLICABLE`; nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_mm.adapters import (
    IA3,
    SSF,
    Adapted,
    Basis,
    BitFit,
    Bottleneck,
    Kind,
    LoRA,
    NormTuning,
    ScaleOnly,
    ShiftOnly,
    Together,
    adapt,
)
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b", "c"])
WIDTH = 6
KINDS: dict[str, Callable[[], Kind]] = {
    "SSF": SSF,
    "ScaleOnly": ScaleOnly,
    "ShiftOnly": ShiftOnly,
    "BitFit": BitFit,
    "NormTuning": NormTuning,
    "LoRA": lambda: LoRA(2, layers=["layer"]),
    "IA3 (outputs)": lambda: IA3(outputs=["layer"], inputs=[]),
    "IA3 (inputs)": lambda: IA3(outputs=[], inputs=["layer"]),
    "SSF + LoRA": lambda: Together([SSF(), LoRA(2, layers=["layer"])]),
    "Bottleneck": lambda: Bottleneck(2, layers=["layer"]),
}


@dataclass(frozen=True)
class Layer:
    """One type of layer: how it is made, and the shape of what it is given."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    channels_last: bool = False


LAYERS: dict[str, Layer] = {
    "Linear": Layer(lambda: nn.Linear(WIDTH, WIDTH), (5, WIDTH), True),
    "Linear without bias": Layer(lambda: nn.Linear(WIDTH, WIDTH, bias=False), (5, WIDTH), True),
    "Conv1d": Layer(lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1), (WIDTH, 5)),
    "Conv2d": Layer(lambda: nn.Conv2d(WIDTH, WIDTH, 3, stride=2), (WIDTH, 5, 7)),
    "Conv2d, groups": Layer(lambda: nn.Conv2d(WIDTH, WIDTH, 3, groups=2), (WIDTH, 5, 7)),
    "Conv3d": Layer(lambda: nn.Conv3d(WIDTH, WIDTH, 2), (WIDTH, 3, 3, 4)),
    "ConvTranspose2d": Layer(lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2), (WIDTH, 3, 4)),
    "BatchNorm2d": Layer(lambda: nn.BatchNorm2d(WIDTH), (WIDTH, 3, 4)),
    "GroupNorm": Layer(lambda: nn.GroupNorm(2, WIDTH), (WIDTH, 3, 4)),
    "InstanceNorm2d": Layer(lambda: nn.InstanceNorm2d(WIDTH, affine=True), (WIDTH, 3, 4)),
    "LayerNorm": Layer(lambda: nn.LayerNorm(WIDTH), (5, WIDTH), True),
    "LayerNorm without affine": Layer(lambda: nn.LayerNorm(WIDTH, elementwise_affine=False), (5, WIDTH), True),
    "RMSNorm": Layer(lambda: nn.RMSNorm(WIDTH), (5, WIDTH), True),
    "MultiheadAttention": Layer(lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True), (5, WIDTH), True),
    "Embedding": Layer(lambda: nn.Embedding(11, WIDTH), (5,), True),
}
NORMS = {"BatchNorm2d", "GroupNorm", "InstanceNorm2d", "LayerNorm", "LayerNorm without affine", "RMSNorm"}
LINEAR = {"Linear", "Linear without bias"}
CONVOLUTIONS = {"Conv1d", "Conv2d", "Conv2d, groups", "Conv3d"}
EVERY = set(LAYERS) - {"Embedding"}
APPLICABLE: dict[str, set[str]] = {
    "SSF": EVERY,
    "ScaleOnly": EVERY,
    "ShiftOnly": EVERY,
    "BitFit": EVERY - {"Linear without bias", "LayerNorm without affine", "RMSNorm"},
    "NormTuning": NORMS - {"LayerNorm without affine"},
    "LoRA": LINEAR | CONVOLUTIONS - {"Conv2d, groups"} | {"Embedding"},
    "IA3 (outputs)": LINEAR,
    "IA3 (inputs)": LINEAR,
    "SSF + LoRA": LINEAR | CONVOLUTIONS - {"Conv2d, groups"},
    "Bottleneck": EVERY - NORMS,
}
NOT_FOLDABLE = {("SSF", "RMSNorm"), ("ShiftOnly", "RMSNorm")}
NOT_FOLDABLE |= {("Bottleneck", layer) for layer in APPLICABLE["Bottleneck"]}
NOT_APPLICABLE = {
    "SSF": "embeddings are not scaled",
    "ScaleOnly": "embeddings are not scaled",
    "ShiftOnly": "embeddings are not shifted",
    "BitFit": "the layer has no bias",
    "NormTuning": "no norm layer with a weight",
    "LoRA": "no linear, convolution (groups=1) or embedding layer",
    "IA3 (outputs)": "no linear layer",
    "IA3 (inputs)": "no linear layer",
    "SSF + LoRA": "one of the two has nothing to do there",
    "Bottleneck": "no linear, convolution or attention layer",
}
"""Why a kind has nothing to do on a layer outside of its :data:`APPLICABLE`."""


class Network(nn.Module):
    """One layer reads modality ``a``; the others are added, so that every combination matters."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer, self.channels_last = layer.make(), layer.channels_last
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        features = self.layer(a, a, a)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(a)
        pooled = features.mean(1) if self.channels_last else features.flatten(2).mean(2)
        squares = features.square().mean(1) if self.channels_last else features.flatten(2).square().mean(2)
        return (pooled + 0.3 * squares) * self.scale + b * c


def network(layer: str) -> Network:
    torch.manual_seed(0)
    made = Network(LAYERS[layer])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return made.eval()


def inputs(layer: str, batch: int = 7, seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *LAYERS[layer].shape)
    a = torch.randint(1, 11, shape, generator=generator) if layer == "Embedding" else None
    a = torch.randn(shape, generator=generator) if a is None else a
    return {"a": a, **{name: torch.randn(batch, WIDTH, generator=generator) for name in "bc"}}


def adapted_case(kind: str, layer: str, basis: Basis | None = None, moved: bool = True) -> Adapted:
    """An adapted network of one layer; ``moved`` takes the adapter away from the identity."""
    torch.manual_seed(3)
    adapted = adapt(
        network(layer), NAMES, KINDS[kind](), basis=basis, example=((), inputs(layer, 2)), targets=["layer"]
    )
    if moved:
        randomise(adapted)
    return adapted
