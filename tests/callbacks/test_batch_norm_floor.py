"""The floor under the variance of re-estimated BatchNorms: scales have a limit, and statistics agree with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import BatchNormSSF, adapt, refit_batch_norm
from lightning_mm.callbacks import BatchNormRefit
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import trained_statistics


class Chain(nn.Module):
    """A BatchNorm whose channels belong to one modality each, a layer that is not linear, and another BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.last = nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.last(self.head(torch.relu(self.first(torch.cat([a, b], 1)))))
        return out


def test_features_that_hardly_vary_get_scales_up_to_a_limit() -> None:
    torch.manual_seed(0)
    net = Chain()
    trained_statistics(net)
    call: tuple[Any, ...] = ((torch.randn(40, 3), 1e-4 * torch.randn(40, 3)), {})
    scales, outputs = {}, {}
    for floor in (0.0, 0.01):
        adapted = adapt(copy.deepcopy(net), ["a", "b"], BatchNormSSF(), example=call)
        refit_batch_norm(adapted.adapter, adapted.base, [call], floor=floor)
        scales[floor] = max(float(bank.scale.detach().abs().max()) for bank in adapted.adapter.banks.values())  # type: ignore[union-attr,operator]
        with torch.no_grad():
            outputs[floor] = adapted(*call[0], available=torch.tensor([[False, True]]).expand(40, -1))
    assert scales[0.0] > 100
    assert scales[0.01] <= 10
    # a signal of tiny scale is not blown up to the scale of the others
    assert outputs[0.0].std(0).mean() > 10 * outputs[0.01].std(0).mean()
    # the statistics of the last layer are those of what it gets from the first one with the floor
    torch.testing.assert_close(outputs[0.01].mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    with pytest.raises(LightningMMError, match="floor must be between 0 and 1, got 2"):
        BatchNormRefit(floor=2)
