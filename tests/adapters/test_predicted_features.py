"""The output of an absent encoder predicted from those of present ones: any order of encoders, the same numbers."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters import (
    SSF,
    Adapted,
    Additive,
    Basis,
    LoRA,
    OneHot,
    PredictedFeatures,
    PredictedFeaturesBank,
    Together,
    adapt,
    load,
)
from lightning_mm.errors import LightningMMError, NotApplicableError
from lightning_mm.export import Runtime, export_adapted
from lightning_mm.modalities import Modalities
from lightning_mm.tasks.teacher.features import features_of, tapped
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.reversed_encoders import MASKS, NAMES, WIDTHS, Network, inputs, make


class Maps(nn.Module):
    """Images and tokens: the first two modalities are maps of one size."""

    def __init__(self) -> None:
        super().__init__()
        a, b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(2, 6, 1)
        self.encoders = nn.ModuleDict({"a": a, "b": b, "c": nn.Linear(3, 5)})
        self.head = nn.Linear(15, 2)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        found = [self.encoders["a"](a).flatten(2).square().mean(2), self.encoders["b"](b).flatten(2).square().mean(2)]
        return self.head(torch.cat([*found, self.encoders["c"](c).square().mean(1)], 1))


def maps(batch: int = len(MASKS)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"a": (1, 4, 5), "b": (2, 4, 5), "c": (7, 3)}
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in shapes.items()}


def zero_fill(network: nn.Module, masks: Tensor = MASKS) -> Tensor:
    given = {name: torch.where(masks[:, k, None], value, 0.0) for k, (name, value) in enumerate(inputs().items())}
    output: Tensor = network(**given)
    return output


def by_hand(adapted: Adapted, row: int) -> Tensor:
    """Predict for one sample as the docstring of the kind says, without hooks."""
    base, given = copy.deepcopy(adapted).remove(), inputs()
    present = [name for name, flag in zip(NAMES, MASKS[row].tolist()) if flag]
    made = {name: base.encoders[name](given[name][row].sin() * float(name in present)) for name in NAMES}
    codes = {}
    for name in present:
        bank = adapted.adapter.banks[f"encoders/{name}"]
        codes[name] = F.gelu(bank.down[0] @ F.layer_norm(made[name], made[name].shape) + bank.offset)
    total: Any = 0
    for name in NAMES:
        bank, value = adapted.adapter.banks[f"encoders/{name}"], made[name]
        if name not in present:
            others = [other for other in NAMES if other != name]
            mean = sum(codes[one] @ bank.up[others.index(one)] for one in present) / len(present)
            value = value + bank.bias + mean
        total = total + base.heads[name]((0.5 * value).tanh())
    output: Tensor = base.last(total)
    return output


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_it_computes_what_its_docstring_says(basis: type[Basis], grouped: bool) -> None:
    adapted = make(basis=basis(), grouped=grouped)
    found = adapted(**inputs(), available=MASKS)
    expected = torch.stack([by_hand(adapted, row) for row in range(len(MASKS))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with adapted.adapter.every_row():
        torch.testing.assert_close(adapted(**inputs(), available=MASKS), expected, rtol=1e-5, atol=1e-5)
    for row in range(len(MASKS)):
        one = {name: value[row : row + 1] for name, value in inputs().items()}
        alone = adapted(**one, available=MASKS[row : row + 1])
        torch.testing.assert_close(alone[0], expected[row], rtol=1e-5, atol=1e-5)


def test_fresh_disabled_and_complete_samples_are_the_base_bit_for_bit() -> None:
    adapted, base = make(moved=False), Network()
    base.load_state_dict(adapted.base.state_dict())
    expected = zero_fill(base)
    assert torch.equal(adapted(**inputs(), available=MASKS), expected)
    randomise(adapted.adapter)
    changed = adapted(**inputs(), available=MASKS)
    complete = MASKS.all(1)
    assert torch.equal(changed[complete], expected[complete])
    assert not torch.isclose(changed[~complete], expected[~complete]).all(1).any()
    with adapted.adapter.disabled():
        assert torch.equal(adapted(**inputs(), available=MASKS), expected)
    assert torch.equal(adapted(**inputs(), available=torch.ones_like(MASKS)), base(**inputs()))
    assert torch.equal(zero_fill(adapted.remove()), expected)
    assert not any("forward" in vars(module) for module in base.modules())


def test_encoders_run_once_and_the_rest_of_the_network_too() -> None:
    adapted, runs = make(), []
    for name in WIDTHS:
        linear = adapted.base.encoders[name]
        linear.forward.own = lambda x, linear=linear: (runs.append(len(x)), nn.Linear.forward(linear, x))[1]
    expected, adapted.base.runs = adapted(**inputs(), available=MASKS), 0
    runs.clear()
    assert torch.equal(adapted(**inputs(), available=MASKS), expected)
    assert adapted.base.runs == 1, "the first step ends with the last encoder"
    columns = MASKS.sum(0).tolist()
    distinct = [len({tuple(row) for row in MASKS.tolist() if not row[k]}) for k in range(3)]
    assert runs == [columns[k] + distinct[k] for k in (2, 1, 0)], "absent rows cost nothing"


def test_absent_values_and_other_samples_change_nothing() -> None:
    adapted = make(basis=Additive())

    def network(inputs: Any, available: Tensor) -> Tensor:
        output: Tensor = adapted(**inputs, available=available)
        return output

    assert_missing_invariant(network, NAMES, inputs())
    adapted.zero_grad()
    given = {name: torch.where(MASKS[:, k, None], v, math.nan) for k, (name, v) in enumerate(inputs().items())}
    adapted(**given, available=MASKS).sum().backward()
    gradients = {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}
    assert set(gradients) == {f"adapter.{name}" for name, _ in adapted.adapter.named_parameters()}
    assert all(one.isfinite().all() and one.any() for one in gradients.values())


def test_a_prediction_that_is_not_finite_reaches_only_samples_that_use_it() -> None:
    adapted = make()
    clean = adapted(**inputs(), available=MASKS).detach()
    with torch.no_grad():
        adapted.adapter.banks["encoders/a"].up[0] = math.nan  # from b
    changed = adapted(**inputs(), available=MASKS)
    uses = ~MASKS[:, 0] & MASKS[:, 1]
    assert torch.equal(changed.isnan().all(1), uses)
    assert torch.equal(changed[~uses], clean[~uses])


def test_only_chosen_combinations_are_adapted() -> None:
    adapted = make(basis=OneHot(combinations=["a", "b+c"]))
    changed, expected = adapted(**inputs(), available=MASKS), zero_fill(adapted.base)
    chosen = (NAMES.masks(["a"]) == MASKS).all(1) | (NAMES.masks(["b+c"]) == MASKS).all(1)
    assert torch.equal((changed != expected).any(1), chosen)


def test_with_other_kinds_on_the_encoders_themselves() -> None:
    """SSF and LoRA act on each encoder, also of absent modalities; the prediction reads and replaces the result."""
    for kind in (Together([PredictedFeatures(3), SSF()]), Together([SSF(), LoRA(2), PredictedFeatures(2)])):
        adapted = make(kind, Additive())
        together = adapted(**inputs(), available=MASKS)
        for row in range(len(MASKS)):
            one = {name: value[row : row + 1] for name, value in inputs().items()}
            alone = adapted(**one, available=MASKS[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for combination in NAMES.incomplete():
                mask = NAMES.mask(combination).expand(len(MASKS), -1)
                torch.testing.assert_close(adapted.fold(combination)(**inputs()), adapted(**inputs(), available=mask))


@pytest.mark.parametrize("constant", [False, True])
def test_folded_for_one_combination(constant: bool) -> None:
    adapted = make()
    example = ((), inputs(2)) if constant else None
    with torch.no_grad():
        for combination in NAMES.combinations():
            mask = NAMES.mask(combination).expand(len(MASKS), -1)
            expected = adapted(**inputs(), available=mask)
            folded = adapted.fold(combination, example)
            for one in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
                torch.testing.assert_close(one(**inputs()), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(adapted(**inputs(), available=mask), expected, rtol=0, atol=0)


def test_save_load_and_copies(tmp_path: Path) -> None:
    adapted = make(basis=Additive())
    expected = adapted(**inputs(), available=MASKS)
    adapted.save(tmp_path)
    base = Network()
    base.load_state_dict(adapted.base.state_dict())
    for one in (load(tmp_path, base), copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(one(**inputs(), available=MASKS), expected)
        randomise(one.adapter, seed=5)
        assert not torch.equal(one(**inputs(), available=MASKS), expected)
    assert torch.equal(adapted(**inputs(), available=MASKS), expected)


def test_number_of_parameters() -> None:
    adapted = make(PredictedFeatures(2), Additive())
    count = sum(width * (3 * 2 + 1) + 2 for width in WIDTHS.values())
    assert sum(parameter.numel() for parameter in adapted.adapter.parameters()) == count
    assert adapted.adapter.parameters_per_combination() == count, "no rows: all combinations share them"
    both = make(Together([PredictedFeatures(2), SSF()]), Additive())
    rows = sum(2 * site.channels for site in both.adapter.sites)
    assert both.adapter.parameters_per_combination() == count + 2 * rows, "two rows of three for SSF"


@pytest.mark.parametrize("aligned", [False, True])
def test_maps_and_tokens(aligned: bool) -> None:
    torch.manual_seed(0)
    names = ["a", "b"] if aligned else list(NAMES)
    encoders = {name: f"encoders.{name}" for name in names}
    network, example = Maps(), ((), maps(2))
    adapted = adapt(network, NAMES, PredictedFeatures(2, aligned), example=example, encoders=encoders)
    randomise(adapted.adapter)
    seen: dict[str, Tensor] = {}
    network.encoders["a"].register_forward_hook(lambda module, args, output: seen.update(a=output))
    network.encoders["b"].register_forward_hook(lambda module, args, output: seen.update(b=output))
    masks, given = NAMES.masks(["b+c"]).expand(9, -1), maps()
    whole = adapted(**given, available=masks)
    bank = adapted.adapter.banks["encoders/a"]
    assert isinstance(bank, PredictedFeaturesBank)
    of_zeros = network.encoders["a"].bias.view(-1, 1, 1)
    change = seen["a"] - of_zeros
    code = F.layer_norm(seen["b"].movedim(1, -1), [6])
    other = adapted.adapter.banks["encoders/b"]
    code = F.gelu(code @ other.down[0].T + other.offset)
    if aligned:
        torch.testing.assert_close(change.movedim(1, -1), code @ bank.up[0] + bank.bias, rtol=1e-4, atol=1e-5)
    else:
        assert torch.allclose(change, change[:, :, :1, :1], atol=1e-5)
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in given.items()}
        torch.testing.assert_close(adapted(**one, available=masks[:1])[0], whole[row], rtol=1e-4, atol=1e-5)


def test_a_teacher_may_teach_the_outputs_of_encoders() -> None:
    """Taps of distillation see every layer once in a call, encoders with what was predicted."""
    adapted, names = make(moved=False), ["encoders.a", "heads.a", "heads.c", "last"]
    with adapted.adapter.every_row():
        with tapped(adapted.base, names) as taps:
            adapted(**inputs(), available=MASKS)
        fresh = features_of(taps)
        randomise(adapted.adapter)
        with tapped(adapted.base, names) as taps:
            adapted(**inputs(), available=MASKS)
        found = features_of(taps)
    assert {name: len(one) for name, one in found.items()} == dict.fromkeys(names, 1)
    changed = (found["encoders.a"][0] != fresh["encoders.a"][0]).any(1)
    assert torch.equal(changed, ~MASKS[:, 0])


def test_it_learns_a_modality_that_another_one_determines() -> None:
    """b is a function of a, and only b decides: the fill is useless, the prediction recovers it by the task loss."""
    names, generator = Modalities(["a", "b"]), torch.Generator().manual_seed(1)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(3, 6)})
            self.head = nn.Linear(6, 1)

        def forward(self, b: Tensor, a: Tensor) -> Tensor:
            return self.head(self.encoders["b"](b)) + 0 * self.encoders["a"](a).sum(1, keepdim=True)

    torch.manual_seed(0)
    a = torch.randn(256, 4, generator=generator)
    b = a @ torch.randn(4, 3, generator=generator)
    network = Sum()
    target = network(b, a).detach()
    adapted = adapt(network, names, PredictedFeatures(6), example=((b[:2], a[:2]), {}))
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.03)
    mask = names.masks(["a"]).expand(256, -1)
    errors = []
    for _ in range(200):
        error = (adapted(b, a, available=mask) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach() / target.var()))
    assert errors[0] > 0.9
    assert errors[-1] < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    adapted = make()
    with torch.no_grad():
        expected = adapted(**inputs(), available=MASKS)
        with torch.autocast("cpu", dtype):
            found = adapted(**inputs(), available=MASKS)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
        cast = make().to(dtype)
        assert {parameter.dtype for parameter in cast.adapter.parameters()} == {torch.float32}
        found = cast(**{name: value.to(dtype) for name, value in inputs().items()}, available=MASKS)
        torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_and_export() -> None:
    adapted = make()
    expected = adapted(**inputs(), available=MASKS)
    torch._dynamo.reset()
    compiled = torch.compile(adapted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs(), available=MASKS), expected)
    torch.testing.assert_close(
        compiled(**inputs(), available=MASKS.flip(0)), adapted(**inputs(), available=MASKS.flip(0))
    )
    program = torch.export.export(
        nn.ModuleDict({"it": adapted})["it"], (), {**inputs(), "available": MASKS}, strict=False
    )
    torch.testing.assert_close(program.module()(**inputs(), available=MASKS), expected)
    linear = [node for node in program.run_decompositions().graph.nodes if "addmm" in str(node.target)]
    assert len(linear) == 10, "three encoders and codes, three heads and the last layer, each once"


@pytest.mark.slow
@pytest.mark.compiled
def test_exported_programs(tmp_path: Path) -> None:
    adapted = make()
    combinations = [NAMES.combinations()[0], NAMES.combinations()[-2]]
    index = export_adapted(adapted, ((), inputs(2)), tmp_path, formats=["torch"], combinations=combinations)
    assert list(index.programs) == [*combinations, "any"]
    runtime = Runtime(tmp_path)
    for combination in NAMES.combinations():
        given = {name: value.numpy() for name, value in inputs().items() if name in NAMES.parse(combination)}
        with torch.no_grad():
            expected = adapted(**inputs(), available=NAMES.mask(combination).expand(len(MASKS), -1))
        torch.testing.assert_close(torch.as_tensor(runtime(given)), expected, rtol=1e-5, atol=1e-5)


def test_where_it_does_not_fit() -> None:
    with pytest.raises(NotApplicableError, match=r"encoders of at least two .* has only 'a'"):
        make(encoders={"a": "encoders.a"})
    with pytest.raises(NotApplicableError, match="and a fill, and Network has none"):
        make(fill=None)
    with pytest.raises(LightningMMError, match="rank"):
        PredictedFeatures(0)
    network = Network()
    network.mask_absent = True  # type: ignore[assignment]
    with pytest.raises(NotApplicableError, match="masks the features of absent modalities itself"):
        adapt(network, NAMES, PredictedFeatures(), example=((), inputs(2)))
    torch.manual_seed(0)
    adapted = adapt(Maps(), NAMES, PredictedFeatures(aligned=True), example=((), maps(2)))
    with pytest.raises(LightningMMError, match=r"returns \[\d.*expected the same, or use aligned=False"):
        adapted(**maps(), available=MASKS)
