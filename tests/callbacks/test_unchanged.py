"""Looking at training batches before the training leaves no trace: state, modes, random numbers, order of the data."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_mm.adapters import SSF
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.callbacks.unchanged import unchanged
from tests.support.placement_modules import MODALITIES, Eager, Fusion, loader, sites, trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def state_of(module: LightningModule) -> dict[str, Any]:
    metrics = {name: metric.metric_state for name, metric in module.accuracy.items(keep_base=True)}
    counts = {name: metric.update_count for name, metric in module.accuracy.items(keep_base=True)}
    state = {key: value.clone() for key, value in module.state_dict().items() if not key.startswith("adapter.")}
    own = {name: str(getattr(module, name, None)) for name in ("losses", "counts", "latest")}
    hooks = sum(len(part._forward_hooks) for part in module.modules())
    return {"state": str(state), "metrics": str(metrics), "counts": counts, "own": own, "hooks": hooks}


class Spy(FrozenBackboneAdapter):
    """Notes what there is before and after the look."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._prepare(trainer, pl_module, stage)
        modes = {name: part.training for name, part in pl_module.named_modules()}
        before, rng = state_of(pl_module), torch.get_rng_state()
        super().setup(trainer, pl_module, stage)
        kept = dict(pl_module.named_modules())
        assert all(modes[name] == part.training for name, part in kept.items())
        hooks = before.pop("hooks") - state_of(pl_module)["hooks"]
        assert hooks == len(pl_module.adapter.candidates) - len(pl_module.adapter.sites)
        after = state_of(pl_module)
        assert before == {key: value for key, value in after.items() if key != "hooks"}
        assert "new" not in pl_module.counts
        assert not hasattr(pl_module, "latest")
        assert all(parameter.grad is None for parameter in pl_module.parameters())
        assert all(not parameter.any() for name, parameter in pl_module.adapter.named_parameters())
        assert torch.equal(rng, torch.get_rng_state())
        self.seen = True


def test_looking_changes_nothing_and_the_choice_is_that_of_the_budget(tmp_path: Path) -> None:
    module = Eager()
    spy = Spy(SSF(), modalities=MODALITIES, placement={"budget": 20})
    run = trainer(tmp_path, [spy])
    run.fit(module, loader())
    assert spy.seen
    assert len(module.losses) == 4, "of the epoch alone"
    assert module.adapter.parameters_per_combination() == 20, "a layer of 8 channels and the head's 2"
    assert len(sites(module)) == 2
    assert "head" in sites(module)
    held = {id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in module.adapter.parameters()}


def test_the_position_of_the_data_is_kept(tmp_path: Path) -> None:
    orders = []
    for placement in (None, {"budget": 20, "batches": 3}):

        class Order(Eager):
            seen: list[Any] = []  # noqa: RUF012

            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                self.seen.append(batch["camera"])

        module = Order()
        module.seen = []
        adapter = FrozenBackboneAdapter(SSF(), modalities=MODALITIES, placement=placement)
        trainer(tmp_path, [adapter]).fit(module, loader(torch.Generator().manual_seed(4)))
        orders.append(torch.cat(module.seen))
    assert torch.equal(*orders)


def test_what_is_undone_is_undone_after_an_error_too() -> None:
    module = Eager()
    module.itself = [module.losses]  # type: ignore[assignment]
    module.itself.append(module.itself)
    before = state_of(module)
    batch = next(iter(loader()))
    module.log = lambda *_: None  # type: ignore[method-assign]

    def fail() -> None:
        with unchanged(module, torch.device("cpu"), 0):
            module.training_step(batch, 0)
            module.accuracy.reset()
            module.model = nn.Linear(1, 1)  # type: ignore[assignment]
            raise RuntimeError("stop")

    random_state = random_states()
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert random_states() == random_state
    assert state_of(module) == before
    assert isinstance(module.model, Fusion)
