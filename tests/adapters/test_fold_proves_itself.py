"""A folded network equals the adapted one, whatever else changes the call of a layer, or is refused by name."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from lightning_mm.adapters import IA3, SSF, Adapted, Additive, BitFit, Kind, LoRA, OneHot, Together, adapt, load
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b"])
GENERATOR = torch.Generator().manual_seed(1)
INPUTS = {"a": torch.randn(5, 4, 6, generator=GENERATOR), "b": torch.randn(5, 2, 6, generator=GENERATOR)}
KINDS: dict[str, Callable[[], Kind]] = {
    "SSF": SSF,
    "BitFit": BitFit,
    "LoRA": lambda: LoRA(2),
    "LoRA and SSF": lambda: Together([LoRA(2), SSF()]),
}


class Network(nn.Module):
    """Convolutions around one layer that a test changes."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Conv1d(4, 6, 3, padding=1), nn.Conv1d(2, 6, 1), nn.Conv1d(6, 3, 1)
        self.layer = layer if layer is not None else nn.Conv1d(6, 6, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.layer(torch.relu(self.a(a) + self.b(b))))


class Standardised(nn.Conv1d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = (weight - weight.mean((1, 2), keepdim=True)) / weight.std((1, 2), keepdim=True)
        return super()._conv_forward(input, weight, bias)


class Derived(nn.Conv1d):
    """Its weight is computed from another parameter."""

    def __init__(self) -> None:
        super().__init__(6, 6, 3, padding=1)
        self.raw = nn.Parameter(self._parameters.pop("weight").data)  # type: ignore[union-attr]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.tanh(self.raw)


def circular(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv1d(F.pad(input, (1, 1), mode="circular"), weight, bias)


def around(module: nn.Conv1d, input: Tensor) -> Tensor:
    return torch.tanh(type(module).forward(module, input))


def of_class(layer: Callable[[], nn.Module]) -> Callable[[], Network]:
    torch.manual_seed(0)
    return lambda: Network(layer())


def changed(change: Callable[[Any], object]) -> Callable[[], Network]:
    def make() -> Network:
        network = Network()
        change(network)
        return network

    return make


def closure(network: Network) -> None:
    inner = network.layer.forward
    network.layer.forward = lambda input: torch.tanh(inner(input))


def rewriting(network: Network) -> None:
    raw = network.layer.weight.detach().clone()  # type: ignore[operator,union-attr]

    def standardise(module: Any, args: Any) -> None:
        module.weight.data = raw / raw.std()

    network.layer.register_forward_pre_hook(standardise)


RIGHT: dict[str, Callable[[], Network]] = {
    "_conv_forward of a class": of_class(lambda: Standardised(6, 6, 3, padding=1)),
    "_conv_forward on the object": changed(
        lambda net: setattr(net.layer, "_conv_forward", types.MethodType(circular, net.layer))
    ),
    "a weight that is a property": of_class(Derived),
    "a closure as forward": changed(closure),
    "a method as forward": changed(lambda net: setattr(net.layer, "forward", types.MethodType(around, net.layer))),
    "a partial as forward": changed(lambda net: setattr(net.layer, "forward", functools.partial(around, net.layer))),
    "a forward that returns its input": changed(lambda net: setattr(net.layer, "forward", lambda input: input)),
    "a hook": changed(lambda net: net.layer.register_forward_hook(lambda module, args, output: output.tanh())),
    "a hook that rewrites the weight": changed(rewriting),
    "a hook on the input": changed(lambda net: net.layer.register_forward_pre_hook(lambda module, args: args[0] * 2)),
}


def build(network: nn.Module, kind: Kind | None = None, basis: Any = None) -> Adapted:
    adapted = adapt(network.eval(), NAMES, kind or SSF(), basis=basis or Additive(), example=((), INPUTS))
    randomise(adapted)
    return adapted


def check_fold(adapted: Adapted) -> None:
    for combination in ("a", "b", "a+b"):
        folded = adapted.fold(combination)
        with torch.no_grad():
            expected = adapted(**INPUTS, available=NAMES.mask(combination).expand(5, -1))
            for one in (folded, copy.deepcopy(folded)):
                torch.testing.assert_close(one(**INPUTS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_where_more_than_the_weights_decides_the_adapter_stays_at_the_output(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (case, make) in enumerate(RIGHT.items()):
        if kind == "BitFit" and case == "a weight that is a property":
            continue
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            try:
                check_fold(build(make(), KINDS[kind](), OneHot() if number % 2 else Additive()))
            except BaseException as error:
                error.add_note(case)
                raise
        assert {record.message.split(",")[0] for record in caplog.records} == {"layer 'layer'"}, case


def test_a_scale_of_inputs_stays_before_the_layer() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(12, 6), nn.Linear(6, 2)
            self.layer.forward = functools.partial(around, self.layer)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.layer(torch.cat([a.mean(1), b.mean(1)], 1)))

    check_fold(build(Flat(), IA3(outputs=["head"], inputs=["layer"])))


def test_hooks_of_the_user_that_came_later_stay_behind_those_of_the_adapter() -> None:
    adapted, seen = build(Network()), []
    adapted.base.layer.register_forward_hook(lambda module, args, output: output * 3)  # type: ignore[union-attr]
    adapted.base.layer.register_forward_hook(lambda module, args, output: seen.append(output))  # type: ignore[union-attr]
    check_fold(adapted)
    folded = adapted.fold("a")
    assert pickle.loads(pickle.dumps(folded.at_output)).state_dict().keys() == folded.at_output.state_dict().keys()
    assert len(folded.double().at_output.state_dict()) == 2
    assert all(value.dtype == torch.float64 for value in folded.state_dict().values())


def test_what_folds_into_the_weights_has_no_hooks_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    tied = Network()
    tied.head = nn.Conv1d(6, 6, 3, padding=1)
    tied.head.weight = tied.layer.weight  # type: ignore[assignment]
    for network in (Network(), tied):
        adapted = build(network)
        check_fold(adapted)
        assert not hasattr(adapted.fold("a"), "at_output")
    assert not caplog.records


# refused --------------------------------------------------------------------------------------------------------------


class ReadsWeights(Network):
    """The weight of ``layer`` is also used outside of its call."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        hidden = torch.relu(self.a(a) + self.b(b))
        return self.head(self.layer(hidden) + F.conv1d(hidden, self.layer.weight, padding=1))  # type: ignore[arg-type]


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(input)


def test_a_network_that_reads_the_weights_of_a_layer_is_refused_by_name(tmp_path: Path) -> None:
    adapted = build(ReadsWeights())
    with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded: .*'a' differs.*outside of its call"):
        adapted.fold("a")
    adapted.fold("a+b")
    adapted.save(tmp_path)
    again = load(tmp_path, ReadsWeights())
    again.fold("a")  # nothing to compare with
    with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded: .* outside of its call"):
        again.fold("a", ((), INPUTS))


def test_a_global_hook_is_found_at_its_first_layer() -> None:
    def harder(module: nn.Module, args: Any, output: Any) -> Any:
        return torch.tanh(3 * output) if isinstance(module, nn.Conv1d) and module.kernel_size == (3,) else None

    adapted = build(Network(), SSF())
    handle = register_module_forward_hook(harder)
    try:
        with pytest.raises(LightningMMError, match=r"layer 'a' cannot be folded: .* something besides its weights"):
            adapted.fold("a")
    finally:
        handle.remove()
    check_fold(adapted)


def test_parts_that_were_replaced_after_adapting_are_refused_by_name() -> None:
    adapted = build(Network())
    adapted.base.layer = copy.deepcopy(Network().layer)
    with pytest.raises(LightningMMError, match="layer 'layer' cannot be folded: it was replaced after the network"):
        adapted.fold("a")
    wrapped = build(Network())
    wrapped.base.layer = Block(wrapped.base.layer)  # type: ignore[arg-type]
    check_fold(wrapped)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("how", ["compile()", "torch.compile"])
def test_parts_that_are_compiled_by_themselves_follow_the_call(how: str) -> None:
    only_a = NAMES.mask("a").expand(5, -1)
    with torch.no_grad():
        expected = build(Network())(**INPUTS, available=only_a)
        adapted = build(Network())
        layer = adapted.base.layer
        assert isinstance(layer, nn.Module)
        if how == "compile()":
            layer.compile(backend="eager")
        else:
            adapted.base.layer = torch.compile(layer, backend="eager")
        for run in (lambda: adapted(**INPUTS, available=only_a), lambda: adapted.fold("a")(**INPUTS)):
            torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-5)


def test_a_forward_that_a_copy_would_share_is_refused_by_name() -> None:
    network = Network(Block(nn.Conv1d(6, 6, 3, padding=1)))
    inner = network.layer.forward
    network.layer.forward = lambda input: torch.tanh(inner(input))
    with pytest.raises(
        LightningMMError, match=r"layer 'layer.layer' cannot be folded: Block, which contains it, has a"
    ):
        build(network).fold("a")


def test_a_removed_adapter_still_folds() -> None:
    adapted = build(Network())
    with torch.no_grad():
        expected = adapted(**INPUTS, available=NAMES.mask("a").expand(5, -1))
    adapted.remove()
    torch.testing.assert_close(adapted.fold("a")(**INPUTS), expected, rtol=1e-5, atol=1e-5)


def test_the_comparison_costs_one_run_of_each_and_leaves_no_trace() -> None:
    network, sizes = Network(), []
    given = {name: value.clone() for name, value in INPUTS.items()}
    adapted = adapt(network.eval(), NAMES, SSF(), basis=Additive(), example=((), given))
    for value in given.values():
        value.fill_(torch.nan)  # the adapter keeps its own
    randomise(adapted)
    network.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    state = torch.random.get_rng_state()
    with adapted.adapter.disabled():
        adapted.fold("a")
    assert sizes == [2, 2]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert adapted.adapter.enabled


def test_networks_that_draw_numbers_or_no_longer_fit_the_example_are_not_refused() -> None:
    class Noisy(Network):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a, b) + torch.randn(3, 1)

    build(Noisy()).fold("a")

    class Picky(Network):
        length = 6

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a, b).unflatten(2, (self.length, -1))

    picky = build(Picky())
    picky.base.length = 5  # type: ignore[assignment]
    with pytest.warns(
        UserWarning, match="'a' was not compared with the adapted one, which does not run on the example"
    ):
        picky.fold("a")
