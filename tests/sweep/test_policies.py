"""A sweep under policies equals a test with each as test_policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import (
    Blockwise,
    DependsOnField,
    IndependentMissing,
    MissingnessPolicy,
    MissingRates,
    UniformCombinations,
)
from lightning_mm.results.robust import policy_figures
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
WIDTHS = {"audio": 4, "video": 3}
POLICIES: dict[str, MissingnessPolicy] = {
    "mcar": IndependentMissing(0.5),
    "mnar": DependsOnField("label", {"0": {"audio": 0.9}}, default={"video": 0.9}),
    "block": Blockwise(MissingRates(0.4), length=5),
}


class Clips(Dataset[dict[str, Any]]):
    """Some lack a modality."""

    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.inputs = {name: torch.randn(40, width, generator=generator) for name, width in WIDTHS.items()}

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        inputs: dict[str, Tensor | None] = {name: values[index] for name, values in self.inputs.items()}
        if index % 7 == 3:
            inputs["video"] = None
        return {"inputs": inputs, "target": index % 3}


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 3
        self.parts = nn.ModuleDict({name: nn.Linear(width, 3) for name, width in WIDTHS.items()})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.parts[name](inputs[name]) for name in WIDTHS]).sum(0)


def trainer() -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip


def data(policy: MissingnessPolicy | None = None) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(Clips, list(WIDTHS), test_policy=policy, batch_size=6, seed=5)


def test_it_equals_a_test_under_each_policy() -> None:
    torch.manual_seed(0)
    task = ClassificationTask(Linears(), list(WIDTHS), 3)
    result = sweep(task, data(), trainer=trainer(), bootstrap=0, policies=POLICIES)
    grid = policy_figures(result)
    assert grid is not None
    assert grid.columns == tuple(POLICIES)
    for policy, figure in zip(POLICIES.values(), grid.rows["zero_fill"]):
        (tested,) = trainer().test(task, data(policy), verbose=False)
        assert figure.value == pytest.approx(tested["test/accuracy"])
    assert len({figure.value for figure in grid.rows["zero_fill"]}) > 1
    other = sweep(task, data(), trainer=trainer(), bootstrap=0)
    assert other.rows == result.rows, "combinations are as without"


def test_shards_draw_the_same() -> None:
    from lightning_mm.results import merge

    task = ClassificationTask(Linears(), list(WIDTHS), 3)
    whole, *parts = (
        sweep(task, data(), trainer=trainer(), bootstrap=0, policies=POLICIES, shard=shard)
        for shard in (None, "1/2", "2/2")
    )
    assert policy_figures(merge(parts)) == policy_figures(whole)


def test_a_loader_and_mistakes() -> None:
    task = ClassificationTask(Linears(), list(WIDTHS), 3)
    module = data()
    loader = module.plain_dataloader("test")
    result = sweep(task, loader, trainer=trainer(), bootstrap=0, policies={"uniform": UniformCombinations()})
    assert result.samples["available.uniform"].shape == (40, 2)
    with pytest.raises(LightningMMError, match="call bound first"):
        sweep(task, loader, trainer=trainer(), bootstrap=0, policies={"mnar": POLICIES["mnar"]})
    with pytest.raises(LightningMMError, match="a policy's name must be non-empty and without '/'"):
        sweep(task, loader, trainer=trainer(), bootstrap=0, policies={"a/b": UniformCombinations()})


def test_a_mistake_costs_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    task = ClassificationTask(Linears(), list(WIDTHS), 3)
    monkeypatch.setattr(Linears, "forward", lambda *_: pytest.fail("a network ran"))
    wrong = {
        "p_missing names the modality 'smell'": DependsOnField("label", {"0": {"smell": 0.1}}, default=0.0),
        "has no field 'site'": DependsOnField("site", {"A": 0.1}),
        "would leave samples without a modality": DependsOnField("label", {"2": 0.9}, default=0.0),
    }
    for text, policy in wrong.items():
        with pytest.raises(LightningMMError, match=text):
            sweep(task, data(), trainer=trainer(), bootstrap=0, policies={"wrong": policy})
