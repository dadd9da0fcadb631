"""Networks that return something else in training mode: deep supervision, auxiliary heads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, adapt, load
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b"])
MASKS = NAMES.masks(["a", "a+b", "b"])
CALL = {
    "a": torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)),
    "b": torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
}


class Decoder(nn.Module):
    """Returns all of its heads in training mode."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.calls = form, 0
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.heads = nn.ModuleList([nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)])

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        x = self.dropout(self.norm(x))
        outputs = [head(x) for head in self.heads]
        if not self.training:
            return outputs[0]
        return {
            "list": outputs,
            "tuple": tuple(outputs),
            "stack": torch.stack(outputs, 1),
            "dict": dict(zip("xy", outputs)),
        }[self.form]


class Net(nn.Module):
    def __init__(self, form: str = "list", dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.decoder, self.dropout = nn.Conv2d(2, 4, 3, padding=1), Decoder(form), dropout

    def forward(self, a: Tensor, b: Tensor) -> Any:
        x = self.first(torch.cat([a, b], 1))
        return self.decoder(nn.functional.dropout(x, self.dropout, self.training))


def make(network: nn.Module, **settings: Any) -> Adapted:
    return adapt(network, NAMES, SSF(), basis=Additive(), example=((), CALL), **settings)


def leaves(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output.values() if isinstance(output, dict) else output)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("form", ["list", "tuple", "stack", "dict"])
def test_a_training_step_gets_what_the_network_returns_in_training_mode(form: str, grouped: bool) -> None:
    network = Net(form)
    reference = copy.deepcopy(network).eval()
    reference.decoder.training = True  # norm and dropout are frozen
    state = copy.deepcopy(network.state_dict())
    adapted = make(network, grouped=grouped)
    assert adapted.adapter.deep_supervision == ["decoder"]
    adapted.train()
    randomise(adapted)
    full, mixed = adapted(**CALL), adapted(**CALL, available=MASKS)
    assert type(full) is type(reference(**CALL))
    for one, other, base in zip(leaves(full), leaves(mixed), leaves(reference(**CALL)), strict=True):
        assert torch.equal(one, base)
        torch.testing.assert_close(other[1], base[1], rtol=1e-6, atol=1e-6)
        assert not torch.allclose(other[0], base[0])
    sum(head.square().mean() for head in leaves(mixed)).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in adapted.adapter.parameters())
    adapted.eval()
    with torch.no_grad():
        assert torch.equal(adapted(**CALL), reference.eval()(**CALL))
        assert isinstance(adapted.fold("a")(**CALL), Tensor)
    adapted.train()
    removed = adapted.remove()
    assert all(module.training for module in removed.modules())
    assert all(torch.equal(value, state[key]) for key, value in removed.state_dict().items())


def test_the_mode_at_the_start_is_that_of_the_network(tmp_path: Path) -> None:
    adapted = make(Net().eval())
    assert isinstance(adapted(**CALL), Tensor)
    assert isinstance(adapted.train()(**CALL), list)
    adapted.base.train()  # as Lightning does; norms and dropout stay frozen
    assert isinstance(adapted(**CALL), list)
    assert [name for name, module in adapted.base.named_modules() if module.training] == ["decoder"]
    adapted.save(tmp_path)
    again = load(tmp_path, adapted.remove().train())
    assert isinstance(again(**CALL), list)
    assert isinstance(again.eval()(**CALL), Tensor)


def test_the_probe_leaves_the_network_as_it_was() -> None:
    network = Net()
    make(network).remove()
    assert (network.decoder.calls, network.decoder.norm.num_batches_tracked.item()) == (network.decoder.calls, 0)
    assert all(module.training for module in network.modules())


def test_other_uses_of_the_training_mode_change_nothing() -> None:
    network = Net(dropout=0.5)
    network.decoder.form = "list"
    adapted = make(network)
    assert adapted.adapter.deep_supervision == ["decoder"]  # not the dropout of the network itself
    adapted.train()
    assert torch.equal(adapted(**CALL)[0], adapted(**CALL)[0])


class Random(nn.Module):
    """Its outputs and its dropout depend on one flag."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Any:
        x = nn.functional.dropout(self.first(torch.cat([a, b], 1)), 0.5, self.training)
        return [x, x] if self.training else x


class Targets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)

    def forward(self, a: Tensor, b: Tensor, targets: Tensor | None = None) -> Any:
        x = self.first(torch.cat([a, b], 1))
        if not self.training:
            return x
        if targets is None:
            raise ValueError("targets are needed in training")
        return {"loss": (x - targets).square().mean()}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Random, r"what it returns in training mode is random \(dropout, sampling\)"),
        (Targets, r"it does not run in training mode on the example \(.*targets are needed in training"),
    ],
)
def test_networks_that_cannot_follow_are_told_before_the_training(
    network: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.warns(UserWarning, match=f"{network.__name__} is frozen in eval mode, .*: {reason}"):
        adapted = make(network().eval())
    assert isinstance(adapted.train()(**CALL), Tensor)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out of the adapter")
def test_googlenet_returns_its_auxiliary_heads() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torchvision.models.GoogLeNet(num_classes=3, aux_logits=True, init_weights=False)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.net(torch.cat([a, b, b], 1))

    call = {name: torch.randn(2, 1, 64, 64) for name in ("a", "b")}
    adapted = adapt(Both(), NAMES, SSF(), basis=Additive(), example=((), call))
    assert adapted.adapter.deep_supervision == ["net"]
    adapted.train()
    assert type(adapted(**call)).__name__ == "GoogLeNetOutputs"
    assert isinstance(adapted.eval()(**call), Tensor)
