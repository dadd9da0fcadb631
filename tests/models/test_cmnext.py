"""CMNeXt: adapters, parameter counts, weights of others, and mistakes answered by name."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, BitFit, OneHot, adapt
from lightning_mm.adapters.build import build_adapter
from lightning_mm.adapters.layers.types import Adaptable
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.models import CMNeXt
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise, trained_statistics
from tests.support.mit_weights import mit
from tests.support.model_checks import check_travels, rows

NAMES = {2: Modalities(["rgb", "thermal"]), 3: Modalities(["rgb", "aolp", "nir"])}
FOUR = ["rgb", "aolp", "dolp", "nir"]
CHANNEL_MIX = "auxiliary.*.channel_mix"
"""The one-dimensional convolution of MSPA."""


def build(count: int = 2, **settings: Any) -> CMNeXt:
    torch.manual_seed(0)
    network = CMNeXt(**{"variant": "B0", "modalities": list(NAMES[count]), "num_classes": 5, **settings}).eval()
    trained_statistics(network)
    return network


@pytest.fixture(scope="module")
def other() -> CMNeXt:
    """A network of two modalities with other weights than :func:`build` gives; not to be changed."""
    network = build()
    randomise(network)
    return network


def near(found: Tensor, expected: Tensor) -> bool:
    """By the largest value, as the golden sets measure it, and ten times as strict."""
    return bool((found - expected).abs().max() < 1e-5 * expected.abs().max())


def images(count: int = 2, batch: int = 2, size: tuple[int, int] = (64, 64), seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 3, *size, generator=generator) for name in NAMES[count]}


def adapted(modalities: int) -> Adapted:
    names, example = NAMES[modalities], images(modalities)
    one = adapt(build(modalities), names, SSF(), basis=OneHot(), example=((example,), {}), exclude=["head*"])
    randomise(one, scale=0.1)
    return one


@pytest.mark.parametrize("modalities", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_mixed_batch_equals_one_row_at_a_time_and_folds(modalities: int) -> None:
    names, one = NAMES[modalities], adapted(modalities)
    layers = {name for name, module in one.base.named_modules() if isinstance(module, Adaptable)}
    reached = {site.name for site in one.adapter.sites}
    assert reached == {name for name in layers if not name.startswith("head")}
    masks = names.masks()
    batch = images(modalities, len(masks))
    with torch.no_grad():
        together = one(batch, available=masks)
        base = one.base(batch)
        assert not torch.allclose(together[0], base[0], rtol=0.1)
        for row, combination in enumerate(names.combinations()):
            alone = one(rows(batch, slice(row, row + 1)), available=masks[row : row + 1])
            assert near(together[row : row + 1], alone), combination
            if row in (0, len(masks) - 2):
                assert near(one.fold(combination)(rows(batch, slice(row, row + 1))), alone), combination
        full = torch.ones_like(masks)
        complete = one(batch, available=full)
        assert torch.equal(complete, one.remove().eval()(batch))


@pytest.mark.slow
@pytest.mark.parametrize("modalities", [2, 3])
def test_poison_reaches_nothing(modalities: int) -> None:
    assert_missing_invariant(adapted(modalities), NAMES[modalities], images(modalities, size=(32, 32)))


def test_every_parameter_has_a_use_and_layers_are_called() -> None:
    network = build(3)
    fired = set()
    for name, module in network.named_modules():
        if isinstance(module, Adaptable):
            module.register_forward_hook(lambda *_, name=name: fired.add(name))
    network(images(3)).square().sum().backward()
    assert fired == {name for name, module in network.named_modules() if isinstance(module, Adaptable)}
    assert not [n for n, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]


def test_nothing_is_random_in_eval_and_drop_path_is_at_work_in_training() -> None:
    network = build(dropout=0.0, drop_path=0.9)
    with torch.no_grad():
        assert torch.equal(network(images()), network(images()))
        network.train()
        assert not torch.equal(network(images()), network(images()))
    rates = [block.drop_path.rate for stage in build(drop_path=0.7).main for block in stage.blocks]
    assert rates == pytest.approx([0.1 * step for step in range(8)])


def test_rows_do_not_know_of_each_other_and_any_size_is_kept() -> None:
    network, batch = build(3), images(3, batch=3, size=(45, 70))
    with torch.no_grad():
        together = network(batch)
        assert together.shape == (3, 5, 45, 70)
        for row in range(3):
            alone = network(rows(batch, slice(row, row + 1)))
            assert near(together[row : row + 1], alone)


def test_the_reshape_of_the_reference_matters_from_three_modalities_on() -> None:
    for modalities, same in ((2, True), (3, False)):
        network, batch = build(modalities), images(modalities)
        plain = copy.deepcopy(network)
        plain.reference_reshape = False
        with torch.no_grad():
            assert torch.allclose(network(batch), plain(batch)) is same


def test_the_network_travels() -> None:
    check_travels(build(), images())


# Counts: of the paper's table (facts), all layers with the head, without the one-dimensional convolution of MSPA


def on_meta(variant: Any, modalities: list[str], num_classes: int) -> CMNeXt:
    with torch.device("meta"):
        return CMNeXt(variant, modalities, num_classes)


CASES = [
    ("B4", ["rgb", "thermal"], 9, 116_560_396, 0.7665, 0.3776),
    ("B4", ["rgb", "depth"], 40, 116_576_299, 0.7666, 0.3776),
    ("B2", FOUR, 20, 58_729_560, 0.3347, 0.1617),
]
PERCENT = {116_560_396: (0.658, 0.324), 58_729_560: (0.570, 0.275)}
"""Total to what SSF and BitFit add; of the second network the table has none."""


@pytest.mark.parametrize(("variant", "modalities", "classes", "total", "ssf", "bitfit"), CASES)
def test_counts_of_the_paper(
    variant: str, modalities: list[str], classes: int, total: int, ssf: float, bitfit: float
) -> None:
    network = on_meta(variant, modalities, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    layers = [
        m for name, m in network.named_modules() if isinstance(m, Adaptable) and not fnmatchcase(name, CHANNEL_MIX)
    ]
    channels = sum(layer.weight.shape[0] for layer in layers)
    biases = sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    assert round(2 * channels / 1e6, 4) == ssf
    assert round(biases / 1e6, 4) == bitfit
    shares = (round(100 * 2 * channels / total, 3), round(100 * biases / total, 3))
    assert shares == PERCENT.get(total, shares)


@pytest.mark.slow
def test_counts_of_the_paper_by_the_adapters_themselves() -> None:
    variant, modalities, classes, _, ssf, bitfit = CASES[-1]
    network = on_meta(variant, modalities, classes)
    with torch.device("meta"):
        example = {name: torch.zeros(2, 3, 32, 32) for name in modalities}
    for kind, expected in ((SSF(), ssf), (BitFit(), bitfit)):
        exclude = [CHANNEL_MIX] if isinstance(kind, SSF) else []
        built = build_adapter(network, modalities, kind, fill=None, example=((example,), {}), exclude=exclude)
        assert round(built.parameters_per_combination() / 1e6, 4) == expected


# Weights of others


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (dict, ""),
        (dict, "module."),
        (lambda state: {"model_state_dict": state, "epoch": 3}, "module."),
        (lambda state: {"state_dict": state}, ""),
    ],
)
def test_released_weights_bare_and_wrapped(other: CMNeXt, wrap: Any, prefix: str) -> None:
    network = copy.deepcopy(other)
    randomise(network, seed=1)
    released = {f"{prefix}{key}": value for key, value in other.to_reference().items()}
    network.load_reference(wrap(released))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


def drop(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if ".FRMs.0." in key]:
        del state[key]


def rename(state: dict[str, Tensor]) -> None:
    state["encoder.conv.weight"] = state.pop("decode_head.linear_pred.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"state_dict lacks backbone\.FRMs\.0\.channel_weights\.mlp\.0\.weight, .* and 5 more; build it with"),
        (rename, r"lacks decode_head\.linear_pred\.weight; has unknown encoder\.conv\.weight"),
        (
            lambda state: state.update({"decode_head.linear_pred.bias": torch.zeros(9)}),
            r"has other shapes: decode_head\.linear_pred\.bias \(9,\) instead of \(5,\); build it with the variant",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(other: CMNeXt, change: Any, message: str) -> None:
    network = build()
    before, state = copy.deepcopy(network.state_dict()), other.to_reference()
    change(state)
    with pytest.raises(LightningMMError, match=message):
        network.load_reference(state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_weights_of_another_number_of_modalities_and_none_at_all() -> None:
    with pytest.raises(LightningMMError, match=r"has unknown backbone\.extra_downsample_layers\.0\.norm\.ln_1\.weight"):
        build().load_reference(build(3).to_reference())
    with pytest.raises(LightningMMError, match=r"expected a state_dict of tensors, bare or as .* got a dict of epoch"):
        build().load_reference({"epoch": 3})


def test_mit_weights_go_into_the_main_branch_alone(other: CMNeXt) -> None:
    network, state = build(), mit(other)
    before = copy.deepcopy(network.state_dict())
    network.load_mit(state)
    after, released = network.state_dict(), network.to_reference()
    assert {"patch_embed1.proj.weight", "block1.0.attn.q.weight", "norm4.bias"} <= set(state)
    assert all(torch.equal(released[f"backbone.{key}"], state[key]) for key in state if not key.startswith("head."))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {key for key in after if key.startswith("main.")}


def test_mit_weights_that_do_not_fit_are_named_and_change_nothing(other: CMNeXt) -> None:
    network, state = build(), mit(other)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(LightningMMError, match=r"MiT weights .*has other shapes: patch_embed1\.proj\.weight \(64, 3"):
        network.load_mit({**state, "patch_embed1.proj.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(LightningMMError, match=r"lacks norm1\.bias; has unknown norm1\.beta; take those of the same"):
        network.load_mit({("norm1.beta" if key == "norm1.bias" else key): value for key, value in state.items()})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_network_starts_from_a_file_of_mit(other: CMNeXt, tmp_path: Path) -> None:
    state, path = mit(other), str(tmp_path / "mit_b0.pth")
    torch.save(state, path)
    random, started = build(), build(mit_weights=path)
    plain = random.state_dict()
    assert any(not torch.equal(plain[key], other.state_dict()[key]) for key in plain if key.startswith("main."))
    for key, value in started.state_dict().items():
        expected = other.state_dict() if key.startswith("main.") else plain
        assert torch.equal(value, expected[key]), key
    # What is loaded afterwards wins, and does not ask for the file.
    Path(path).unlink()
    started.load_reference(random.to_reference())
    assert all(torch.equal(value, plain[key]) for key, value in started.state_dict().items())


def test_a_file_that_is_no_mit_is_named_with_the_way_out(other: CMNeXt, tmp_path: Path) -> None:
    path = tmp_path / "mit.pth"
    with pytest.raises(DataNotFoundError, match=rf"no MiT weights at {path}; fetch the file .* or set mit_weights to"):
        build(mit_weights=str(path))
    cases: list[tuple[Any, str]] = [
        ([1, 2], rf"the MiT weights {path} are a list, expected a state_dict; fetch"),
        ({"epoch": 3}, rf"mit_weights {path}: expected a state_dict of tensors"),
        (mit(build(variant="B1")), rf"mit_weights {path}: MiT weights do not fit .* take those of the same variant"),
        (build(), rf"the MiT weights {path} cannot be read as tensors and plain types"),  # a pickled module
    ]
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(LightningMMError, match=message):
            build(mit_weights=str(path))


# Mistakes


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "B9"}, r"variant must be one of \['B0', .* got 'B9'"),
        ({"modalities": ["rgb"]}, r"needs a main modality and at least one other, got \['rgb'\]"),
        ({"modalities": ["rgb", "pop"]}, "modality 'pop' cannot name a part"),
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thermal": torch.zeros(2, 1, 64, 64)}, r"'thermal': expected \[batch, 3, .* got \(2, 1, 64, 64\); repeat a"),
        ({"thermal": torch.zeros(2, 3, 64, 32)}, "'thermal': expected the batch and size of 'rgb'"),
        (dict.fromkeys(NAMES[2], torch.zeros(2, 3, 16, 64)), "height and width must be at least 32, got 16 x 64"),
        ({"radar": torch.zeros(2, 3, 64, 64)}, r"inputs have unknown \['radar'\]"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build()(images() | change)


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph() -> None:
    network, batch = build(3), images(3, size=(32, 32))
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=False)
    exported = torch.export.export(network, (batch,)).module()
    with torch.no_grad():
        expected = network(batch)
        torch.testing.assert_close(compiled(batch), expected)
        torch.testing.assert_close(exported(batch), expected)
