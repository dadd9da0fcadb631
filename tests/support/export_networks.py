"""Small adapted networks for the tests of exports, always the same weights and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Additive, Kind, adapt
from lightning_mm.export import export_adapted, export_network, formats
from lightning_mm.missing import Fill, Zeros
from lightning_mm.modalities import Modalities
from lightning_mm.models import (
    ImageEncoder,
    LateFusionClassifier,
    MultiEncoderSegmenter,
    SequenceEncoder,
    SequenceFusionTransformer,
)
from tests.support.adapter_networks import randomise, trained_statistics

PAIR = Modalities(["rgb", "steps"])


class Pair(nn.Module):
    """Two inputs, the second one nested; a dict of outputs; a plain argument."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.steps, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, image: Tensor, batch: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        values, length = batch["steps"]["values"], batch["steps"]["length"]
        counts = torch.arange(values.shape[1], device=values.device) < length.unsqueeze(1)
        steps = torch.where(counts.unsqueeze(2), self.steps(values), 0.0).sum(1) / length.unsqueeze(1)
        features = torch.tanh(self.rgb(image)) + steps
        return {"logits": scale * self.head(features), "parts": (features, None)}


def pair_call(batch: int = 4, seed: int = 0, time: int = 5) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, time, 2, generator=generator)
    length = torch.randint(1, time + 1, (batch,), generator=generator)
    image = torch.randn(batch, 3, generator=generator)
    return (image,), {"batch": {"steps": {"values": values, "length": length}}, "scale": 2.0}


def pair_inputs(batch: int = 4, seed: int = 0, time: int = 5) -> dict[str, Any]:
    """The same data as a runtime takes it."""
    (image,), kwargs = pair_call(batch, seed, time)
    return {"rgb": image, "steps": kwargs["batch"]["steps"]}


def pair(kind: Kind | None = None, fill: Fill | None = Zeros(), network: nn.Module | None = None) -> Adapted:
    torch.manual_seed(0)
    inputs = {"rgb": "image", "steps": "batch.steps"}
    made = network or Pair()
    adapted = adapt(made, PAIR, kind or SSF(), basis=Additive(), fill=fill, inputs=inputs, example=pair_call())
    randomise(adapted)
    return adapted


def eager(adapted: Adapted, inputs: dict[str, Any], available: Tensor) -> Any:
    """Outputs of :func:`pair` with its hooks."""
    with torch.no_grad():
        call = {"batch": {"steps": inputs["steps"]}, "scale": 2.0}
        return adapted(inputs["rgb"], **call, available=available)


def sequence(batch: int, time: int, channels: int, generator: torch.Generator) -> dict[str, Tensor]:
    values = torch.randn(batch, time, channels, generator=generator)
    return {"values": values, "length": torch.randint(1, time + 1, (batch,), generator=generator)}


def late(mask_absent: bool) -> nn.Module:
    torch.manual_seed(0)
    image, motion = ImageEncoder(1, width=4, out_channels=8, depth=2), SequenceEncoder(3, 8, 8, depth=2, kernel_size=3)
    network = LateFusionClassifier({"image": image, "motion": motion}, 3, hidden=8, mask_absent=mask_absent)
    trained_statistics(network)
    return network


def late_inputs(batch: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(batch, 1, 8, 8, generator=generator), "motion": sequence(batch, 6, 3, generator)}


def transformer() -> nn.Module:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 8, "heads": 2, "layers": 1, "fusion_layers": 1, "mask_absent": False}
    return SequenceFusionTransformer({"text": 4, "audio": 3}, 1, **settings)


def transformer_inputs(batch: int, seed: int = 0, words: int = 6, frames: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"text": sequence(batch, words, 4, generator), "audio": sequence(batch, frames, 3, generator)}


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    network = MultiEncoderSegmenter({"rgb": 3, "depth": 1}, 3, encoder_depth=3, decoder_channels=[16, 8, 8])
    trained_statistics(network)
    return network


def segmenter_inputs(batch: int, seed: int = 0, height: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(batch, size, height, 16, generator=generator) for name, size in {"rgb": 3, "depth": 1}.items()
    }


def with_ssf(network: nn.Module, inputs: dict[str, Any], targets: list[str] | None = None) -> Adapted:
    adapted = adapt(network, list(inputs), SSF(), basis=Additive(), example=((inputs,), {}), targets=targets)
    randomise(adapted, scale=0.1)
    return adapted


def write_exports(folder: Path) -> None:
    """``pair`` with everything; ``beside``, whose weights lie in a file of their own; ``plain``, without an adapter."""
    export_adapted(pair(), pair_call(), folder / "pair", dynamic={"steps.values": {1: "time"}})
    network, call = late(mask_absent=True).train(), ((late_inputs(4),), {})
    export_network(network, ["image", "motion"], call, folder / "plain", formats=["torch"], combinations=["image"])
    assert network.training, "the network is not changed"
    assert all(parameter.requires_grad for parameter in network.parameters())
    with patch.object(formats, "LARGEST_FILE", 0):
        export_adapted(pair(), pair_call(), folder / "beside", formats=["onnx"], combinations=["rgb"], mixed=False)
