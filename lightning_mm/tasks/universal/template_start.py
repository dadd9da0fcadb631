"""The start of a learnable template: the mean of the training data that exist.

Shapes: C channels of all modalities together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.models.universal.network import UniversalSegmenter


@torch.no_grad()
def start_template(network: UniversalSegmenter, trainer: Trainer, limit: int = 5000) -> None:
    """Set the template to the mean of each modality over the training samples that have it; zeros if none has.

    Args:
        network: Changed in place, alike in all processes.
        trainer: Its data module loads the training split, whole and without augmentation; without one the template
            stays.
        limit: Samples that are averaged at most.

    Raises:
        LightningMMError: If whole samples are not of the template's size.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    if not hasattr(datamodule, "plain_dataloader"):
        return
    template, channels = network.template, list(network.channels.values())
    sums = torch.zeros(sum(channels), *template.size, dtype=torch.float64)
    counts = torch.zeros(len(channels), dtype=torch.float64)
    left = limit
    for batch in datamodule.plain_dataloader("train", whole=True):
        if left <= 0:
            break
        left -= len(batch["observed"])
        for column, (name, part) in enumerate(zip(network.channels, sums.split(channels))):
            rows = batch["observed"][:, column]
            images: Tensor = batch["inputs"][name][rows]
            if len(images) and tuple(images.shape[2:]) != template.size:
                raise LightningMMError(
                    f"the template is for samples of {template.size}, but whole training samples of {name!r} are "
                    f"{tuple(images.shape[2:])}; set size of the network to that"
                )
            part += images.to("cpu", torch.float64).sum(0)
            counts[column] += len(images)
    flat = torch.cat([sums.flatten(), counts])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        flat = flat.to(template.values.device)  # of the backend
        dist.all_reduce(flat)
        flat = flat.cpu()
    sums, counts = flat[: sums.numel()].view_as(sums), flat[sums.numel() :]
    per_channel = counts.repeat_interleave(torch.tensor(channels)).clamp(min=1)
    template.values.copy_(sums / per_channel.view(-1, *[1] * len(template.size)))
