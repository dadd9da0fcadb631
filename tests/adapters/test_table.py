"""Every kind of adapter on every type of layer: what each pair must do, see ``adapter_table``."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import Adapted, Additive, Basis, OneHot, Pairwise, Shared, load
from lightning_mm.adapters.adapter import bank_key
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

PAIRS = [(kind, layer) for kind in KINDS for layer in LAYERS if layer in APPLICABLE[kind]]
FOLDABLE = [pair for pair in PAIRS if pair not in NOT_FOLDABLE]
MASKS = NAMES.masks()
FULL = torch.ones_like(MASKS)
slow = pytest.mark.slow
EVERY_BASIS = [OneHot, Additive, pytest.param(Pairwise, marks=slow), pytest.param(Shared, marks=slow)]
every_pair = pytest.mark.parametrize(("kind", "layer"), PAIRS)
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
            LightningMMError, match=r"adapts no layer|leaves it out|matches no layer|; \w+ adapts |cannot be adapted: "
        ):
            adapted_case(kind, layer)


@every_pair
def test_identity_at_the_start_and_disabled_is_the_base(kind: str, layer: str) -> None:
    with torch.no_grad():
        expected = network(layer)(**filled(layer))
        fresh = adapted_case(kind, layer, moved=False)
        torch.testing.assert_close(run(fresh, layer), expected, rtol=0, atol=0)
        moved = adapted_case(kind, layer)
        changed = run(moved, layer)
        assert not torch.allclose(changed[:-1], expected[:-1], atol=1e-3)
        assert torch.equal(changed[-1], expected[-1])
        with moved.adapter.disabled():
            assert torch.equal(run(moved, layer), expected)


@every_pair
def test_only_the_bank_moves_and_the_base_comes_back_bit_for_bit(kind: str, layer: str) -> None:
    base = network(layer)
    before, output = copy.deepcopy(base.state_dict()), base(**filled(layer))
    adapted = adapted_case(kind, layer, moved=False)
    start = parameters(adapted)
    train(adapted, layer)
    moved = {name for name, value in parameters(adapted).items() if not torch.equal(value, start[name])}
    assert moved
    assert all(name.startswith("adapter.banks.layer") for name in moved)
    assert {name for name in start if name.startswith("adapter.")} == moved, "every parameter of a bank has a use"
    removed = adapted.remove()
    assert all(torch.equal(value, before[name]) for name, value in removed.state_dict().items())
    assert set(removed.state_dict()) == set(before)
    assert torch.equal(removed(**filled(layer)), output)


@every_pair
def test_save_and_load(kind: str, layer: str, tmp_path: Path) -> None:
    adapted = adapted_case(kind, layer)
    adapted.save(tmp_path)
    again = load(tmp_path, network(layer))
    assert torch.equal(run(again, layer), run(adapted, layer))
    other = network(layer)
    with torch.no_grad():
        other.scale += 1
    with pytest.raises(LightningMMError, match="fingerprint"):
        load(tmp_path, other)


@pytest.mark.parametrize("basis", EVERY_BASIS)
@pytest.mark.parametrize(("kind", "layer"), FOLDABLE)
def test_fold_equals_hooks_and_twice_is_once(kind: str, layer: str, basis: type[Basis]) -> None:
    adapted = adapted_case(kind, layer, basis())
    with torch.no_grad():
        for combination in NAMES.combinations():
            masks = NAMES.mask(combination).expand(4, -1)
            expected, given = run(adapted, layer, masks), inputs(layer, 4)
            folded = adapted.fold(combination)
            torch.testing.assert_close(folded(**given), expected, rtol=1e-5, atol=1e-5)
            assert not [module for module in folded.modules() if module._forward_hooks or module._forward_pre_hooks]
            assert torch.equal(adapted.fold(combination)(**given), folded(**given))
            torch.testing.assert_close(run(adapted, layer, masks), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "layer"), sorted(NOT_FOLDABLE))
def test_what_cannot_be_folded_says_so(kind: str, layer: str) -> None:
    with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded: .*keep the hooks"):
        adapted_case(kind, layer).fold("a")


@pytest.mark.parametrize("basis", EVERY_BASIS)
@every_pair
def test_mixed_batch_equals_one_row_at_a_time(kind: str, layer: str, basis: type[Basis]) -> None:
    adapted = adapted_case(kind, layer, basis())
    given = inputs(layer)
    with torch.no_grad():
        together = run(adapted, layer)
        for row in range(len(MASKS)):
            one = {name: value[row : row + 1] for name, value in given.items()}
            alone = adapted(**one, available=MASKS[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("basis", [OneHot, Additive])
@every_pair
def test_gradient_reaches_only_the_rows_in_use(kind: str, layer: str, basis: type[Basis]) -> None:
    adapted = adapted_case(kind, layer, basis())
    masks = NAMES.masks(["a", "a+b"])
    run(adapted, layer, masks).square().sum().backward()
    used = adapted.adapter.basis.weights(masks).any(0)
    for name, parameter in adapted.adapter.banks.named_parameters():
        assert parameter.grad is not None, name
        touched = parameter.grad.flatten(1).ne(0).any(1)
        assert torch.equal(touched, used), name


@pytest.mark.parametrize("basis", [OneHot, Additive])
@every_pair
def test_a_row_that_is_not_finite_does_not_spread(kind: str, layer: str, basis: type[Basis]) -> None:
    adapted = adapted_case(kind, layer, basis())
    weights = adapted.adapter.basis.weights(MASKS)
    clean = run(adapted, layer).detach()
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter[0] = torch.nan
    output = run(adapted, layer)
    touched = output.isnan().any(1)
    assert torch.equal(touched, weights[:, 0])
    torch.testing.assert_close(output[~touched], clean[~touched], rtol=1e-5, atol=1e-5)
    run(adapted, layer, MASKS[~touched]).sum().backward()
    for name, parameter in adapted.adapter.banks.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad[1:].isfinite().all(), name


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@every_pair
def test_copies_are_independent(kind: str, layer: str, clone: Callable[[Adapted], Adapted]) -> None:
    adapted = adapted_case(kind, layer)
    expected = run(adapted, layer)
    twin = clone(adapted)
    assert torch.equal(run(twin, layer), expected)
    randomise(twin, seed=5)
    assert not torch.equal(run(twin, layer), expected)
    assert torch.equal(run(adapted, layer), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_pair
def test_autocast(kind: str, layer: str, dtype: torch.dtype) -> None:
    adapted = adapted_case(kind, layer)
    with torch.no_grad():
        expected = run(adapted, layer)
        with torch.autocast("cpu", dtype):
            output = run(adapted, layer)
            base = network(layer)(**filled(layer))
    assert output.dtype == base.dtype, "the dtype is that of the base"
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.15)
    with torch.autocast("cpu", dtype):
        run(adapted, layer).square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapted.adapter.banks.parameters())


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_for_all_combinations(kind: str) -> None:
    for layer in sorted(APPLICABLE[kind]):
        for basis in (OneHot(), Additive()):
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


def _ddp_rank(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
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
        torch.save(gradients, f"{folder}/gradients.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_ddp_rank, (str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt")
    assert set(found) == set(PAIRS)
    for kind, layer in PAIRS:
        adapted = adapted_case(kind, layer)
        run(adapted, layer, MASKS[:6]).square().mean().backward()
        assert bank_key("layer") in adapted.adapter.banks
        for name, parameter in adapted.adapter.banks.named_parameters():
            torch.testing.assert_close(found[kind, layer][name], parameter.grad, rtol=1e-4, atol=1e-5)
