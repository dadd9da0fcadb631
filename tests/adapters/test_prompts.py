"""Prompt tokens: what a block sees, masks, samples that lack nothing, and mistakes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, Basis, OneHot, PromptTokens, Together, adapt, load
from lightning_mm.errors import LightningMMError
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.ranks import run_ranks

NAMES = Modalities(["a", "b"])
MASKS = NAMES.masks(["a", "b", "a+b", "b", "a+b"])


@pytest.fixture(autouse=True)
def attention_has_one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


class Blocks(nn.Module):
    """Two transformer blocks over tokens of two modalities, with padding and a mask of their own."""

    def __init__(self, batch_first: bool = True, causal: bool = False) -> None:
        super().__init__()
        self.batch_first, self.causal = batch_first, causal
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first, dropout=0.1) for _ in range(2)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        tokens = torch.cat([a, b], 1)
        padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        mask = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1) if self.causal else None
        x = tokens if self.batch_first else tokens.transpose(0, 1)
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask=padding)
        return self.head(x.mean(1 if self.batch_first else 0))


def inputs(batch: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "a": torch.randn(batch, 4, 8, generator=generator),
        "b": torch.randn(batch, 3, 8, generator=generator),
    }


def network(batch_first: bool = True, causal: bool = False) -> Blocks:
    torch.manual_seed(0)
    return Blocks(batch_first, causal).eval()


def make(basis: Basis, batch_first: bool = True, causal: bool = False, length: int = 2) -> Adapted:
    adapted = adapt(network(batch_first, causal), NAMES, PromptTokens(length), basis=basis, example=((), inputs(2)))
    randomise(adapted, scale=1.0)
    return adapted


def by_hand(adapted: Adapted, row: int, combination: str) -> Tensor:
    """The same sample with its tokens put before and taken away by this loop, without hooks, on the base alone."""
    base = copy.deepcopy(adapted)
    banks, basis = base.adapter.banks, base.adapter.basis
    plain = base.remove()
    present = NAMES.parse(combination)
    x = torch.cat([inputs()[name][row : row + 1] * (name in present) for name in NAMES], 1)
    uses = [
        basis.names.index(name)
        for name in basis.names
        if basis.weights(NAMES.masks([combination]))[0, basis.names.index(name)]
    ]
    for place, layer in enumerate(plain.layers):
        own = sum(banks[f"layers/{place}"].tokens[use] for use in uses) if uses else torch.zeros(0, 8)
        count = len(own)
        padding = torch.zeros(1, count + 7, dtype=torch.bool)
        padding[:, -1] = True
        x = layer(torch.cat([own[None], x], 1), src_key_padding_mask=padding)[:, count:]
    return plain.head(x.mean(1))


@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_blocks_see_the_tokens_of_each_sample(basis: type[Basis]) -> None:
    adapted = make(basis())
    with torch.no_grad():
        together = adapted(**inputs(), available=MASKS)
        for row, combination in enumerate(["a", "b", "a+b", "b", "a+b"]):
            expected = by_hand(adapted, row, combination)
            torch.testing.assert_close(together[row : row + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_first", "causal"), [(True, False), (False, False), (True, True), (False, True)])
def test_mixed_batch_equals_one_row_at_a_time_and_complete_samples_are_the_base(
    batch_first: bool, causal: bool
) -> None:
    adapted = make(OneHot(), batch_first, causal)
    with torch.no_grad():
        base = network(batch_first, causal)(**inputs())
        together = adapted(**inputs(), available=MASKS)
        torch.testing.assert_close(together[[2, 4]], base[[2, 4]], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(together[0], base[0], atol=1e-2)
        for row in range(5):
            one = {name: value[row : row + 1] for name, value in inputs().items()}
            alone = adapted(**one, available=MASKS[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_gradient_poison_copies_and_saving(tmp_path: Path) -> None:
    adapted = make(OneHot())
    masks = NAMES.masks(["b", "a+b", "b"])
    adapted(**inputs(3), available=masks).square().sum().backward()
    for parameter in adapted.adapter.banks.parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(1).ne(0).any(1).tolist() == [False, True]
    assert_missing_invariant(_Dict(adapted), NAMES, inputs())
    expected = adapted(**inputs(), available=MASKS)
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(twin(**inputs(), available=MASKS), expected)
    adapted.save(tmp_path)
    base = adapted.remove()
    assert torch.equal(load(tmp_path, base)(**inputs(), available=MASKS), expected)
    with torch.no_grad():
        adapted = make(OneHot())
        for parameter in adapted.adapter.banks.parameters():
            parameter[0] = torch.nan
        broken = adapted(**inputs(), available=MASKS)
    assert broken.isnan().any(1).tolist() == [True, False, False, False, False]


class _Dict(nn.Module):
    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:
        return self.adapted(**inputs, available=available)


def test_together_with_scale_and_shift() -> None:
    kind = Together([SSF(), PromptTokens(2)])
    with pytest.warns(UserWarning, match="left out of the adapter"):
        adapted = adapt(network(), NAMES, kind, basis=Additive(), example=((), inputs(2)))
    randomise(adapted, scale=0.3)
    with torch.no_grad():
        together = adapted(**inputs(), available=MASKS)
        torch.testing.assert_close(together[2], network()(**inputs())[2], rtol=1e-4, atol=1e-5)
        one = {name: value[:1] for name, value in inputs().items()}
        torch.testing.assert_close(together[:1], adapted(**one, available=MASKS[:1]), rtol=1e-4, atol=1e-5)


def test_disabled_is_the_base_which_comes_back_bit_for_bit() -> None:
    adapted = make(Additive())
    before = {key: value.clone() for key, value in adapted.base.state_dict().items()}
    tokens = [parameter.clone() for parameter in adapted.adapter.parameters()]
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**inputs(), available=MASKS).square().sum().backward()
        optimizer.step()
    assert all(not torch.equal(old, new) for old, new in zip(tokens, adapted.adapter.parameters()))
    filled = {name: value * MASKS[:, i].view(-1, 1, 1) for i, (name, value) in enumerate(inputs().items())}
    with torch.no_grad():
        expected = network()(**filled)
        with adapted.adapter.disabled():
            assert torch.equal(adapted(**inputs(), available=MASKS), expected)
        base = adapted.remove()
        assert torch.equal(base(**filled), expected)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_autocast() -> None:
    adapted = make(Additive())
    expected = adapted(**inputs(), available=MASKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = adapted(**inputs(), available=MASKS)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapted.adapter.parameters())


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_one_graph_for_all_combinations(basis: type[Basis]) -> None:
    graphs = []
    adapted = make(basis())

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(adapted, fullgraph=True, backend=count)
    for masks in (MASKS, MASKS.flip(0), torch.ones_like(MASKS)):
        expected = adapted(**inputs(), available=masks)
        torch.testing.assert_close(compiled(**inputs(), available=masks), expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


class _ByPosition(nn.Module):
    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, a: Tensor, b: Tensor, available: Tensor) -> Tensor:
        return self.adapted(a, b, available=available)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The tensor attribute self.adapted.adapter.route was assigned during export")
def test_export_takes_available_as_an_input() -> None:
    adapted = make(Additive())
    many = {0: torch.export.Dim("batch", min=2, max=64)}
    call = (*inputs(3).values(), NAMES.masks(["a", "b", "a+b"]))
    program = torch.export.export(_ByPosition(adapted), call, dynamic_shapes=(many,) * 3, strict=False).module()
    for masks in (MASKS, MASKS.flip(0)):
        found = program(*inputs().values(), masks)
        torch.testing.assert_close(found, adapted(**inputs(), available=masks), rtol=1e-4, atol=1e-5)


def _gradients_of_half(rank: int, folder: Path) -> None:
    adapted = make(Additive())
    parallel = nn.parallel.DistributedDataParallel(adapted)
    rows = slice(rank * 2, rank * 2 + 2)
    for _ in range(2):  # a second step would fail if a parameter had not been used in the first
        adapted.zero_grad()
        given = {name: value[rows] for name, value in inputs(4).items()}
        parallel(**given, available=NAMES.masks(["a", "b", "a+b", "a+b"])[rows]).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in adapted.adapter.parameters()], folder / "gradients.pt")


@pytest.mark.slow
def test_two_ranks_have_the_gradients_of_one_though_nothing_is_missing_on_the_second(tmp_path: Path) -> None:
    run_ranks(_gradients_of_half, tmp_path)
    adapted = make(Additive())
    adapted(**inputs(4), available=NAMES.masks(["a", "b", "a+b", "a+b"])).square().mean().backward()
    for found, parameter in zip(torch.load(tmp_path / "gradients.pt"), adapted.adapter.parameters()):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_batch_of_as_many_samples_as_tokens() -> None:
    masks = NAMES.masks(["a", "b", "a+b", "b", "a+b", "a", "b"])
    for causal in (False, True):
        adapted = make(OneHot(), causal=causal)
        together = adapted(**inputs(7), available=masks)
        for row in range(7):
            one = {name: value[row : row + 1] for name, value in inputs(7).items()}
            alone = adapted(**one, available=masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_training_moves_towards_the_target() -> None:
    adapted = make(OneHot())
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (adapted(**inputs(), available=MASKS)[[0, 1, 3]] - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


class Shorter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halve = Half()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.halve(a).mean(1) + b.mean(1)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


def test_mistakes_are_answered_with_the_way_out() -> None:
    call = ((), inputs(2))
    with pytest.raises(LightningMMError, match="PromptTokens: length must be a whole number of at least 1, got 0"):
        PromptTokens(0)
    with pytest.raises(LightningMMError, match="finds no transformer block in Shorter; name its blocks"):
        adapt(Shorter(), NAMES, PromptTokens(), example=call)
    with pytest.raises(LightningMMError, match=r"layers=\['encoder'\].*matches no layer of Blocks of the types Module"):
        adapt(network(), NAMES, PromptTokens(layers=["encoder"]), example=call)
    with pytest.raises(LightningMMError, match="'head' cannot take prompt tokens: it outputs 2 axes"):
        adapt(network(), NAMES, PromptTokens(layers=["head"]), example=call)
    with pytest.raises(LightningMMError, match=r"'halve' got 4 tokens and 3 prompt tokens and returned 4 tokens"):
        adapt(Shorter(), NAMES, PromptTokens(3, ["halve"]), example=call)(
            **inputs(2), available=NAMES.masks(["a", "b"])
        )
    with pytest.raises(LightningMMError, match=r"layer 'layers.0' cannot be folded: prompt tokens"):
        make(OneHot()).fold("a")


@pytest.mark.parametrize("batch_first", [True, False])
def test_grouped_mode_gives_the_same_numbers(batch_first: bool) -> None:
    outputs = []
    for grouped in (False, True):
        torch.manual_seed(0)
        adapted = adapt(Blocks(batch_first), NAMES, PromptTokens(2), example=((), inputs(2)), grouped=grouped)
        randomise(adapted)
        outputs.append(adapted(**inputs(), available=MASKS))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
