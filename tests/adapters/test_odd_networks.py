"""Networks that an adapter could get wrong without a word: each is right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Kind, LoRA, OneHot, adapt
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b"])
INPUTS = {"a": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), "b": torch.randn(3, 2)}
MIXED = NAMES.masks()


class Sum(nn.Module):
    """Two inputs, one layer that a test chooses, one head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.layer, self.head = nn.Linear(4, 6), nn.Linear(2, 6), layer, nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.layer(self.a(a) + self.b(b)))


def build(network: nn.Module, **settings: object) -> Adapted:
    adapted = adapt(network, NAMES, SSF(), basis=Additive(), example=((), INPUTS), **settings)  # type: ignore[arg-type]
    randomise(adapted)
    return adapted


class NormThenActivation(nn.BatchNorm1d):
    """The hook acts after the activation, weights before it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Standardised(nn.Linear):
    """A scale of the weights is divided away again."""

    def forward(self, input: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean(1, keepdim=True)) / self.weight.std(1, keepdim=True)
        return nn.functional.linear(input, weight, self.bias)


@pytest.mark.parametrize("make", [lambda: NormThenActivation(6), lambda: Standardised(6, 6)], ids=["norm", "linear"])
def test_layers_that_do_more_than_their_type_are_adapted_but_not_folded(make: Callable[[], nn.Module]) -> None:
    adapted = build(Sum(make()))
    assert "layer" in {site.name for site in adapted.adapter.sites}
    together = adapted(**INPUTS, available=MIXED)
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in INPUTS.items()}
        alone = adapted(**one, available=MIXED[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded: the forward of .* does more"):
        adapted.fold("a")


def test_an_activation_that_hides_small_changes_does_not_hide_the_channel_axis() -> None:
    layer = NormThenActivation(6)
    nn.init.constant_(layer.bias, -9.0)  # nothing passes on the example
    assert "layer" in {site.name for site in build(Sum(layer)).adapter.sites}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # in the probe, which needs none
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_is_refused_by_name(reentrant: bool) -> None:
    class Checkpointed(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            hidden = self.a(a) + self.b(b)
            return self.head(checkpoint(self.layer, hidden, use_reentrant=reentrant))

    adapted = build(Checkpointed(nn.Linear(6, 6)))
    with pytest.raises(LightningMMError, match=r"layer 'layer' runs .*gradient checkpoint"):
        adapted(**INPUTS, available=MIXED).square().sum().backward()
    with torch.no_grad():
        adapted(**INPUTS, available=MIXED)


def test_a_layer_that_runs_without_gradients_in_training_is_refused_by_name() -> None:
    class Cut(Sum):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.layer(self.a(a) + self.b(b))
            return self.head(hidden)

    adapted = adapt(Cut(nn.Linear(6, 6)), NAMES, SSF(), example=((), INPUTS))
    with pytest.raises(LightningMMError, match="layer 'a' runs without gradients in a call that needs them"):
        adapted(**INPUTS, available=MIXED)
    with torch.no_grad():
        adapted(**INPUTS, available=MIXED)
    only_head = adapt(adapted.remove(), NAMES, SSF(), example=((), INPUTS), targets=["head"])
    only_head(**INPUTS, available=MIXED).sum().backward()


def test_parts_that_are_called_on_their_own_are_those_of_the_base() -> None:
    adapted = build(Sum(nn.Linear(6, 6)))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    layer = adapted.base.layer
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    adapted(**INPUTS, available=MIXED)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_a_traced_network_follows_available() -> None:
    adapted = build(Sum(nn.Linear(6, 6)))

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapted = adapted

        def forward(self, a: Tensor, b: Tensor, available: Tensor) -> Tensor:
            return self.adapted(a=a, b=b, available=available)

    full = torch.ones(3, 2, dtype=torch.bool)
    with torch.no_grad():
        traced = torch.jit.trace(Call(), (INPUTS["a"], INPUTS["b"], full))
        torch.testing.assert_close(traced(INPUTS["a"], INPUTS["b"], MIXED), adapted(**INPUTS, available=MIXED))


def test_a_layer_that_sees_a_part_of_the_batch_is_an_error() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(2, 6)

        def forward(self, a: Tensor, b: Tensor, available: Tensor) -> Tensor:
            out = self.a(a)
            return out.index_add(0, available[:, 1].nonzero().flatten(), self.b(b[available[:, 1]]))

    adapted = adapt(Sparse(), NAMES, SSF(), example=((), INPUTS))
    with pytest.raises(LightningMMError, match="returned 2 entries on axis 0 for 3 samples"):
        adapted(**INPUTS, available=MIXED)


def test_the_probe_does_not_depend_on_who_is_absent_in_the_example() -> None:
    class Merged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 6), nn.Linear(2, 6)

        def forward(self, a: Tensor, b: Tensor, available: Tensor) -> Tensor:
            steps = a.reshape(-1, 2) * available[:, :1].repeat_interleave(2, 0)
            return self.a(steps).view(len(b), 2, 6).mean(1) + self.b(b)

    for first in ([True, True], [False, True]):
        available = torch.tensor([first, [True, True], [True, False]])
        adapted = adapt(Merged(), NAMES, SSF(), example=((), {**INPUTS, "available": available}))
        assert [site.name for site in adapted.adapter.sites] == ["a", "b"]
        assert adapted.adapter.sites[0].layouts[0].order == "sample_major"


def test_one_object_may_be_given_to_several_adapters() -> None:
    basis, kind = OneHot(), SSF()
    first = adapt(Sum(nn.Linear(6, 6)), NAMES, kind, basis=basis, example=((), INPUTS))
    adapt(Sum(nn.Linear(6, 6)), ["b", "a"], kind, basis=basis, example=((), INPUTS))
    assert first.adapter.basis.modalities == NAMES


def test_a_second_adapter_on_one_network_is_refused() -> None:
    network = Sum(nn.Linear(6, 6))
    build(network)
    with pytest.raises(LightningMMError, match="already has an adapter"):
        build(network)


@pytest.mark.slow
@pytest.mark.compiled
def test_compiled_network_is_one_graph_for_all_combinations() -> None:
    adapted = build(Sum(nn.Linear(6, 6)))
    expected = adapted(**INPUTS, available=MIXED)
    graphs = 0

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(adapted, fullgraph=True, backend=count)
    torch.testing.assert_close(compiled(**INPUTS, available=MIXED), expected)
    compiled(**INPUTS, available=MIXED.flip(0))
    assert graphs == 1


@pytest.mark.wrong_types
def test_patterns_that_adapt_nothing_and_other_mistakes_are_told() -> None:
    with pytest.raises(LightningMMError, match=r"'la.*' matches no layer of a type that SSF adapts; remove it"):
        build(Sum(nn.ReLU()), targets=["head", "la*"])
    adapted = build(Sum(nn.Linear(6, 6)))
    with pytest.raises(LightningMMError, match="make it a tensor"):
        adapted(**INPUTS, available=[[True, False]])
    with pytest.warns(UserWarning, match="normalise by batch statistics"):
        build(Sum(nn.BatchNorm1d(6, track_running_stats=False)))


class Padded(nn.Module):
    """Two sequences of other lengths through torch's encoder as it is by default, which packs them in inference."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.a, self.b = nn.Linear(4, 8), nn.Linear(2, 8)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor, padding: Tensor | None = None) -> Tensor:
        hidden = self.encoder((self.a(a) + self.b(b)).unsqueeze(1).repeat(1, 4, 1), src_key_padding_mask=padding)
        return self.head(hidden[:, 0])


@pytest.mark.parametrize("mask_in_example", [True, False])
@pytest.mark.filterwarnings("ignore:.*left out of the adapter")
def test_padded_sequences_of_torchs_encoder_are_not_packed_away_from_the_hooks(mask_in_example: bool) -> None:
    padding = torch.tensor([[False] * 4, [False, False, True, True], [False, True, True, True]])
    call = {**INPUTS, "padding": padding}
    network = Padded()
    adapted = adapt(network, NAMES, SSF(), example=((), call if mask_in_example else dict(INPUTS)))
    assert "encoder.layers.1.linear2" in {site.name for site in adapted.adapter.sites}
    randomise(adapted)
    expected = adapted(**call, available=MIXED)  # with gradients torch never packs
    with torch.no_grad():
        torch.testing.assert_close(adapted(**call, available=MIXED), expected, rtol=1e-5, atol=1e-5)
    assert not network.encoder.use_nested_tensor
    assert adapted.remove().encoder.use_nested_tensor


@pytest.mark.parametrize("kind", [SSF(), LoRA(2)])
@pytest.mark.parametrize("basis", [Additive(), OneHot()])
def test_outputs_are_changed_in_place_only_where_nobody_else_has_them(kind: Kind, basis: Basis) -> None:
    adapted = adapt(Sum(nn.Linear(6, 6)), NAMES, kind, basis=basis, example=((), INPUTS))
    randomise(adapted)
    expected = adapted(**INPUTS, available=MIXED)  # with gradients, never in place
    inputs = {name: value.clone() for name, value in INPUTS.items()}
    with torch.no_grad():
        torch.testing.assert_close(adapted(**INPUTS, available=MIXED), expected)
    assert all(torch.equal(INPUTS[name], inputs[name]) for name in inputs)
    seen: list[Tensor] = []
    network = adapted.remove()
    network.layer.register_forward_hook(lambda module, args, output: seen.extend([args[0], output]))
    with torch.no_grad():
        again = adapt(network, NAMES, kind, basis=basis, example=((), INPUTS))
        again.adapter.load_state_dict(adapted.adapter.state_dict())
        seen.clear()
        torch.testing.assert_close(again(**INPUTS, available=MIXED), expected)
    given, put_out = seen
    torch.testing.assert_close(put_out, nn.functional.linear(given, network.layer.weight, network.layer.bias))
