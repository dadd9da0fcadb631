"""Networks, hooks and precisions that do not suit a call in two steps, see adapters/encoders_first.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Kind, PredictedFeatures, Together, adapt
from lightning_mm.errors import LightningMMError, NotApplicableError
from tests.support.reversed_encoders import MASKS, NAMES, Network, inputs, make


class Sequences(nn.Module):
    """Encoders return channels before steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Conv1d(3, 7, 1) for name in NAMES})

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return sum(self.encoders[name](x).mean(2) for name, x in (("a", a), ("b", b), ("c", c)))


def sequences(batch: int, steps: int) -> dict[str, Tensor]:
    return {name: torch.randn(batch, 3, steps) for name in NAMES}


def test_hooks_of_the_user_on_the_network_hold_for_both_steps() -> None:
    adapted, available = make(), {name: NAMES.mask(name).expand(len(MASKS), -1) for name in ("a+b+c", "b+c")}

    def double(module: nn.Module, args: Any, kwargs: dict[str, Tensor]) -> Any:
        return args, {name: 2 * value for name, value in kwargs.items()}

    expected = {one: adapted(**double(adapted, (), inputs())[1], available=mask) for one, mask in available.items()}
    adapted.base.register_forward_pre_hook(double, with_kwargs=True)
    for one, mask in available.items():
        assert torch.equal(adapted(**inputs(), available=mask), expected[one])
        with torch.no_grad():
            torch.testing.assert_close(adapted.fold(one)(**inputs()), expected[one])


def test_gradients_where_the_network_changes_outputs_of_adapted_encoders_in_place() -> None:
    adapted = make(Together([SSF(), PredictedFeatures(2)]))
    adapted(**inputs(), available=MASKS).square().sum().backward()
    together = [parameter.grad for parameter in adapted.adapter.parameters()]
    adapted.zero_grad()
    for row in range(len(MASKS)):
        one = {name: value[row : row + 1] for name, value in inputs().items()}
        adapted(**one, available=MASKS[row : row + 1]).square().sum().backward()
    for found, parameter in zip(together, adapted.adapter.parameters()):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-5)


def test_double_precision() -> None:
    adapted = make()
    expected = adapted(**inputs(), available=MASKS)
    given = {name: value.double() for name, value in inputs().items()}
    found = adapted.double()(**given, available=MASKS)
    assert {parameter.dtype for parameter in adapted.adapter.parameters()} == {found.dtype} == {torch.float64}
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)


def test_sequences_of_another_length() -> None:
    adapted = adapt(Sequences(), NAMES, PredictedFeatures(), example=((), sequences(2, 5)))
    with pytest.raises(LightningMMError, match=r"'encoders.\w' returned \[\d, 7, 6\], expected 5 channels on axis 2"):
        adapted(**sequences(9, 6), available=MASKS)


@pytest.mark.parametrize("kind", [PredictedFeatures(), Together([SSF(), PredictedFeatures()])])
def test_one_encoder_alone_is_refused(kind: Kind) -> None:
    with pytest.raises(NotApplicableError, match=r"only that of 'encoders.b' is left: `exclude`"):
        make(kind, exclude=["encoders.a", "encoders.c"])


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
def test_scripted_encoders_are_refused() -> None:
    network = Network()
    for name in ("a", "c"):
        network.encoders[name] = torch.jit.script(network.encoders[name])
    with pytest.raises(NotApplicableError, match="has only 'b'"):
        adapt(network, NAMES, PredictedFeatures(), example=((), inputs(2)))
