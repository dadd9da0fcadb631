"""Learning-rate schedules of reproduced recipes."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_mm.errors import LightningMMError


class WarmupPolynomial(LRScheduler):
    """A linear warm-up, then a polynomial decay to zero at the end.

    With ``lr_interval: step`` the task steps it after every batch, and the curve is the same with finer steps: the task
    sets how many of them an epoch of its trainer has, whatever the batch size and the number of devices.

    Args:
        optimizer: Its learning rates are multiplied by a factor from 0 to 1.
        max_epochs: Epochs until zero.
        warmup_epochs: Epochs until the learning rate is the optimizer's own.
        warmup_ratio: The factor of the first epoch (or step).
        power: 1 decays in a line; below, slower at first.
        steps_per_epoch: Steps of this schedule in an epoch; by default the number given to :meth:`divide`, else 1.

    Raises:
        LightningMMError: If a setting is out of range.

    Example:
        >>> from torch import nn
        >>> from torch.optim import SGD
        >>> optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = WarmupPolynomial(optimizer, max_epochs=4, warmup_epochs=2, power=1.0)
        >>> rates = []
        >>> for epoch in range(4):
        ...     rates.append(round(schedule.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.1, 0.55, 1.0, 0.5]

    Reference:
        The recipe of Reza et al., arXiv 2310.03986: AdamW 6e-5, 100 epochs, and these defaults.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_epochs: int,
        warmup_epochs: int = 10,
        warmup_ratio: float = 0.1,
        power: float = 0.9,
        steps_per_epoch: int | None = None,
    ) -> None:
        if not 0 <= warmup_epochs < max_epochs:
            raise LightningMMError(
                f"expected 0 <= warmup_epochs < max_epochs, got {warmup_epochs} and {max_epochs}; "
                "a short run needs a shorter warm-up"
            )
        if not (0 <= warmup_ratio <= 1 and power > 0 and (steps_per_epoch is None or steps_per_epoch >= 1)):
            raise LightningMMError(
                "expected 0 <= warmup_ratio <= 1, power > 0 and steps_per_epoch >= 1, got "
                f"{warmup_ratio}, {power} and {steps_per_epoch}"
            )
        self.max_epochs, self.warmup_epochs, self.steps_per_epoch = max_epochs, warmup_epochs, steps_per_epoch
        self.warmup_ratio, self.power = warmup_ratio, power
        self._place(steps_per_epoch or 1)
        super().__init__(optimizer)

    def divide(self, steps_per_epoch: int) -> None:
        """Set before the first step how many of them an epoch has, unless ``steps_per_epoch`` was given."""
        if self.steps_per_epoch is None:
            self._place(steps_per_epoch)

    def _place(self, steps_per_epoch: int) -> None:
        self.max_steps, self.warmup_steps = self.max_epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch

    def factor(self, step: int) -> float:
        """The factor of the optimizer's own learning rate."""
        if step < self.warmup_steps:
            return self.warmup_ratio + (1 - self.warmup_ratio) * step / self.warmup_steps
        left = self.max_steps - step
        return float(max(left, 0) / (self.max_steps - self.warmup_steps)) ** self.power

    def get_lr(self) -> list[float | Tensor]:
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]


def divide_epochs(trainer: Trainer) -> None:
    """Set in schedules that step with the optimizer how many steps an epoch of this fit has.

    Raises:
        LightningMMError: If the training data have no length.
    """
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if config.interval == "step" and isinstance(schedule, WarmupPolynomial) and schedule.steps_per_epoch is None:
            if math.isinf(trainer.num_training_batches):
                raise LightningMMError("WarmupPolynomial: the training data have no length; set steps_per_epoch")
            schedule.divide(math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
