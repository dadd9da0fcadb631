"""Dice of regions: the reference numbers, a slow loop, the task's metrics in fit, test and sweep, volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_mm.errors import LightningMMError
from lightning_mm.models import MultiEncoderUNet
from lightning_mm.sweep import sweep
from lightning_mm.sweep.examples import collect_examples
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.tasks.metrics import RegionDice, Regions, region_dice
from lightning_mm.tasks.metrics.segmentation import confusion_per_sample

BRATS_2015 = Regions({"wt": [1, 2, 3, 4], "tc": [1, 3, 4], "et": [4]})
CHANNELS = {"flair": 1, "t2": 1}
SMALL = Regions(smallest={"et": 1000})
"""More than there are voxels."""


def test_the_reference_numbers(golden_root: Path) -> None:
    cases = json.loads((golden_root / "c3_brats_dice.json").read_text())["cases"]
    assert len(cases) == 9
    with np.load(golden_root / "c3_brats_dice.npz") as stored:
        for case in cases:
            classes = int(case[3])
            regions = {4: Regions(), 5: BRATS_2015}[classes]
            prediction, target = (torch.from_numpy(stored[f"{case}__{one}"]).long() for one in ("pred", "target"))
            confusion = confusion_per_sample(prediction, target, classes, 255)
            found = torch.stack(list(region_dice(confusion, regions).values()))[:, 0]
            assert found.tolist() == pytest.approx(stored[f"{case}__evaluate"][0].tolist(), rel=1e-5), case
            single = Regions({str(label): [label] for label in range(1, classes)}, {})
            separate = torch.stack(list(region_dice(confusion, single).values()))[:, 0]
            assert separate.tolist() == pytest.approx(stored[f"{case}__separate"][0].tolist(), rel=1e-5), case


def test_a_metric_of_an_epoch_is_the_mean_over_samples() -> None:
    prediction, target = torch.randint(0, 4, (2, 5, 4, 6, 3)).unbind()
    target[0][target[0] == 3] = 0
    prediction[0][prediction[0] == 3] = 0
    target[2, 0] = 255
    metric = RegionDice(4, 255, Regions(smallest={"et": 16, "wt": 1}))
    for rows in (slice(0, 3), slice(3, 5)):
        metric.update(prediction[rows], target[rows])
    found = {name: value.item() for name, value in metric.compute().items()}
    assert list(found) == ["dice_wt", "dice_tc", "dice_et", "dice_et_post", "dice_wt_post", "mdice"]
    expected: dict[str, list[float]] = {name: [] for name in found if name != "mdice"}
    for p, t in zip(prediction, target):
        counted = t != 255
        for region, classes in Regions().classes.items():
            ours, true = (torch.isin(one[counted], torch.tensor(classes)) for one in (p, t))
            for name, least in ((f"dice_{region}", 0), (f"dice_{region}_post", 16 if region == "et" else 1)):
                if name in expected:
                    kept = ours & (int(ours.sum()) >= least)
                    both = int(kept.sum() + true.sum())
                    expected[name].append(2 * int((kept & true).sum()) / both if both else 1.0)
    assert 0 < sum(one == 0 for one in expected["dice_et_post"]) < 4, "some are removed"
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-6), name
    assert found["mdice"] == pytest.approx(np.mean([found[f"dice_{one}"] for one in ("wt", "tc", "et")]), abs=1e-6)


def volumes(count: int = 5) -> list[dict[str, Any]]:
    rows = []
    for index in range(count):
        target = torch.randint(0, 4, (4, 8, 8)) * (torch.rand(4, 8, 8) < 0.3)
        inputs = {name: target[None] + 0.1 * torch.randn(1, 4, 8, 8) for name in CHANNELS}
        mask = torch.ones(2, dtype=torch.bool)
        rows.append({"inputs": inputs, "available": mask, "observed": mask, "target": target, "index": index})
    return rows


def task_of(regions: Any = SMALL, dims: Any = 3, **settings: Any) -> SemanticSegmentationTask:
    torch.manual_seed(0)
    network = MultiEncoderUNet(CHANNELS, num_classes=4, dims=dims, widths=[4, 8], head_width=4)
    return SemanticSegmentationTask(network, list(CHANNELS), 4, loss="ce+dice", regions=regions, **settings)


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def test_volumes_are_trained_tested_and_swept_alike() -> None:
    task = task_of()
    assert task.primary_metric == "mdice"
    rows = volumes()
    loader: Any = DataLoader(rows, batch_size=2, collate_fn=default_collate)  # type: ignore[arg-type]
    trainer(max_epochs=1).fit(task, loader, loader)
    (logged,) = trainer().test(task, loader, verbose=False)
    result = sweep(task, loader, bootstrap=20)
    full = {row.metric: row for row in result.rows if row.combination == "flair+t2"}
    assert set(full) == set(task.metric_directions)
    for name in ("mdice", "dice_wt", "dice_tc", "dice_et", "dice_et_post", "miou"):
        assert logged[f"test/{name}"] == pytest.approx(full[name].value, abs=1e-5), name
        assert full[name].low is not None
    outputs = [task(row["inputs"], row["available"]) for row in map(_one, rows)]
    confusion = torch.cat(
        [confusion_per_sample(task.predictions(out), row["target"][None], 4, 255) for out, row in zip(outputs, rows)]
    )
    means = {name: value.mean().item() for name, value in region_dice(confusion, SMALL).items()}
    assert full["dice_et"].value == pytest.approx(means["dice_et"], abs=1e-5)
    assert full["dice_et_post"].value < 1e-6 < full["dice_et"].value, "all were removed"
    examples = collect_examples({"zero_fill": task}, list(loader), result)
    most = [int((row["target"] > 0).sum((0, 1)).argmax()) for row in rows]
    for index, truth, image in zip(examples.index.tolist(), examples.truth, examples.inputs["t2"]):
        assert torch.equal(torch.from_numpy(truth).long(), rows[index]["target"][..., most[index]])
        assert image.shape == (4, 8, 3)


def _one(row: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {k: v[None] for k, v in row["inputs"].items()}, "available": row["available"][None]}


def test_targets_must_have_the_axes_of_the_network() -> None:
    with pytest.raises(LightningMMError, match=r"expected Int64\[B, D, H, W\], one label per voxel, got"):
        task_of().check_target(torch.zeros(2, 8, 8, dtype=torch.int64))
    with pytest.raises(LightningMMError, match=r"write target\.squeeze\(1\)"):
        task_of(dims=2).check_target(torch.zeros(2, 1, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (Regions({"wt": [1, 4]}, {}), "'wt' must be distinct classes from 0 to 3, got"),
        (Regions({"wt": [1, 1]}, {}), "'wt' must be distinct classes"),
        (Regions({"wt": []}, {}), "'wt' must be distinct classes"),
        (Regions({}, {}), "expected one or more regions"),
        (Regions({"wt": [1]}), "smallest for those alone"),
        (Regions(smallest={"et": 0}), "smallest of 'et' must be a whole number of at least 1"),
        ({"clases": {"wt": [1]}}, "unknown setting 'clases'"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_regions_are_refused(regions: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        task_of(regions)


@pytest.mark.wrong_types
def test_regions_come_from_a_checkpoint_as_plain_types() -> None:
    task = task_of({"smallest": {"et": 7}})
    assert task.hparams["regions"] == {"classes": Regions().classes, "smallest": {"et": 7}}
    assert isinstance(task.regions, Regions)
    again = task_of(task.hparams["regions"])
    assert again.regions == task.regions


def test_without_regions_nothing_changes() -> None:
    task = task_of(None)
    assert task.primary_metric == "miou"
    assert task.summable_statistics
    assert not any(name.startswith("dice") for name in task.metric_directions)
    assert isinstance(task(_one(volumes(1)[0])["inputs"]), Tensor)
