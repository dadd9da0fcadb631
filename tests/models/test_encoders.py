"""Taking idle parts out of encoders changes nothing but the size."""

from __future__ import annotations

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from lightning_mm.models.encoders import build_encoder, drop_idle


@pytest.mark.parametrize("name", ["resnet18", "mit_b0", "mobilenet_v2"])
def test_the_same_features_with_fewer_parameters(name: str) -> None:
    torch.manual_seed(0)
    plain = get_encoder(name, in_channels=2, depth=3, weights=None).eval()
    torch.manual_seed(0)
    slim = build_encoder("a", name, 2, 3, None)
    assert slim.training
    image = torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        for before, after in zip(plain(image)[2:], slim.eval()(image)[2:], strict=True):
            assert torch.equal(before, after)
    count, kept = (sum(p.numel() for p in encoder.parameters()) for encoder in (plain, slim))
    assert kept < 0.7 * count


def test_weights_used_without_running_their_module_stay() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.stages = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.stages[2](self.stages[0](self.attention(x, x, x)[0]))]

    network = Network()
    drop_idle(network, torch.zeros(1, 3, 4))
    assert isinstance(network.attention.out_proj, nn.Linear)
    assert isinstance(network.stages[0], nn.Linear)
    assert isinstance(network.stages[1], nn.Identity)
    assert isinstance(network.stages[2], nn.ReLU)


def test_what_runs_in_vain_goes_only_if_nothing_changes() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wasted, self.shaping, self.used = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> list[Tensor]:
            self.wasted(x)
            return [self.used(x), x.new_zeros(self.shaping(x).shape)]

    network = Network()
    drop_idle(network, torch.zeros(1, 4))
    # Without `shaping` the second output has another shape, so what ran is put back.
    assert all(isinstance(part, nn.Linear) for part in (network.wasted, network.shaping, network.used))
