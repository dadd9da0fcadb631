"""What a student learns from a completed sample: the values of the official code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.tasks.universal.losses import prototype_distance, temperature_divergence


def test_distillation_has_the_values_of_the_official_code(golden_root: Path) -> None:
    said = json.loads((golden_root / "h1_vicreg_passion.json").read_text())["passion"]
    with np.load(golden_root / "h1_vicreg_passion.npz") as values:
        found = {key.removeprefix("passion__"): torch.from_numpy(values[key]) for key in values if "passion" in key}
    target = found["target"].argmax(1)
    student, teacher = found["logit_student"].requires_grad_(), found["logit_teacher"].requires_grad_()
    divergence = temperature_divergence(student, teacher)
    assert divergence.item() == pytest.approx(said["kl_mean"], rel=1e-5)
    distance = prototype_distance(found["feature_student"], found["feature_teacher"], target, 4)
    assert distance.item() == pytest.approx(said["prototype"], rel=1e-4)
    for row, (kl, prototype) in enumerate(zip(said["kl_per_sample"], said["prototype_per_sample"])):
        one = slice(row, row + 1)
        assert temperature_divergence(student[one], teacher[one]).item() == pytest.approx(kl, rel=1e-5)
        features = found["feature_student"][one], found["feature_teacher"][one]
        assert prototype_distance(*features, target[one], 4).item() == pytest.approx(prototype, rel=1e-4)
    divergence.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None, "the teacher is a constant"


def test_a_class_that_a_sample_lacks_has_no_prototype() -> None:
    torch.manual_seed(0)
    features, target = torch.randn(2, 2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    target[0, :2] = 1
    three, two = (prototype_distance(*features, target, classes) for classes in (3, 2))
    assert torch.equal(three, two)
    unlabelled = torch.full_like(target, 255)
    assert prototype_distance(*features, unlabelled, 3) == 0
