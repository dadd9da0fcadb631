"""Several processes that train one network: which of Lightning's strategies will do, and the mean over all samples."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError

SHARING = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
"""They may keep a part of every weight in each process."""


def has_whole_network(strategy: object) -> bool:
    """Whether each process has all of the network; processes that share one must all run it, equally often."""
    return isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)) and not isinstance(strategy, SHARING)


def check_whole_network(trainer: Trainer, base: nn.Module, who: str) -> None:
    """Refuse a strategy that distributes the weights of one network over processes.

    Args:
        trainer: Of the run that begins.
        base: The network, for the message.
        who: What does not work with it.

    Raises:
        LightningMMError: If it is one; the message says what to use.
    """
    if not isinstance(trainer.strategy, SHARING):
        return
    size = sum(one.numel() * one.element_size() for one in [*base.parameters(), *base.buffers()])
    raise LightningMMError(
        f"{who} does not work with {type(trainer.strategy).__name__}: it distributes the weights before the adapter is "
        "there, whose gradients would not be those of all processes. Use trainer.strategy: ddp; a frozen base needs no "
        f"gradients or optimizer states, so each process holds {size / 2**20:,.1f} MiB of it, and communicates only "
        "the adapter. In a training loop of your own, `fully_shard` of torch works on the network that `adapt` returns"
    )


def weighted_by_share(loss: Tensor, weight: Tensor) -> Tensor:
    """Weight the mean loss of this process, so that the mean over processes is the mean over all that counts.

    ``DistributedDataParallel`` averages gradients over processes, which may have unequal numbers of labelled pixels.

    Args:
        loss: A mean; or several, of any shape.
        weight: What it was divided by, of the same shape, zero if nothing counts here.

    Returns:
        ``loss * weight / mean of weight over processes``; in one process ``loss``. All processes must call this.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return loss
    total = weight.detach().clone()
    dist.all_reduce(total)
    share = (weight.detach() * dist.get_world_size()).to(loss.dtype) / total.to(loss.dtype)
    return loss * torch.where(total > 0, share, torch.ones_like(share))
