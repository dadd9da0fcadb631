"""Steps that call the network several times: each call gets its own mask, or one message says so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from tests.support.their_module import trainer


class Net(nn.Module):
    """Two inputs, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = nn.Linear(4, 2), nn.Linear(3, 2)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return self.rgb(rgb) + self.depth(depth)


class Pair(LightningModule):
    """A step on two parts of a batch, which ``calls`` makes."""

    def __init__(self, calls: Any) -> None:
        super().__init__()
        self.net, self.calls = Net(), calls
        self.saw: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.saw = self.calls(self, batch)
        return sum(one.square().mean() for one in self.saw)  # type: ignore[return-value]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def part(size: int, depth: bool) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(size)
    sample = [
        {
            "rgb": torch.randn(4, generator=generator),
            "depth": torch.randn(3, generator=generator),
            "mask": torch.tensor([True, depth]),
        }
        for _ in range(2 * size)
    ]
    return DataLoader(sample, size)  # type: ignore[arg-type]


def fit(folder: Path, calls: Any, where: str = "incomplete.mask", size: int = 4) -> Pair:
    module = Pair(calls)
    hook = FrozenBackboneAdapter(SSF(), Additive(), network="net", modalities=["rgb", "depth"], available=where)
    loaders = {"complete": part(size, True), "incomplete": part(4, False)}
    trainer(folder, [hook], epochs=1).fit(module, loaders)
    return module


def call(module: Pair, part: dict[str, Tensor]) -> Tensor:
    return module.net(part["rgb"], part["depth"])


def test_inputs_of_another_part_of_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LightningMMError,
        match=r"Net is called on the inputs of 'complete' in the batch with the `available` of another part, "
        r"'incomplete.mask'; call it inside `with self.adapter.using\(mask\)`",
    ):
        fit(tmp_path, lambda m, b: [call(m, b["complete"]), call(m, b["incomplete"])])


def test_several_calls_with_the_mask_of_the_batch_are_said(tmp_path: Path) -> None:
    """Two views, which may or may not have the same mask."""

    def views(module: Pair, batch: Any) -> list[Tensor]:
        one = batch["incomplete"]
        return [module.net(one["rgb"] * factor, one["depth"]) for factor in (1, 2)]

    with pytest.warns(UserWarning, match="Net is called more than once in a step, each time with the same `available`"):
        fit(tmp_path, views)


def test_calls_inside_their_own_masks_are_right_and_silent(tmp_path: Path) -> None:
    """Two loaders of different batch sizes, a teacher on complete data, and the base for comparison."""

    def calls(module: Pair, batch: Any) -> list[Tensor]:
        complete, incomplete = batch["complete"], batch["incomplete"]
        with module.adapter.using(None):
            made = [call(module, complete)]
        for one in (complete, incomplete):
            with module.adapter.using(one["mask"]):
                made.append(call(module, one))
        with module.adapter.disabled():
            made.append(call(module, incomplete))  # with the mask of the batch, as the next
        return [*made, call(module, incomplete)]

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = fit(tmp_path, calls, size=3)
    assert not [str(one.message) for one in said if "more than once" in str(one.message)]
    batch = {name: list(part(size, name == "complete"))[-1] for name, size in (("complete", 3), ("incomplete", 4))}
    net = module.net
    with module.adapter.disabled():
        whole = net(batch["complete"]["rgb"], batch["complete"]["depth"])
        filled = net(batch["incomplete"]["rgb"], torch.zeros(4, 3))
    assert [len(one) for one in module.saw] == [3, 3, 4, 4, 4]
    for one, expected in zip(module.saw, (whole, whole, filled, filled, filled)):
        assert torch.allclose(one, expected), "a fresh adapter is the zero-fill baseline"
