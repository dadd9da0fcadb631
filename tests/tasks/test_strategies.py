"""Strategies that distribute the weights of a network over processes are refused for adapters, before it is built."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.training.strategies import has_whole_network
from tests.support.their_module import callback, module


def with_strategy(strategy: Any) -> Trainer:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    trainer._accelerator_connector.strategy = strategy  # on a CPU, Lightning itself refuses some of them
    return trainer


class Sharded(DeepSpeedStrategy):
    """As it is without the package deepspeed."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, Sharded])
def test_a_network_in_parts_is_refused_by_name_with_the_way_out(strategy: Any) -> None:
    trainer, theirs = with_strategy(strategy()), module()
    assert not has_whole_network(trainer.strategy)
    message = rf"FrozenBackboneAdapter does not work with {strategy.__name__}: .* Use trainer.strategy: ddp; .* 0.0 MiB"
    with pytest.raises(LightningMMError, match=message):
        callback().setup(trainer, theirs, "fit")
    assert not hasattr(theirs, "adapter")
    assert all(one.requires_grad for one in theirs.net.parameters())


def test_copies_of_a_network_are_whole() -> None:
    assert has_whole_network(DDPStrategy())
    assert has_whole_network(with_strategy(DDPStrategy(find_unused_parameters=True)).strategy)
