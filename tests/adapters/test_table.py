"""Every kind of adapter on every type of layer: what each pair must do, see ``adapter_table``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import Adapted, Additive, Basis, Hyper, OneHot, Pairwise, Shared, load
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise
from tests.support.adapter_table import (
    APPLICABLE,
    KINDS,
    LAYERS,
    NAMES,
    NOT_APPLICABLE,
    NOT_FOLDABLE,
    adapted_case,
    inputs,
    network,
)
from tests.support.ranks import run_ranks

PAIRS = [(kind, layer) for kind in KINDS for layer in LAYERS if layer in APPLICABLE[kind]]
MASKS = NAMES.masks()
FULL = torch.ones_like(MASKS)
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of")


@pytest.fixture(autouse=True)
def attention_has_one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def filled(layer: str, masks: Tensor = MASKS) -> dict[str, Tensor]:
    """Inputs with zeros where a modality is absent."""
    given = inputs(layer, len(masks))
    return {
        name: torch.where(masks[:, k].view(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
        for k, (name, value) in enumerate(given.items())
    }


def run(adapted: Adapted, layer: str, masks: Tensor = MASKS) -> Tensor:
    return adapted(**inputs(layer, len(masks)), available=masks)


def parameters(adapted: Adapted) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}


def train(adapted: Adapted, layer: str, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (run(adapted, layer) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_for_these_layers_and_no_others(kind: str) -> None:
    for layer in LAYERS:
        if layer in APPLICABLE[kind]:
            assert [site.name for site in adapted_case(kind, layer).adapter.sites] == ["layer"]
            continue
        assert NOT_APPLICABLE[kind]
        with pytest.raises(
            LightningMMError,
            match=r"adapts no layer|leaves it out|matches no (linear )?layer|; \w+ adapts |cannot be adapted: ",
        ):
            adapted_case(kind, layer)


@dataclass
class Pair:
    """An adapter of one kind on one layer, away from the identity, and what it is made of."""

    kind: str
    layer: str
    adapted: Adapted
    folder: Path


def check_identity_at_the_start(pair: Pair) -> None:
    fresh = adapted_case(pair.kind, pair.layer, moved=False)
    with torch.no_grad():
        expected = network(pair.layer)(**filled(pair.layer))
        torch.testing.assert_close(run(fresh, pair.layer), expected, rtol=0, atol=0)


def check_disabled_is_the_base(pair: Pair) -> None:
    with torch.no_grad():
        expected, changed = network(pair.layer)(**filled(pair.layer)), run(pair.adapted, pair.layer)
        assert not torch.allclose(changed[:-1], expected[:-1], atol=1e-3)
        assert torch.equal(changed[-1], expected[-1])
        with pair.adapted.adapter.disabled():
            assert torch.equal(run(pair.adapted, pair.layer), expected)


def check_only_the_bank_moves_and_the_base_comes_back(pair: Pair) -> None:
    base = network(pair.layer)
    before, output = copy.deepcopy(base.state_dict()), base(**filled(pair.layer))
    adapted = adapted_case(pair.kind, pair.layer, moved=False)
    start = parameters(adapted)
    train(adapted, pair.layer)
    moved = {name for name, value in parameters(adapted).items() if not torch.equal(value, start[name])}
    assert moved
    assert all(name.startswith("adapter.banks.layer") for name in moved)
    assert {name for name in start if name.startswith("adapter.")} == moved, "every parameter of a bank has a use"
    removed = adapted.remove()
    assert all(torch.equal(value, before[name]) for name, value in removed.state_dict().items())
    assert set(removed.state_dict()) == set(before)
    assert torch.equal(removed(**filled(pair.layer)), output)


def check_save_and_load(pair: Pair) -> None:
    pair.adapted.save(pair.folder)
    again = load(pair.folder, network(pair.layer))
    assert torch.equal(run(again, pair.layer), run(pair.adapted, pair.layer))
    other = network(pair.layer)
    with torch.no_grad():
        other.scale += 1
    with pytest.raises(LightningMMError, match="fingerprint"):
        load(pair.folder, other)


def check_fold_equals_hooks_and_twice_is_once(pair: Pair) -> None:
    if (pair.kind, pair.layer) in NOT_FOLDABLE:
        with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded: .*keep the hooks"):
            pair.adapted.fold("a")
        return
    with torch.no_grad():
        for combination in NAMES.combinations():
            masks = NAMES.mask(combination).expand(4, -1)
            expected, given = run(pair.adapted, pair.layer, masks), inputs(pair.layer, 4)
            folded = pair.adapted.fold(combination)
            torch.testing.assert_close(folded(**given), expected, rtol=1e-5, atol=1e-5)
            assert not [module for module in folded.modules() if module._forward_hooks or module._forward_pre_hooks]
            assert torch.equal(pair.adapted.fold(combination)(**given), folded(**given))
            torch.testing.assert_close(run(pair.adapted, pair.layer, masks), expected, rtol=0, atol=0)


def check_mixed_batch_equals_one_row_at_a_time(pair: Pair) -> None:
    given = inputs(pair.layer)
    with torch.no_grad():
        together = run(pair.adapted, pair.layer)
        for row in range(len(MASKS)):
            one = {name: value[row : row + 1] for name, value in given.items()}
            alone = pair.adapted(**one, available=MASKS[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def check_gradient_reaches_only_the_rows_in_use(pair: Pair) -> None:
    masks = NAMES.masks(["a", "a+b"])
    pair.adapted.zero_grad()
    run(pair.adapted, pair.layer, masks).square().sum().backward()
    used = pair.adapted.adapter.basis.weights(masks).any(0)
    for name, parameter in pair.adapted.adapter.banks.named_parameters():
        assert parameter.grad is not None, name
        touched = parameter.grad.flatten(1).ne(0).any(1)
        assert torch.equal(touched, used), name


def check_a_row_that_is_not_finite_does_not_spread(pair: Pair) -> None:
    adapted = copy.deepcopy(pair.adapted)
    weights = adapted.adapter.basis.weights(MASKS)
    clean = run(adapted, pair.layer).detach()
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter[0] = torch.nan
    output = run(adapted, pair.layer)
    touched = output.isnan().any(1)
    assert torch.equal(touched, weights[:, 0])
    torch.testing.assert_close(output[~touched], clean[~touched], rtol=1e-5, atol=1e-5)
    adapted.zero_grad()
    run(adapted, pair.layer, MASKS[~touched]).sum().backward()
    for name, parameter in adapted.adapter.banks.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad[1:].isfinite().all(), name


def check_copies_are_independent(pair: Pair) -> None:
    expected = run(pair.adapted, pair.layer)
    for twin in (copy.deepcopy(pair.adapted), pickle.loads(pickle.dumps(pair.adapted))):
        assert torch.equal(run(twin, pair.layer), expected)
        randomise(twin, seed=5)
        assert not torch.equal(run(twin, pair.layer), expected)
        assert torch.equal(run(pair.adapted, pair.layer), expected)


def check_autocast(pair: Pair) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        pair.adapted.zero_grad()
        with torch.no_grad():
            expected = run(pair.adapted, pair.layer)
            with torch.autocast("cpu", dtype):
                output = run(pair.adapted, pair.layer)
                base = network(pair.layer)(**filled(pair.layer))
        assert output.dtype == base.dtype, "the dtype is that of the base"
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.15)
        with torch.autocast("cpu", dtype):
            run(pair.adapted, pair.layer).square().mean().backward()
        gradients = [parameter.grad for parameter in pair.adapted.adapter.banks.parameters()]
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)


OF_A_PAIR = (
    check_identity_at_the_start,
    check_only_the_bank_moves_and_the_base_comes_back,
    check_disabled_is_the_base,
    check_save_and_load,
    check_copies_are_independent,
    check_autocast,
)
OF_A_BASIS = (
    check_fold_equals_hooks_and_twice_is_once,
    check_mixed_batch_equals_one_row_at_a_time,
    check_gradient_reaches_only_the_rows_in_use,
    check_a_row_that_is_not_finite_does_not_spread,
)


def check(kind: str, layer: str, basis: Basis, properties: Sequence[Callable[[Pair], None]], folder: Path) -> None:
    """All properties on one adapter; an error says which one, and of which basis."""
    pair = Pair(kind, layer, adapted_case(kind, layer, basis), folder)
    for each in properties:
        try:
            each(pair)
        except BaseException as error:
            error.add_note(f"{kind} on {layer}, {type(basis).__name__}: {each.__name__}")
            raise


@pytest.mark.parametrize(("kind", "layer"), PAIRS)
def test_a_pair_has_every_property(kind: str, layer: str, tmp_path: Path) -> None:
    check(kind, layer, OneHot(), OF_A_PAIR + OF_A_BASIS, tmp_path)
    check(kind, layer, Additive(), OF_A_BASIS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("basis", [Pairwise, Shared, Hyper])
@pytest.mark.parametrize("kind", KINDS)
def test_other_bases(kind: str, basis: type[Basis], tmp_path: Path) -> None:
    for layer in sorted(APPLICABLE[kind]):
        check(kind, layer, basis(), OF_A_BASIS if basis is Hyper else OF_A_BASIS[:2], tmp_path)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["SSF", "LoRA", "NormTuning", "Bottleneck"])
def test_one_graph_for_all_combinations(kind: str) -> None:
    layers = sorted(APPLICABLE[kind])
    for layer in layers:
        for basis in (Additive(), OneHot(), Hyper())[: 3 if layer == layers[0] else 1]:
            graphs = 0

            def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
                nonlocal graphs
                graphs += 1
                return graph.forward

            torch._dynamo.reset()
            adapted = adapted_case(kind, layer, basis)
            compiled = torch.compile(adapted, fullgraph=True, backend=count)
            for masks in (MASKS, MASKS.flip(0), FULL):
                found = compiled(**inputs(layer, len(masks)), available=masks)
                torch.testing.assert_close(found, run(adapted, layer, masks), msg=lambda m: f"{layer}: {m}")  # noqa: B023
            assert graphs == 1, (layer, basis)


class ByPosition(torch.nn.Module):
    """torch.export names keyword arguments with dynamic shapes in a way that its own guards do not find."""

    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, a: Tensor, b: Tensor, c: Tensor, available: Tensor) -> Tensor:
        return self.adapted(a, b, c, available=available)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The tensor attribute self.adapted.adapter.route was assigned during export")
@pytest.mark.parametrize("kind", KINDS)
def test_export_takes_available_as_an_input(kind: str) -> None:
    for layer in sorted(APPLICABLE[kind]):
        adapted = adapted_case(kind, layer, Additive())
        many = {0: torch.export.Dim("batch", min=2, max=64)}
        call = (*inputs(layer, 3).values(), NAMES.masks(["a", "b", "a+c"]))
        program = torch.export.export(ByPosition(adapted), call, dynamic_shapes=(many,) * 4, strict=False).module()
        for masks in (MASKS, MASKS.flip(0)):
            found = program(*inputs(layer, len(masks)).values(), masks)
            torch.testing.assert_close(found, run(adapted, layer, masks), msg=lambda m: f"{layer}: {m}")  # noqa: B023


def _gradients_of_half(rank: int, folder: Path) -> None:
    masks = MASKS[:6].chunk(2)[rank]
    gradients = {}
    for kind, layer in PAIRS:
        adapted = adapted_case(kind, layer)
        parallel = torch.nn.parallel.DistributedDataParallel(adapted)
        given = {name: value.chunk(2)[rank] for name, value in inputs(layer, 6).items()}
        for _ in range(2):  # a second step would fail if a parameter had not been used in the first
            adapted.zero_grad()
            parallel(**given, available=masks).square().mean().backward()
        gradients[kind, layer] = {name: p.grad for name, p in adapted.adapter.banks.named_parameters()}
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path) -> None:
    run_ranks(_gradients_of_half, tmp_path)
    found = torch.load(tmp_path / "gradients.pt")
    assert set(found) == set(PAIRS)
    for kind, layer in PAIRS:
        adapted = adapted_case(kind, layer)
        run(adapted, layer, MASKS[:6]).square().mean().backward()
        for name, parameter in adapted.adapter.banks.named_parameters():
            torch.testing.assert_close(found[kind, layer][name], parameter.grad, rtol=1e-4, atol=1e-5)
