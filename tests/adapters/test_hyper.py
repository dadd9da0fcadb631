"""The generated rows: zero for the full combination, additive at the start, learned interactions, saved and folded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive, BatchNormSSF, Hyper, LoRA, adapt, load, refit_batch_norm
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise
from tests.support.every_kind import NAMES, Network, build, inputs

MASKS = NAMES.masks()
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")


def bound(hidden: int | None = None, seed: int = 0) -> Hyper:
    basis = Hyper(hidden, seed)
    basis.bind(NAMES)
    return basis


def test_rows_are_those_of_the_formula_and_zero_for_the_full_combination() -> None:
    basis = bound()
    randomise(basis)
    table = torch.randn(6, 5)
    expected = torch.relu((~MASKS).float() @ basis.weight.T) @ table
    route = basis.route(MASKS)
    torch.testing.assert_close(basis.mix(route, table), expected)
    torch.testing.assert_close(basis.gather(route, table).squeeze(1), expected)
    factors = basis.gather(route, table.view(6, 5, 1).expand(-1, -1, 2).to(torch.bfloat16))
    assert factors.shape == (7, 1, 5, 2)
    assert factors.dtype == torch.bfloat16
    full = NAMES.masks([NAMES.full])
    assert basis.mix(basis.route(full), table).eq(0).all()
    assert not basis.uses(basis.route(full)).any()


def test_one_unit_for_each_modality_starts_as_the_additive_basis() -> None:
    hyper, additive = bound(3), Additive()
    additive.bind(NAMES)
    table = torch.randn(3, 5)
    expected = additive.mix(additive.route(MASKS), table)
    torch.testing.assert_close(hyper.mix(hyper.route(MASKS), table), expected)


def test_every_unit_is_on_for_some_combination_at_the_start_and_the_seed_chooses_it() -> None:
    for seed in range(20):
        assert bound(12, seed).weights(MASKS).any(0).all()
    assert torch.equal(bound(seed=3).weight, bound(seed=3).weight)
    assert not torch.equal(bound(seed=3).weight, bound(seed=4).weight)


def test_gradients_of_the_factors_and_of_the_rows_are_those_of_a_plain_product() -> None:
    basis, table = bound().double(), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    randomise(basis)
    (basis.mix(basis.route(MASKS), table) ** 2).sum().backward()
    found = (basis.weight.grad, table.grad)
    weight, rows = basis.weight.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()
    ((torch.relu((~MASKS).double() @ weight.T) @ rows) ** 2).sum().backward()
    torch.testing.assert_close(found, (weight.grad, rows.grad))


def test_a_row_or_weight_that_is_not_finite_spoils_no_gradient_of_others() -> None:
    basis, table = bound(), torch.ones(6, 2)
    table[0] = torch.nan
    without = ~basis.weights(MASKS)[:, 0]
    basis.mix(basis.route(MASKS[without]), table).sum().backward()
    assert basis.weight.grad is not None
    assert basis.weight.grad.isfinite().all()
    with torch.no_grad():
        basis.weight[:, 0] = torch.nan  # a is absent
    touched = basis.mix(basis.route(MASKS), torch.ones(6, 2)).isnan().any(1)
    assert torch.equal(touched, ~MASKS[:, 0])


@pytest.mark.parametrize("kind", ["SSF", "LoRA"])
def test_complete_samples_get_the_bits_of_the_base_in_training_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = build(kind, "Hyper")
    given, masks = inputs(7), MASKS
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # it rounds differently
    with adapted.adapter.disabled():
        base, complete = adapted(**given, available=masks), adapted(**given, available=torch.ones_like(masks))
    output = adapted(**given, available=masks)
    assert not torch.allclose(output[:-1], base[:-1], atol=1e-3)
    assert torch.equal(output[-1], base[-1])
    assert torch.equal(adapted(**given, available=torch.ones_like(masks)), complete)


def test_weights_are_trained_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network()
    adapted = adapt(copy.deepcopy(network), NAMES, SSF(), basis=Hyper(5, seed=2), example=((), inputs(2)))
    optimizer = torch.optim.SGD(adapted.adapter.parameters(), lr=0.1)
    start = adapted.adapter.basis.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**inputs(7), available=MASKS).square().mean().backward()
        optimizer.step()
    assert not torch.equal(adapted.adapter.basis.weight, start)
    adapted.save(tmp_path)
    again = load(tmp_path, network)
    assert torch.equal(again(**inputs(7), available=MASKS), adapted(**inputs(7), available=MASKS))
    for combination in ("a", "b+c"):
        rows = NAMES.masks([combination]).expand(7, -1)
        torch.testing.assert_close(adapted.fold(combination)(**inputs(7)), adapted(**inputs(7), available=rows))


def test_it_learns_an_interaction_that_the_additive_basis_cannot() -> None:
    """The row of `c` alone is not the sum of the rows of `a+c` and `b+c`."""
    masks, targets = NAMES.masks(["a+c", "b+c", "c"]), torch.tensor([[1.0], [1.0], [-1.0]])
    errors = {}
    for basis in (Additive(), Hyper()):
        basis.bind(NAMES)
        table = torch.zeros(len(basis.names), 1, requires_grad=True)
        optimizer = torch.optim.Adam([table, *basis.parameters()], lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            loss = (basis.mix(basis.route(masks), table) - targets).square().mean()
            loss.backward()
            optimizer.step()
        errors[type(basis)] = float(loss.detach())
    assert errors[Hyper] < 0.01
    assert errors[Additive] > 0.5  # the best additive rows leave (1 - 0 - 0)^2 over three


def test_parameters_of_the_basis_and_the_bound_of_its_factors() -> None:
    many = Hyper()
    many.bind(Modalities([f"m{place}" for place in range(20)]))
    assert len(many.names) == many.most_rows() == 40
    basis = bound()
    with torch.no_grad():
        most = basis.route(~torch.cartesian_prod(*[torch.tensor([False, True])] * 3)).sum(1).max()
    assert 1 < float(most) <= basis.rows_at_once()
    adapted = adapt(Network(), NAMES, LoRA(2), basis=Hyper(4), example=((), inputs(2)))
    banks = sum(parameter.numel() for parameter in adapted.adapter.banks.parameters())
    assert adapted.adapter.parameters_per_combination() == banks


@pytest.mark.wrong_types
def test_mistakes_are_named() -> None:
    with pytest.raises(LightningMMError, match="Hyper: hidden"):
        Hyper(0)
    with pytest.raises(LightningMMError, match="Hyper: seed"):
        Hyper(seed=-1)
    with pytest.raises(LightningMMError, match=r"hidden is 2 for 3 modalities .*at least 3, one unit for each"):
        bound(2)
    adapted = adapt(Network(), NAMES, BatchNormSSF(), basis=Hyper(), example=((), inputs(2)))
    with pytest.raises(LightningMMError, match=r"kind BatchNormSSF with basis OneHot, got .* with basis Hyper"):
        refit_batch_norm(adapted.adapter, adapted.base, [])
