"""The sweep on the real task, adapter and data module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_mm import ModalityDropoutDataModule
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.missing import FixedCombination
from lightning_mm.results import markdown, read, save
from lightning_mm.sweep import sweep
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.testing import FakeSegmentation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

CHANNELS = {"rgb": 3, "depth": 1}


class TwoStreams(nn.Module):
    """A convolution per modality, their mean, a norm and a classifier; takes no `available`."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Conv2d(count, 6, 3, padding=1) for name, count in CHANNELS.items()})
        self.norm, self.head = nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()]).mean(0)
        return self.head(self.norm(features).relu())


def build_task() -> SemanticSegmentationTask:
    torch.manual_seed(0)
    return SemanticSegmentationTask(TwoStreams(), list(CHANNELS), num_classes=3)


def build_data(**settings: object) -> ModalityDropoutDataModule:
    def dataset(split: str) -> FakeSegmentation:
        return FakeSegmentation(split, CHANNELS, num_classes=3, size=8, length=7, p_unobserved=0.2)

    return ModalityDropoutDataModule(dataset, list(CHANNELS), batch_size=3, **settings)  # type: ignore[arg-type]


def quiet() -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapted() -> SemanticSegmentationTask:
    """A task whose adapter is not the identity any more."""
    task, data = build_task(), build_data()
    data.setup("test")
    adapter = FrozenBackboneAdapter().attach(task, next(iter(data.test_dataloader())), "test", data)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.banks.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return task


def test_a_task_with_an_adapter_is_swept_with_it_off_and_on(adapted: SemanticSegmentationTask) -> None:
    result = sweep(adapted, build_data(), trainer=quiet(), bootstrap=0)
    base = sweep(build_task(), build_data(), trainer=quiet(), bootstrap=0)
    assert result.methods == ["zero_fill", "adapted"]
    for metric in ("miou", "macc", "mf1", "pixel_accuracy", "iou_0"):
        assert result.values("zero_fill", metric) == base.values("zero_fill", metric)
        assert result.full("adapted", metric) == base.full("zero_fill", metric)
    assert result.values("adapted") != result.values("zero_fill")
    np.testing.assert_array_equal(
        result.samples["adapted/rgb+depth/confusion"], base.samples["zero_fill/rgb+depth/confusion"]
    )
    numbers = result.parameters["adapted"]
    assert 0 < numbers["per_combination"] <= numbers["trained"]
    assert numbers["base"] == sum(parameter.numel() for parameter in TwoStreams().parameters())
    assert numbers["trained"] == sum(parameter.numel() for parameter in adapted.adapter.parameters())


@pytest.mark.filterwarnings("ignore:.*eval mode")
@pytest.mark.parametrize("combination", ["rgb", "depth", "rgb+depth"])
def test_equals_a_test_run_with_that_combination_alone(combination: str) -> None:
    # An independent path: Trainer.test, torchmetrics, and the policy of the data module; all modalities observed.
    def dataset(split: str) -> FakeSegmentation:
        return FakeSegmentation(split, CHANNELS, num_classes=3, size=8, length=7)

    one = ModalityDropoutDataModule(dataset, list(CHANNELS), batch_size=3, test_policy=FixedCombination(combination))
    (logged,) = quiet().test(build_task(), datamodule=one, verbose=False)
    result = sweep(build_task(), one, trainer=quiet(), bootstrap=0)
    assert result.value("zero_fill", combination) == pytest.approx(logged["test/miou"], abs=1e-6)
    for metric in ("macc", "mf1", "pixel_accuracy"):
        assert result.value("zero_fill", combination, metric) == pytest.approx(logged[f"test/{metric}"], abs=1e-6)


def test_a_sample_counts_where_it_observed_everything(adapted: SemanticSegmentationTask) -> None:
    data = FakeSegmentation("test", CHANNELS, num_classes=3, size=8, length=7, p_unobserved=0.2)
    observed = [{name for name, value in data[i]["inputs"].items() if value is not None} for i in range(len(data))]
    result = sweep(adapted, build_data(), trainer=quiet(), bootstrap=0)
    for row in result.rows:
        assert row.n == sum(set(row.combination.split("+")) <= have for have in observed)
    assert len({row.n for row in result.rows}) > 1


def test_saved_and_shown(adapted: SemanticSegmentationTask, tmp_path: Path) -> None:
    result = sweep(adapted, build_data(), trainer=quiet(), bootstrap=60, config={"note": "a test"})
    again = read(save(result, tmp_path)["csv"])
    assert again.rows == result.rows
    assert again.primary_metric == "miou"
    reused = dict.fromkeys(["zero_fill", "adapted"], "none: in a short sweep a trial takes longer than it saves")
    assert again.config == {"split": "test", "seed": 0, "note": "a test", "reused": reused}
    assert again.bootstrap is not None
    assert result.bootstrap is not None
    assert again.bootstrap.key == result.bootstrap.key
    for row in result.rows:
        assert row.low is None or row.low <= row.high  # type: ignore[operator]
    assert "miou in %" in markdown(again)


def test_sums_are_a_short_cut_for_this_task(adapted: SemanticSegmentationTask) -> None:
    slow = sweep(adapted, build_data(), trainer=quiet(), bootstrap=60)
    before = getattr(adapted, "summable_statistics", False)
    try:
        adapted.summable_statistics = not before
        fast = sweep(adapted, build_data(), trainer=quiet(), bootstrap=60)
    finally:
        adapted.summable_statistics = before
    assert fast.rows == slow.rows
