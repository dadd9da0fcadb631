"""Training in half precision loses no step of the optimizer: the adapter stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import ScaleOnly
from lightning_mm.callbacks import FrozenBackboneAdapter


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Network()
        self.example_input_array = None

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        output: Tensor = self.model(**batch["inputs"])
        return output.float().square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-3)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.a(a) + self.b(b)))


def scales(precision: Any, folder: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    samples = [
        {
            "inputs": {"a": torch.randn(6, generator=generator), "b": torch.randn(4, generator=generator)},
            "available": torch.tensor([True, False]),
        }
        for _ in range(16)
    ]
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, precision=precision, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[FrozenBackboneAdapter(ScaleOnly(), modalities=["a", "b"], network="model")],
    )  # fmt: skip
    trainer.fit(module, DataLoader(samples, batch_size=8))
    assert isinstance(module.adapter, nn.Module)
    return {name: value.detach() for name, value in module.adapter.named_parameters()}


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*GPU available", "ignore:The number of train"
)
def test_steps_smaller_than_those_of_half_precision_are_kept(tmp_path: Path) -> None:
    expected = scales("32-true", tmp_path)
    for precision in ("bf16-true", "16-true", "bf16-mixed"):
        found = scales(precision, tmp_path)
        for name, value in found.items():
            assert value.dtype == torch.float32, (precision, name)
            assert value.any(), (precision, name)
            assert float(expected[name].abs().max()) < 3e-3
            torch.testing.assert_close(value, expected[name], rtol=0.1, atol=5e-5)
