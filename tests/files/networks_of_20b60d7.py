"""Networks and data behind the files in ``written_by_20b60d7``; their weights come from arithmetic, not a generator.

The stored configs name the classes of this file, and ``test_written_by_older.py`` builds the networks again. Nothing
here may change: adapters hold the fingerprint of their base, a hash of its weights.

Shapes: B samples, T steps, C channels.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.modalities import Modalities
from lightning_mm.models import (
    CMNeXt,
    ImageEncoder,
    LateFusionClassifier,
    MulT,
    MultiEncoderSegmenter,
    MultiStreamVideoNetwork,
    SequenceEncoder,
    SequenceFusionTransformer,
    SpectrogramEncoder,
    VectorEncoder,
    ViLT,
)

MODALITIES = ["image", "text", "audio"]
"""Of :class:`MixedNetwork`."""
INPUTS = {"image": "picture", "audio": "extra.audio"}
"""Where the inputs of :class:`MixedNetwork` are that are not called like their modality."""


def numbers(shape: tuple[int, ...], key: str, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Spread numbers in ``[low, high)``; the same bits with every release of torch, as only integers are multiplied."""
    count = 1
    for size in shape:
        count *= size
    places = (torch.arange(count, dtype=torch.int64) * 2654435761 + zlib.crc32(key.encode())) % 2**32
    return (low + (high - low) * (places.double() / 2**32)).float().view(shape)


def numbered(module: nn.Module, scale: float = 2.4) -> nn.Module:
    """Give all weights and statistics of a module numbers that depend on their names; returns it in eval mode.

    Args:
        module: Changed in place.
        scale: Of the weights with two axes or more, which is divided by the root of their inputs.
    """
    state = module.state_dict()
    module.load_state_dict({key: numbered_tensor(key, value, scale) for key, value in state.items()})
    return module.eval()


def numbered_tensor(key: str, value: Tensor, scale: float = 2.4) -> Tensor:
    """Numbers in the place of one entry of a ``state_dict``."""
    if not value.is_floating_point():
        return value
    if key.endswith("running_var"):
        return numbers(tuple(value.shape), key, 0.5, 1.5)
    if value.ndim > 1:
        bound = scale / max(value[0].numel(), 1) ** 0.5
        return numbers(tuple(value.shape), key, -bound, bound)
    center = 1.0 if key.endswith("weight") else 0.0  # that of a norm layer
    return numbers(tuple(value.shape), key, center - 0.3, center + 0.3)


class TinyNetwork(nn.Module):
    """Segments images: a convolution per modality, summed, BatchNorm, a head."""

    def __init__(self, channels: dict[str, int], num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.channels, self.num_classes = dict(channels), num_classes
        self.encoders = nn.ModuleDict({name: nn.Conv2d(size, width, 3, padding=1) for name, size in channels.items()})
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()]).sum(0)
        return self.head(torch.relu(self.norm(features)))


class ImageTokens(nn.Module):
    """Four tokens of an image: convolution, BatchNorm, pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, picture: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(picture)))
        return nn.functional.avg_pool2d(features, 2).flatten(2).transpose(1, 2)


class AudioTokens(nn.Module):
    """A token for each step; samples and steps are one axis of the linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(5, width)

    def forward(self, audio: Tensor) -> Tensor:
        return self.linear(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])


class MixedNetwork(nn.Module):
    """Three modalities in three kinds of arguments; one transformer block over all tokens; three outputs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        image, text, audio = ImageTokens(width), nn.Embedding(11, width), AudioTokens(width)
        self.encoders = nn.ModuleDict({"image": image, "text": text, "audio": audio})
        self.block = nn.TransformerEncoderLayer(width, 2, width, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(
        self, picture: Tensor, *, text: Tensor, extra: dict[str, Tensor], gains: Tensor | None = None
    ) -> Tensor:
        """``[B, 3]``; ``gains`` ``[3]`` is the same for all samples."""
        inputs = {"image": picture, "text": text, "audio": extra["audio"]}
        tokens = torch.cat([encoder(inputs[name]) for name, encoder in self.encoders.items()], 1)
        logits: Tensor = self.head(self.block(tokens).mean(1))
        return logits if gains is None else logits * gains


class Stream(nn.Sequential):
    """A stream of the user for MultiStreamVideoNetwork."""

    in_channels, out_channels = 3, 4

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten())


def mixed_network() -> nn.Module:
    """Always the same weights."""
    return numbered(MixedNetwork())


def mixed_call(batch: int = 3, gains: bool = False) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """A call of :class:`MixedNetwork`; the first samples are the same for all sizes of the batch."""
    picture = torch.stack([numbers((3, 4, 4), f"picture{i}") for i in range(batch)])
    text = torch.tensor([[(7 * i + 3 * j + 1) % 11 for j in range(4)] for i in range(batch)])
    audio = torch.stack([numbers((3, 5), f"audio{i}") for i in range(batch)])
    more = {"gains": torch.tensor([1.0, 0.5, 2.0])} if gains else {}
    return (picture,), {"text": text, "extra": {"audio": audio}, **more}


class TwoSensors(nn.Module):
    """Small enough to export: a convolution, and linear layers over a nested sequence; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.steps, self.head = nn.Conv2d(3, 4, 3), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, rgb: Tensor, steps: dict[str, Tensor]) -> dict[str, Tensor]:
        features = torch.tanh(self.conv(rgb)).mean((2, 3)) + self.steps(steps["values"]).mean(1)
        return {"logits": self.head(torch.relu(features)), "features": features}


def sensors_inputs(batch: int = 4) -> dict[str, Any]:
    """Inputs of :class:`TwoSensors`."""
    return {"rgb": numbers((batch, 3, 6, 6), "rgb"), "steps": {"values": numbers((batch, 5, 2), "values")}}


class Signals(Dataset[dict[str, Any]]):
    """Samples with a level 0, 1 or 2 that all modalities show under noise: an image, and a sequence of 3 to 6 steps.

    Args:
        split: Part of the key of every sample.
        kind: ``class`` has the level as target, ``number`` a sentiment in [-2, 2].
        length: Number of samples.
    """

    def __init__(self, split: str, kind: str = "class", length: int = 8) -> None:
        self.split, self.kind, self.length = split, kind, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        key, level = f"{self.split}/{index}", index % 3
        steps = 3 + index % 4
        sequence = {"values": level - 1 + numbers((steps, 3), f"{key}/motion"), "length": steps}
        if self.kind == "class":
            image = level - 1 + numbers((1, 8, 8), f"{key}/image")
            return {"inputs": {"image": image, "motion": sequence}, "target": level}
        text = {"values": level - 1 + numbers((4, 4), f"{key}/text"), "length": 4}
        return {"inputs": {"text": text, "motion": sequence}, "target": 2.0 * (level - 1)}


# Every network of the package, small, with inputs: name -> (network, inputs, modalities that are left out in turn).


def _sequence(batch: int, steps: int, channels: int, key: str) -> dict[str, Tensor]:
    return {"values": numbers((batch, steps, channels), key), "length": 1 + torch.arange(batch) % steps}


def _images(channels: Mapping[str, int], batch: int, size: int) -> dict[str, Any]:
    return {name: numbers((batch, count, size, size), name) for name, count in channels.items()}


def _segmenter(fusion: Any = "mean", decoder: Any = "unet", encoder: str = "tu-mobilenetv3_small_050") -> nn.Module:
    widths = {"unet": [8, 8, 8], "fpn": None, "segformer": None}[decoder]
    return MultiEncoderSegmenter(
        PAIR, 3, encoder, encoder_depth=3 if widths else 4, fusion=fusion, decoder=decoder, decoder_channels=widths
    )


def _late() -> nn.Module:
    encoders: dict[str, nn.Module] = {
        "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
        "sound": SpectrogramEncoder(8, width=4, out_channels=8, depth=2),
        "motion": SequenceEncoder(3, width=8, out_channels=8, depth=2, kernel_size=3),
        "vector": VectorEncoder(5, width=8, out_channels=8),
    }
    return LateFusionClassifier(encoders, 3, hidden=8)


def _late_inputs() -> dict[str, Any]:
    sequences = {"motion": _sequence(2, 6, 3, "motion")}
    images = {"image": numbers((2, 1, 8, 8), "image"), "sound": numbers((2, 1, 8, 10), "sound")}
    return {**images, **sequences, "vector": numbers((2, 5), "vector")}


def _three_sequences(batch: int = 2) -> dict[str, Any]:
    return {name: _sequence(batch, steps, 3, name) for name, steps in {"text": 4, "audio": 6, "video": 3}.items()}


def _vilt() -> nn.Module:
    sizes: dict[str, int] = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViLT(3, **sizes, image_size=16, patch_size=8, max_text_length=6)


def _vilt_inputs() -> dict[str, Any]:
    ids = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]])
    image = {"pixel_values": numbers((2, 3, 16, 16), "image"), "pixel_mask": torch.ones(2, 16, 16, dtype=torch.int64)}
    return {"image": image, "text": {"input_ids": ids, "attention_mask": (ids > 0).long()}}


PAIR, WIDTHS = {"rgb": 3, "depth": 1}, {"text": 3, "audio": 3, "video": 3}
PACKAGE_NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Any]]]] = {
    "segmenter": (_segmenter, lambda: _images(PAIR, 2, 16)),
    "segmenter_attention_fpn": (lambda: _segmenter("attention", "fpn"), lambda: _images(PAIR, 2, 32)),
    "segmenter_concat_segformer": (lambda: _segmenter("concat", "segformer"), lambda: _images(PAIR, 2, 32)),
    "segmenter_max_resnet": (lambda: _segmenter("max", encoder="resnet18"), lambda: _images(PAIR, 2, 16)),
    "late_fusion": (_late, _late_inputs),
    "sequence_fusion": (
        lambda: SequenceFusionTransformer(WIDTHS, 1, width=8, heads=2, layers=1, fusion_layers=1), _three_sequences
    ),
    "mult": (lambda: MulT(WIDTHS, 2, dim=8, heads=2, levels=1), _three_sequences),
    "vilt": (_vilt, _vilt_inputs),
    "cmnext": (
        lambda: CMNeXt("B0", ["rgb", "aolp", "nir"], 3), lambda: _images({"rgb": 3, "aolp": 3, "nir": 3}, 1, 64)
    ),
    "video": (
        lambda: MultiStreamVideoNetwork({"rgb": "mc3_18", "depth": Stream()}, 3, fusion_vote=True),
        lambda: {name: numbers((1, 3, 4, 16, 16), name) for name in PAIR},
    ),
}  # fmt: skip
"""Name to what makes the network and its inputs."""


def outputs_of(network: nn.Module, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Some outputs with everything there (``all``), and of each combination if the network is told what is there."""
    found = {"all": network(inputs)}
    if "available" in inspect.signature(network.forward).parameters:
        names = Modalities(inputs)
        for combination in names.combinations():
            mask = names.mask(combination).expand(len(found["all"]), -1)
            found[combination] = network(inputs, available=mask)
    return {name: output.flatten(1)[:, ::29].clone() for name, output in found.items()}
