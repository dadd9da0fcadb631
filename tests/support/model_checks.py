"""What every network of the package must do, adapted or not, whatever it is made of."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters import SSF, Basis, adapt
from lightning_mm.adapters.layers.types import Adaptable
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.modalities import Modalities
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise, trained_statistics


def rows(nest: Any, keep: slice) -> Any:
    """Some samples of nested inputs."""
    return {name: rows(leaf, keep) for name, leaf in nest.items()} if isinstance(nest, Mapping) else nest[keep]


def check_absence(
    network: nn.Module, names: Modalities, inputs: Mapping[str, Any], parts: dict[str, list[str]]
) -> None:
    """Poison reaches nothing, parts of absent modalities get zero gradient, rows of a batch do not know of each other.

    Args:
        network: With dropout off in eval mode.
        names: Its modalities.
        inputs: One sample for every combination.
        parts: Modality to the prefixes of its own parameters.
    """
    assert_missing_invariant(network.eval(), names, inputs)
    assert_missing_invariant(network.train(), names, inputs)
    network.eval()
    masks = names.masks()
    with torch.no_grad():
        together = network(inputs, masks)
        for row in range(len(masks)):
            alone = network(rows(inputs, slice(row, row + 1)), masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)
        assert torch.equal(network(inputs), network(inputs, torch.ones_like(masks)))
        assert network(inputs, torch.zeros_like(masks)).isfinite().all()
    for combination in names.incomplete():
        network.zero_grad()
        network(inputs, names.mask(combination).expand(len(masks), -1)).square().sum().backward()
        for name, prefixes in parts.items():
            own = [p.grad for key, p in network.named_parameters() if key.startswith(tuple(prefixes))]
            assert own
            # Not None: under DDP every parameter takes part in every step.
            moved = [bool((grad != 0).any()) for grad in own if grad is not None]
            assert len(moved) == len(own)
            assert any(moved) == (name in names.parse(combination)), (combination, name)


def check_adapter(network: nn.Module, names: Modalities, inputs: Mapping[str, Any], basis: Basis) -> None:
    """SSF reaches every layer, starts as the zero-fill baseline, routes by sample, folds, and leaves no trace."""
    trained_statistics(network)
    masks, full = names.masks(), torch.ones(len(names.combinations()), len(names), dtype=torch.bool)
    before = copy.deepcopy(network.eval().state_dict())
    filled = fill_inputs(Zeros(), names, inputs, masks)
    with torch.no_grad():
        baseline, complete = network(filled, available=masks), network(inputs)
    adapted = adapt(network, names, SSF(), basis=basis, example=((dict(inputs),), {}))
    layers = {name for name, module in network.named_modules() if isinstance(module, Adaptable)}
    assert {site.name for site in adapted.adapter.sites} == layers
    with torch.no_grad():
        torch.testing.assert_close(adapted(inputs, available=masks), baseline, rtol=0, atol=0)
        randomise(adapted, scale=0.1)
        together = adapted(inputs, available=masks)
        assert not torch.allclose(together[:-1], baseline[:-1], atol=1e-2)
        for row, combination in enumerate(names.combinations()):
            one, mask = rows(inputs, slice(row, row + 1)), masks[row : row + 1]
            alone = adapted(one, available=mask)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(adapted.fold(combination)(one), alone, rtol=1e-5, atol=1e-5)
        assert torch.equal(adapted(inputs, available=full), complete)
    assert_missing_invariant(adapted, names, inputs)
    base = adapted.remove().eval()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    with torch.no_grad():
        assert torch.equal(base(inputs), complete)


def check_travels(network: nn.Module, *args: Any) -> None:
    """Copies by deepcopy and pickle give the same outputs."""
    twin = pickle.loads(pickle.dumps(copy.deepcopy(network.eval())))
    with torch.no_grad():
        assert torch.equal(network(*args), twin(*args))


def check_compiles(network: nn.Module, names: Modalities, inputs: Mapping[str, Any]) -> None:
    """One graph for all combinations: of the network by torch.export, of the network with adapters by torch.compile."""
    masks = names.masks()
    exported = torch.export.export(network.eval(), (dict(inputs), masks)).module()
    with torch.no_grad():
        for mask in (masks, masks.flip(0)):
            torch.testing.assert_close(exported(dict(inputs), mask), network(inputs, mask))
    adapted = adapt(network, names, SSF(), example=((dict(inputs),), {}))
    randomise(adapted, scale=0.1)
    compiled = torch.compile(adapted, fullgraph=True, backend="eager", dynamic=False)
    with torch.no_grad():
        for mask in (masks, masks.flip(0)):
            torch.testing.assert_close(compiled(inputs, available=mask), adapted(inputs, available=mask))
