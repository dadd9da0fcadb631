"""What `sensitivity` says of each layer, against slow loops, finite differences and one layer that counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import (
    SSF,
    Adapted,
    Additive,
    Basis,
    Hyper,
    Kind,
    LayerSensitivity,
    LoRA,
    OneHot,
    Pairwise,
    ScaleOnly,
    Together,
    adapt,
    place,
    sensitivity,
    sensitivity_table,
)
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import (
    MIXED_INPUTS,
    MIXED_NAMES,
    MixedNetwork,
    mixed_call,
    row_of,
    trained_statistics,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*layers are left out of the adapter")

MASKS = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 0], [0, 0, 1]], dtype=torch.bool)


class Sum(nn.Module):
    """Two encoders, and one whose features never reach the output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rgb, self.depth, self.idle = nn.Linear(3, 4), nn.Linear(1, 4), nn.Linear(4, 4)
        self.active = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        features = self.active(self.rgb(rgb) + self.depth(depth))
        return self.head(features + 0 * self.idle(features))


def pairs(batch: int = 6, seed: int = 0) -> tuple[tuple[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    available = torch.tensor([[True, False], [False, True], [True, True]]).repeat(batch // 3, 1)
    return (torch.randn(batch, 3, generator=generator), torch.randn(batch, 1, generator=generator)), available


def adapted_sum(kind: Kind | None = None, basis: Basis | None = None) -> Adapted:
    return adapt(Sum(), ["rgb", "depth"], kind or SSF(), basis=basis, example=(pairs()[0], {}))


def square(adapted: Adapted) -> Any:
    return lambda batch, available: (adapted(*batch, available=available) - 1).square().mean()


def by_name(layers: list[LayerSensitivity]) -> dict[str, LayerSensitivity]:
    return {one.name: one for one in layers}


@pytest.mark.parametrize("basis", [OneHot(), Additive()], ids=["onehot", "additive"])
def test_gain_is_that_of_finite_differences(basis: Basis) -> None:
    adapted = adapted_sum(basis=basis)
    loss, batches = square(adapted), [pairs(seed=1), pairs(9, seed=2)]
    found = by_name(sensitivity(adapted.adapter, adapted.base, batches, loss))
    step = 2e-3
    for name in ("rgb", "depth", "idle", "head"):
        expected = 0.0
        for batch, available in batches:
            for parameter in adapted.adapter.banks[name].parameters():
                for entry in range(parameter.numel()):
                    values = []
                    for sign in (1, -1):
                        with torch.no_grad():
                            parameter.view(-1)[entry] = sign * step
                            values.append(float(loss(batch, available)))
                            parameter.view(-1)[entry] = 0
                    expected += ((values[0] - values[1]) / (2 * step)) ** 2 / len(batches)
        assert found[name].gain == pytest.approx(expected, rel=1e-2, abs=1e-7), name


def test_a_small_step_on_one_bank_lowers_the_loss_by_its_gain() -> None:
    adapted = adapted_sum(LoRA(rank=2))
    loss, (batch, available) = square(adapted), pairs(seed=3)
    found = by_name(sensitivity(adapted.adapter, adapted.base, [(batch, available)], loss))
    before = loss(batch, available).detach()
    for name in ("rgb", "head"):
        bank, rate = adapted.adapter.banks[name], 1e-3
        gradients = torch.autograd.grad(loss(batch, available), list(bank.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(bank.parameters(), gradients):
                parameter.sub_(rate * gradient)
            after = loss(batch, available).detach()
            for parameter, gradient in zip(bank.parameters(), gradients):
                parameter.add_(rate * gradient)
        assert float(before - after) / rate == pytest.approx(found[name].gain, rel=0.05), name


def test_disturbance_is_that_of_one_sample_after_the_other() -> None:
    network = MixedNetwork().eval()
    trained_statistics(network)
    call = mixed_call(len(MASKS))
    adapted = adapt(network, MIXED_NAMES, SSF(), inputs=MIXED_INPUTS, example=call)
    loss = lambda batch, available: adapted(*batch[0], **batch[1], available=available).square().mean()  # noqa: E731
    found = by_name(sensitivity(adapted.adapter, network, [(call, MASKS)], loss))
    outputs: dict[tuple[str, int, bool], Tensor] = {}
    modules = dict(network.named_modules())
    complete = torch.ones(1, 3, dtype=torch.bool)
    for row in range(len(MASKS)):
        args, kwargs = row_of(call, row)
        for whole, mask in ((True, complete), (False, MASKS[row : row + 1])):
            handles = [
                modules[site.name].register_forward_hook(
                    lambda m, a, out, key=(site.name, row, whole): outputs.__setitem__(  # type: ignore[misc]
                        key, (out[0] if isinstance(out, tuple) else out).detach().clone()
                    )
                )
                for site in adapted.adapter.sites
            ]
            adapted(*args, **kwargs, available=mask)
            for handle in handles:
                handle.remove()
    lacking = [row for row in range(len(MASKS)) if not MASKS[row].all()]
    for site in adapted.adapter.sites:
        channel = 1 if site.name.startswith("image") else -1
        whole = [outputs[site.name, row, True].movedim(channel, -1).flatten(0, -2) for row in range(len(MASKS))]
        parts = [outputs[site.name, row, False].movedim(channel, -1).flatten(0, -2) for row in range(len(MASKS))]
        size = torch.cat(whole).square().mean(0).sqrt()
        ratios = [float(((parts[r] - whole[r]) / size).norm() / (whole[r] / size).norm()) for r in lacking]
        assert found[site.name].disturbance == pytest.approx(sum(ratios) / len(lacking), rel=1e-4), site.name
    assert found["frames"].disturbance > 0
    assert math.isfinite(found["mixer.norm2"].gain)


def test_layers_come_in_forward_order() -> None:
    class Backwards(Sum):
        def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
            return self.head(self.idle(self.depth(depth)) + self.rgb(rgb))

    adapted = adapt(Backwards(), ["rgb", "depth"], SSF(), example=(pairs()[0], {}))
    found = sensitivity(adapted.adapter, adapted.base, [pairs()], square(adapted))
    assert [one.name for one in found] == ["depth", "idle", "rgb", "head"]
    assert place(found, 9, 100, "last") == ["head"], "SSF on its two channels takes 4"


def test_the_one_layer_that_matters_comes_first() -> None:
    """Only the features of depth are missed, and only its row of the head's weights brings them anywhere."""

    class One(Sum):
        def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
            quiet = 1e-3 * self.head(self.rgb(rgb).detach() + self.idle(rgb.new_zeros(len(rgb), 4)))
            return self.depth(depth)[:, :2] + quiet

    adapted = adapt(One(), ["rgb", "depth"], SSF(), example=(pairs()[0], {}))
    found = sensitivity(adapted.adapter, adapted.base, [pairs(), pairs(seed=1)], square(adapted))
    ordered = sorted(found, key=lambda one: -one.gain / one.parameters)
    assert ordered[0].name == "depth"
    assert ordered[0].gain > 100 * ordered[1].gain
    assert place(found, 8, 1000) == ["depth"]
    assert by_name(found)["rgb"].gain == 0.0, "its gradient is cut off"
    assert by_name(found)["idle"].disturbance == 0.0, "it never sees an input"


def test_what_nobody_observed_counts_as_no_loss_and_may_hold_anything() -> None:
    (rgb, depth), available = pairs(6)
    observed = torch.ones(6, 2, dtype=torch.bool)
    observed[:2] = available[:2]  # the first two were never complete
    results = []
    for poison in (7.0, math.nan):
        rgb[1], depth[0] = poison, poison
        adapted = adapted_sum()
        results.append(
            sensitivity(adapted.adapter, adapted.base, [((rgb, depth), available, observed)], square(adapted))
        )
    assert results[0] == results[1]
    adapted = adapted_sum()
    blind = sensitivity(adapted.adapter, adapted.base, [((rgb, depth), available, available)], square(adapted))
    assert all(math.isnan(one.disturbance) for one in blind)
    assert [one.gain for one in blind] == [one.gain for one in results[0]]
    with pytest.raises(LightningMMError, match=r"strategy 'disturbance': no layer's output could be compared"):
        place(blind, 8, 1000, "disturbance")


def test_looking_leaves_nothing_behind() -> None:
    adapted = adapted_sum()
    before = {key: value.clone() for key, value in adapted.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in adapted.modules()]
    first = sensitivity(adapted.adapter, adapted.base, [pairs(), pairs(seed=1)], square(adapted))
    assert all(torch.equal(value, before[key]) for key, value in adapted.state_dict().items())
    assert all(parameter.grad is None for parameter in adapted.parameters())
    assert [len(module._forward_hooks) for module in adapted.modules()] == hooks
    assert sensitivity(adapted.adapter, adapted.base, [pairs(), pairs(seed=1)], square(adapted)) == first


def test_calls_with_the_adapter_off_are_not_looked_at() -> None:
    """The network as its own teacher runs within the loss too."""
    adapted = adapted_sum()

    def taught(batch: Any, available: Tensor) -> Tensor:
        with torch.no_grad(), adapted.adapter.disabled():
            adapted(*(torch.zeros_like(one) for one in batch), available=torch.ones_like(available))
        return square(adapted)(batch, available)

    expected = sensitivity(adapted.adapter, adapted.base, [pairs()], square(adapted))
    assert sensitivity(adapted.adapter, adapted.base, [pairs()], taught) == expected


@pytest.mark.parametrize(
    "basis", [OneHot(), Additive(), Pairwise(), Hyper()], ids=["onehot", "additive", "pairwise", "hyper"]
)
@pytest.mark.parametrize("kind", [SSF(), ScaleOnly(), LoRA(rank=2), Together([SSF(), LoRA(rank=1)])])
def test_parameters_of_the_layers_add_up_to_those_of_the_adapter(kind: Kind, basis: Basis) -> None:
    call = mixed_call()
    adapter = adapt(MixedNetwork(), MIXED_NAMES, kind, basis=basis, inputs=MIXED_INPUTS, example=call).adapter
    assert sum(adapter.parameters_per_combination(adapter.bank(site)) for site in adapter.sites) == (
        adapter.parameters_per_combination()
    )


def test_mistakes_are_named() -> None:
    adapted = adapted_sum()
    batch, available = pairs()

    def look(loss: Any, *batches: Any) -> None:
        sensitivity(adapted.adapter, adapted.base, batches or [(batch, available)], loss)

    with pytest.raises(LightningMMError, match="no sample of 1 batches lacks a modality"):
        look(square(adapted), (batch, torch.ones_like(available)))
    with pytest.raises(LightningMMError, match="no sample of 0 batches lacks a modality"):
        sensitivity(adapted.adapter, adapted.base, [], square(adapted))
    with pytest.raises(LightningMMError, match=r"loss of batch 0 must be a scalar tensor, got a tensor \(6, 2\)"):
        look(lambda batch, available: adapted(*batch, available=available))
    with pytest.raises(LightningMMError, match="loss of batch 0 is nan"):
        look(lambda batch, available: square(adapted)(batch, available) * math.nan)
    with pytest.raises(LightningMMError, match="has no gradient, so it does not depend on the adapter"):
        look(lambda batch, available: square(adapted)(batch, available).detach())


def test_the_table_has_a_line_for_each_layer() -> None:
    layers = [LayerSensitivity("encoder", 10, 0.25, 5.0), LayerSensitivity("", 2000, math.nan, 0.0)]
    lines = sensitivity_table(layers, 100_000, ["encoder"]).splitlines()
    assert lines[0].count("|") == 8
    assert lines[2] == "| encoder | 10 | 0.010 % | 0.250 | 5 | 0.5 | x |"
    assert lines[3] == "| (the network itself) | 2,000 | 2.000 % | - | 0 | 0 |  |"
    assert "chosen" not in sensitivity_table(layers, 100_000)
