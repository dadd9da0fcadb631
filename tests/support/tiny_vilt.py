"""ViLT in the sizes of the reference numbers, and its inputs."""

from __future__ import annotations

from typing import Any

import torch

from lightning_mm.missing import Constant, EmptyText, PerModality
from lightning_mm.modalities import Modalities
from lightning_mm.models import ViLT
from tests.support.adapter_networks import randomise

NAMES = Modalities(["image", "text"])
FILL = PerModality({"image": Constant({"image": 1.0}), "text": EmptyText(cls=2, sep=3)})
SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 48,
    "patch_size": 8, "max_text_length": 10,
}  # fmt: skip
"""The sizes of the reference numbers."""


def tiny(num_classes: int = 11, **settings: Any) -> ViLT:
    torch.manual_seed(0)
    network = ViLT(num_classes, **{**SIZES, **settings})
    randomise(network, scale=0.3)
    return network.eval()


def inputs(batch: int = 3) -> dict[str, Any]:
    """Images of 48 x 64 pixels, the second one narrower; texts of 9, 6 and 2 words."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch, 3, 48, 64, generator=generator)
    pixel_mask = torch.ones(batch, 48, 64, dtype=torch.int64)
    pixel_mask[1:2, :, 48:] = 0
    ids = torch.randint(5, 60, (batch, 9), generator=generator)
    lengths = torch.tensor([9, 6, 2])[torch.arange(batch) % 3]
    mask = (torch.arange(9) < lengths[:, None]).long()
    text = {"input_ids": ids * mask, "attention_mask": mask}
    return {"image": {"pixel_values": image * pixel_mask[:, None], "pixel_mask": pixel_mask}, "text": text}
