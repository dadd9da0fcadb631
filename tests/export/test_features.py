"""Programs of a network with a fill of features: equal to the eager network, without encoders of absent modalities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import encoder_features
from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime, export_network
from lightning_mm.missing import FeatureMean, FeatureRegression, FeatureRetrieval, save_features
from lightning_mm.modalities import Modalities
from lightning_mm.models import LateFusionClassifier, SequenceEncoder, VectorEncoder
from lightning_mm.tasks import ClassificationTask

NAMES = Modalities(["rgb", "steps"])


def network() -> LateFusionClassifier:
    torch.manual_seed(0)
    encoders = {"rgb": VectorEncoder(3, 8, 6), "steps": SequenceEncoder(2, 300, 6)}
    return LateFusionClassifier(encoders, 4, mask_absent=False).eval()  # type: ignore[arg-type]


def inputs(size: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rgb, steps = torch.randn(size, 3, generator=generator), torch.randn(size, 8, 2, generator=generator)
    return {"rgb": rgb, "steps": steps}


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_programs_equal_the_eager_network(backend: str, tmp_path: Path) -> None:
    path = str(tmp_path / "features.safetensors")
    save_features(encoder_features(network(), NAMES, [((inputs(9, 1),), {})]), path)
    task = ClassificationTask(network(), list(NAMES), 4, fill=FeatureMean(path)).eval()
    export_network(
        task.model, NAMES, ((inputs(4, 2),), {}), tmp_path / "export", fill=FeatureMean(path), formats=[backend]
    )
    runtime, values, masks = Runtime(tmp_path / "export", backend), inputs(3, 3), NAMES.masks()
    expected = task(values, masks).detach()
    torch.testing.assert_close(runtime(values, available=masks), expected, rtol=1e-5, atol=1e-5)
    for row, name in enumerate(NAMES):
        alone = runtime({name: values[name][row : row + 1]})
        torch.testing.assert_close(alone, expected[row : row + 1], rtol=1e-5, atol=1e-5)
    sizes = {path.stem: path.stat().st_size for path in (tmp_path / "export").iterdir() if path.suffix != ".json"}
    weights = 4 * sum(parameter.numel() for parameter in task.model.encoders["steps"].parameters())  # type: ignore[union-attr,operator]
    assert sizes["rgb+steps"] - sizes["rgb"] > 0.9 * weights, "the large encoder is not in the program of the other one"
    for kind in (FeatureRetrieval, FeatureRegression):
        with pytest.raises(LightningMMError, match=f"the fill {kind.__name__} computes the features .* not exported"):
            export_network(network(), NAMES, ((inputs(4, 2),), {}), tmp_path / "none", fill=kind(path))
    assert not (tmp_path / "none").exists()
