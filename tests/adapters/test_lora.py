"""LoRA, alone and together with SSF: routing, folding, saving, the layers that it is for, and a slow reference."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, Kind, LoRA, OneHot, Together, adapt, load
from lightning_mm.adapters.call import AdapterCall, LayerCall
from lightning_mm.adapters.layers.layout import Layout, Order, Site
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import (
    MIXED_INPUTS,
    MIXED_NAMES,
    MixedNetwork,
    mixed_call,
    randomise,
    row_of,
    trained_statistics,
)

NAMES = Modalities(MIXED_NAMES)
KINDS: dict[str, Callable[[], Kind]] = {
    "lora": lambda: LoRA(rank=2, alpha=3.0),
    "together": lambda: Together([SSF(), LoRA(rank=2)]),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of")
both_bases = pytest.mark.parametrize("basis", [OneHot, Additive])
both_kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def attention_has_one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def make(kind: str, basis: type[Basis], moved: bool = True, batch_first: bool = True) -> tuple[MixedNetwork, Adapted]:
    torch.manual_seed(0)
    network = MixedNetwork(batch_first=batch_first)
    trained_statistics(network)
    adapted = adapt(network, NAMES, KINDS[kind](), basis=basis(), inputs=MIXED_INPUTS, example=mixed_call(2))
    if moved:
        randomise(adapted)
    return network, adapted


def run(adapted: Adapted, available: Tensor, call: Any = None) -> Tensor:
    args, kwargs = call or mixed_call()
    return adapted(*args, **kwargs, available=available)


@both_bases
@both_kinds
def test_starts_at_the_zero_fill_baseline_and_moves_only_the_banks(kind: str, basis: type[Basis]) -> None:
    network, adapted = make(kind, basis, moved=False)
    with adapted.adapter.disabled():
        baseline = run(adapted, NAMES.masks())
    assert torch.equal(run(adapted, NAMES.masks()), baseline)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    start = {key: value.clone() for key, value in adapted.adapter.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for step in range(3):
        optimizer.zero_grad()
        run(adapted.train(), NAMES.masks(), mixed_call(seed=step)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not [key for key, value in adapted.adapter.named_parameters() if torch.equal(value, start[key])]


@both_bases
@both_kinds
@pytest.mark.parametrize("batch_first", [True, False], ids=["samples_first", "steps_first"])
def test_mixed_batch_equals_one_row_at_a_time(kind: str, basis: type[Basis], batch_first: bool) -> None:
    _, adapted = make(kind, basis, batch_first=batch_first)
    available = NAMES.masks()
    together = run(adapted, available)
    for row in range(len(available)):
        alone = run(adapted, available[row : row + 1], row_of(mixed_call(), row))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    with adapted.adapter.disabled():
        base = run(adapted, available)
    assert ((together - base).abs().amax(1) > 1e-4).tolist() == [True] * 6 + [False]
    assert torch.equal(together[-1], base[-1]), "the full combination, bit for bit"


@both_bases
@both_kinds
def test_rows_keep_to_their_own_samples(kind: str, basis: type[Basis]) -> None:
    _, adapted = make(kind, basis)
    available = NAMES.masks()[[0, 2, 6]].repeat(3, 1)[:7]  # image, audio, everything
    run(adapted, available).square().sum().backward()
    used = adapted.adapter.basis.weights(available).any(0)
    for name, parameter in adapted.adapter.banks.named_parameters():
        assert parameter.grad is not None
        moved = parameter.grad.flatten(1).any(1)
        assert not moved[~used].any(), name
        assert moved.equal(used) or not name.startswith("head"), name
    adapted.zero_grad()
    with torch.no_grad():
        for parameter in adapted.adapter.banks.parameters():
            parameter[0] = float("nan")
    output = run(adapted, NAMES.masks())
    hit = adapted.adapter.basis.weights(NAMES.masks())[:, 0]
    assert output.isnan().any(1).equal(hit)
    output[~hit].square().sum().backward()
    if basis is OneHot:  # under Additive the others share a sample with it
        assert all(parameter.grad[1:].isfinite().all() for parameter in adapted.adapter.banks.parameters())  # type: ignore[index]


@both_bases
@both_kinds
def test_fold_equals_hooks(kind: str, basis: type[Basis]) -> None:
    network, adapted = make(kind, basis)
    args, kwargs = mixed_call()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for combination in NAMES.combinations():
        folded = adapted.fold(combination)
        assert not any(module._forward_hooks for module in folded.modules())
        expected = run(adapted, NAMES.mask(combination).expand(7, -1))
        torch.testing.assert_close(folded(*args, **kwargs), expected, rtol=1e-5, atol=1e-5)
        same = [torch.equal(value, before[key]) for key, value in folded.network.state_dict().items()]
        assert all(same) == (combination == NAMES.full)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@both_bases
@both_kinds
def test_save_and_load(kind: str, basis: type[Basis], tmp_path: Path) -> None:
    network, adapted = make(kind, basis)
    expected = run(adapted, NAMES.masks())
    adapted.save(tmp_path)
    adapted.remove()
    again = load(tmp_path, network)
    assert torch.equal(run(again, NAMES.masks()), expected)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())["kind"]
    lora = {
        "class_path": "lightning_mm.adapters.LoRA",
        "init_args": {"rank": 2, "alpha": None, "layers": None, "shared": False},
    }
    if kind == "together":
        ssf = {"class_path": "lightning_mm.adapters.SSF", "init_args": {}}
        assert saved == {
            "class_path": "lightning_mm.adapters.Together",
            "init_args": {"kinds": [ssf, lora]},
        }
    assert [type(bank).__name__ for bank in again.adapter.banks.values()] == [
        type(bank).__name__ for bank in adapted.adapter.banks.values()
    ]


def test_adapters_saved_before_there_were_details_load_and_stay_as_they_were() -> None:
    site = Site("a", 3, (Layout(2, 0, 1),))
    assert set(site.to_dict()) == {"name", "channels", "layouts", "foldable"}
    assert Site.from_dict(site.to_dict()) == site


@both_kinds
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["deep", "pickle"]
)
def test_copies_are_independent(kind: str, clone: Callable[[Any], Any]) -> None:
    _, adapted = make(kind, OneHot)
    expected = run(adapted, NAMES.masks())
    copied = clone(adapted)
    assert torch.equal(run(copied, NAMES.masks()), expected)
    randomise(copied, seed=9)
    assert torch.equal(run(adapted, NAMES.masks()), expected)
    assert not torch.equal(run(copied, NAMES.masks()), expected)


@both_bases
@both_kinds
def test_autocast(kind: str, basis: type[Basis]) -> None:
    _, adapted = make(kind, basis)
    expected = run(adapted, NAMES.masks())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(adapted, NAMES.masks())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    output.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in adapted.adapter.banks.parameters())  # type: ignore[union-attr]


# layouts and layers, against a slow loop ------------------------------------------------------------------------------


def reference(layer: Any, x: Tensor, bank: Any, rows: Tensor) -> Tensor:
    """One entry (no batch axis) through the layer with the changes of its rows in its weight."""
    changed = copy.deepcopy(layer)
    for row in rows.nonzero().flatten():
        change = torch.einsum("ro,rn->on", bank.up[row], bank.down[row].flatten(1)) * bank.scaling
        changed.weight.data += change.view_as(layer.weight)
    return changed(x)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 5), (4,)),
    "linear, more axes": (lambda: nn.Linear(4, 5, bias=False), (3, 2, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 5, 3, padding=2, dilation=2, padding_mode="circular"), (2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 5, (3, 2), stride=2, padding=1), (2, 6, 5)),
    "conv2d, same": (lambda: nn.Conv2d(2, 5, 2, padding="same", padding_mode="reflect"), (2, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, padding="same"), (2, 3, 4, 3)),
}


@both_bases
@pytest.mark.parametrize("order", ["plain", "sample_major", "step_major"])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_a_loop_over_samples(name: str, order: Order, basis: type[Basis]) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name][0](), LAYERS[name][1]
    used_basis = basis()
    used_basis.bind(NAMES)
    available, steps = NAMES.masks(), 1 if order == "plain" else 3
    x = torch.randn(len(available) * steps, *shape)
    channel = len(shape) if isinstance(layer, nn.Linear) else 1
    kind = LoRA(rank=3, alpha=2.0)
    details = kind.choose(nn.Sequential(layer))[0]["0"]
    site = Site("layer", 5, (Layout(x.ndim, 0, channel, order),), details=details)
    bank = kind.bank(site, len(used_basis.names))
    randomise(bank)
    call = AdapterCall(used_basis, available, used_basis.route(available))
    found = bank.leave(LayerCall(call, site, layer, (x,)), layer(x))
    rows = used_basis.weights(available)
    for entry in range(len(x)):
        sample = entry % len(available) if order == "step_major" else entry // steps
        expected = reference(layer, x[entry : entry + 1], bank, rows[sample])
        torch.testing.assert_close(found[entry : entry + 1], expected, rtol=1e-4, atol=1e-5)


class Odd(nn.Module):
    """Two inputs, a layer that a test chooses between two others, one head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.layer, self.head = nn.Conv1d(2, 6, 3), nn.Conv1d(1, 6, 3), layer, nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.layer(self.a(a) + input_by_name(self.b, b)).mean(2))


def input_by_name(layer: nn.Module, value: Tensor) -> Tensor:
    return layer(input=value)


ODD = {"a": torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1)), "b": torch.randn(3, 1, 5)}
MIXED = Modalities(["a", "b"]).masks()


def odd(kind: Kind, layer: nn.Module | None = None, **settings: Any) -> Adapted:
    return adapt(Odd(layer or nn.BatchNorm1d(6)), ["a", "b"], kind, example=((), ODD), **settings)


def test_each_kind_goes_to_its_own_layers_and_the_low_rank_change_comes_first() -> None:
    adapted = odd(Together([SSF(), LoRA(rank=2, layers=["a", "head*"]), LoRA(rank=10_000, layers=["b"])]))
    found = {name: [type(one).__name__ for one in bank.in_order()] for name, bank in adapted.adapter.banks.items()}
    assert found == {
        "a": ["LoRABank", "SSFBank"],
        "b": ["LoRABank", "SSFBank"],
        "layer": ["SSFBank"],
        "head": ["LoRABank", "SSFBank"],
    }
    whole = adapted.adapter.banks["b"].banks["2"]
    assert tuple(whole.down.shape) == (2, 3, 1, 3), "the rank is cut to that of the weight"
    lora = 2 * (2 * 3 + 6) + 3 * (1 * 3 + 6) + 2 * (6 + 3)
    assert adapted.adapter.parameters_per_combination() == lora + 2 * (6 + 6 + 6 + 3)
    randomise(adapted)
    for row, name in enumerate(Modalities(["a", "b"]).combinations()):
        one = {key: value[row : row + 1] for key, value in ODD.items()}
        torch.testing.assert_close(adapted.fold(name)(**one), adapted(**ODD, available=MIXED)[row : row + 1])


class Standardised(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input - input.mean())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(nn.Conv1d(6, 6, 3, groups=2), "it has groups=2"), (Standardised(6, 6, 3), "overrides forward")],
    ids=["groups", "forward"],
)
def test_layers_that_do_not_fit_are_left_out_with_the_reason(layer: nn.Module, reason: str) -> None:
    with pytest.warns(UserWarning, match=f"left out of the adapter: layer .*{reason}"):
        assert set(odd(LoRA(), layer).adapter.banks) == {"a", "b", "head"}
    with pytest.warns(UserWarning, match=f"left out of a part of the adapter: layer by LoRA .*{reason}"):
        assert set(odd(Together([LoRA(), SSF()]), layer).adapter.banks["layer"].banks) == {"1"}
    with pytest.raises(LightningMMError, match=f"layer 'layer' cannot be adapted: .*{reason}"):
        odd(LoRA(), layer, targets=["layer"])


def test_mistakes_are_answered_with_the_way_out() -> None:
    with pytest.raises(LightningMMError, match="LoRA: rank must be a whole number of at least 1, got 0"):
        LoRA(rank=0)
    with pytest.raises(LightningMMError, match="alpha must be a positive number"):
        LoRA(alpha=0.0)
    for wrong in ([], [SSF(), Together([LoRA()])]):
        with pytest.raises(LightningMMError, match="needs a list of kinds such as"):
            Together(wrong)
    with pytest.raises(LightningMMError, match=r"layers=\['haed'\].*matches no layer of Odd of the types"):
        odd(LoRA(layers=["haed"]))
    with pytest.raises(
        LightningMMError, match="'layer' is a BatchNorm1d; LoRA adapts Conv1d, Conv2d, Conv3d, Embedding"
    ):
        odd(LoRA(), targets=["layer"])
    with pytest.raises(LightningMMError, match="'head' is in `targets`, but LoRA leaves it out; remove it"):
        odd(LoRA(layers=["a"]), targets=["head"])
    with pytest.raises(LightningMMError, match=r"LoRA \(number 2 of Together\) adapts no layer of Odd"):
        odd(Together([SSF(), LoRA(layers=["head"])]), exclude=["head"])
    normed = odd(LoRA(), nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, 1)))
    randomise(normed)
    with pytest.raises(LightningMMError, match=r"layer 'layer' cannot be folded.*parametrised"):
        normed.fold("a")
    with pytest.raises(LightningMMError, match="convolution and its samples are not on the first axis"):
        LoRA().bank(Site("x", 5, (Layout(2, 1, 0),), details={"weight": [5, 2, 1]}), 2)


class ByPosition(nn.Module):
    """torch.export names keyword arguments with dynamic shapes in a way that its own guards do not find."""

    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, a: Tensor, b: Tensor, available: Tensor) -> Tensor:
        return self.adapted(a, b, available=available)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The tensor attribute self.adapted.adapter.route was assigned during export")
def test_compiled_is_one_graph_for_all_combinations_and_exported_takes_them_as_an_input() -> None:
    graphs = 0

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    settings = [("together", OneHot()), ("lora", Additive())]
    for seen, (kind, basis) in enumerate(settings):
        adapted = odd(KINDS[kind](), basis=basis)
        randomise(adapted)
        compiled = torch.compile(adapted, fullgraph=True, backend=count)
        many = {0: torch.export.Dim("batch", min=2, max=64)}
        shapes = (many, many, many)
        call = (ODD["a"], ODD["b"], MIXED)
        program = torch.export.export(ByPosition(adapted), call, dynamic_shapes=shapes, strict=False).module()
        for available in (MIXED, MIXED.flip(0)):
            expected = adapted(**ODD, available=available)
            torch.testing.assert_close(compiled(**ODD, available=available), expected)
            found = program(ODD["a"].repeat(2, 1, 1), ODD["b"].repeat(2, 1, 1), available.repeat(2, 1))
            torch.testing.assert_close(found, expected.repeat(2, 1))
        assert graphs == seen + 1
