"""MulT without its reference: padding, order and absence, adapters at every layer, sizes, clear mistakes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive, Basis, Kind, LoRA, OneHot, adapt
from lightning_mm.adapters.adapter import bank_key
from lightning_mm.adapters.layers.types import Adaptable
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.models import MulT
from lightning_mm.models.mult.encoder import attendable, embed
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.model_checks import rows

WIDTHS = {"text": 6, "audio": 3, "vision": 4}
NAMES = Modalities(WIDTHS)


def build(**settings: Any) -> MulT:
    torch.manual_seed(0)
    return MulT(**{"widths": WIDTHS, "num_outputs": 2, "dim": 8, "heads": 2, "levels": 1, **settings}).eval()


def inputs(batch: int = 7, seed: int = 1) -> dict[str, Any]:
    """Steps of one length, and padded ones; of different numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "text": torch.randn(batch, 4, 6, generator=generator),
        "audio": {"values": torch.randn(batch, 6, 3, generator=generator), "length": 1 + torch.arange(batch) % 6},
        "vision": torch.randn(batch, 3, 4, generator=generator),
    }


@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
def test_sequences_with_lengths_are_read_up_to_their_end(padding: float) -> None:
    network, batch = build(), inputs(3)
    with torch.no_grad():
        for length in (1, 5):
            steps = torch.randn(3, length, 3, generator=torch.Generator().manual_seed(length))
            alone = network({**batch, "audio": steps})
            for extra in (1, 6):
                values = torch.cat([steps, torch.full((3, extra, 3), padding)], dim=1)
                padded = network({**batch, "audio": {"values": values, "length": torch.full((3,), length)}})
                torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_samples_one_by_one() -> None:
    network, batch = build(), inputs()
    with torch.no_grad():
        together = network(batch)
        for row in range(7):
            alone = network(rows(batch, slice(row, row + 1)))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_what_may_be_attended_to_against_a_loop() -> None:
    asking, asked = torch.tensor([1, 3, 4, 2]), torch.tensor([5, 3, 1, 2])
    for causal in (True, False):
        found = attendable(asking, asked, 4, 5, causal)
        for b in range(4):
            for q in range(4):
                for k in range(5):
                    offset = abs(int(asking[b]) - int(asked[b]))
                    assert bool(found[b, q, k]) == (k < asked[b] and (not causal or k <= q + offset))
    assert found.any(2).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_step_sees_no_later_one_in_eval_mode_either(causal: bool) -> None:
    network, steps = build(causal=causal), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    encoder, length = network.crossmodal["text"]["audio"], torch.full((2,), 5)  # type: ignore[index]
    changed = steps.clone()
    changed[:, 3:] = changed[:, 3:].flip(2)
    allowed = attendable(length, length, 5, 5, causal)
    with torch.no_grad():
        before, after = encoder(steps, steps, allowed), encoder(changed, changed, allowed)
    assert torch.equal(before[:, :3], after[:, :3]) == causal
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)


def test_steps_of_zeros_have_no_position_whatever_an_adapter_shifts() -> None:
    steps, placed = torch.ones(1, 3, 4), torch.tensor([[True, False, True]])
    found = embed(steps, placed)
    assert torch.equal(found[0, 1], 2 * steps[0, 1])
    assert not torch.equal(found[0, 0], found[0, 1])
    network, batch = build(), {**inputs(), "audio": torch.zeros(7, 6, 3)}
    adapted = adapt(network, NAMES, SSF(), example=((batch,), {}))
    only = NAMES.mask("text+vision").expand(7, -1)
    with torch.no_grad():
        before = adapted(batch, available=only)
        adapted.adapter.banks[bank_key("projections.audio")].shift.fill_(1e-6)  # type: ignore[operator,union-attr]
        torch.testing.assert_close(adapted(batch, available=only), before, rtol=0, atol=1e-4)


def test_a_position_is_decided_by_the_projected_channel_0() -> None:
    """As in the reference, to the letter: with no weights in row 0 no step has a position."""
    network, batch = build(widths={"text": 6}, causal=False), {"text": inputs()["text"]}
    with torch.no_grad():
        network.projections["text"].weight[0] = 0  # type: ignore[index]
        backwards = {"text": torch.cat([batch["text"][:, :-1].flip(1), batch["text"][:, -1:]], dim=1)}
        torch.testing.assert_close(network(batch), network(backwards))  # the last step sees a bag of the others


@pytest.mark.parametrize(
    ("kind", "basis", "modalities"),
    [
        pytest.param(SSF(), OneHot, 2, id="ssf"),
        pytest.param(LoRA(rank=2), OneHot, 2, id="lora"),
        pytest.param(SSF(), OneHot, 3, id="ssf_of_three", marks=pytest.mark.slow),
        pytest.param(SSF(), Additive, 3, id="additive", marks=pytest.mark.slow),
        pytest.param(LoRA(rank=2), OneHot, 3, id="lora_of_three", marks=pytest.mark.slow),
    ],
)
def test_adapters_reach_every_layer_route_and_fold(kind: Kind, basis: type[Basis], modalities: int) -> None:
    names = Modalities(NAMES.names[:modalities])
    batch, masks = {name: inputs()[name] for name in names}, names.masks()
    batch = rows(batch, slice(0, len(masks)))
    network = build(widths={name: WIDTHS[name] for name in names})
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        baseline, complete = network(fill_inputs(Zeros(), names, batch, masks)), network(batch)
    adapted = adapt(network, names, kind, basis=basis(), example=((batch,), {}))
    sites = {site.name for site in adapted.adapter.sites}
    assert {f"crossmodal.text.audio.layers.0.attention.{name}" for name in ("query", "key", "value", "out")} <= sites
    layers = {name for name, module in network.named_modules() if isinstance(module, Adaptable)}
    assert sites == layers or isinstance(kind, LoRA)
    with torch.no_grad():
        torch.testing.assert_close(adapted(batch, available=masks), baseline, rtol=0, atol=0)
        randomise(adapted, scale=0.1)
        together = adapted(batch, available=masks)
        assert not torch.allclose(together[:-1], baseline[:-1], atol=1e-2)
        for row, combination in enumerate(names.combinations()):
            one, mask = rows(batch, slice(row, row + 1)), masks[row : row + 1]
            alone = adapted(one, available=mask)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(adapted.fold(combination)(one), alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(adapted(batch, available=torch.ones_like(masks)), complete)
    assert_missing_invariant(adapted, names, batch)
    base = adapted.remove().eval()
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_sizes_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        network = MulT({"text": 300, "audio": 5, "vision": 20})
        example = {name: torch.zeros(2, 3, width) for name, width in network.channels.items()}
        assert sum(parameter.numel() for parameter in network.parameters()) == 1_071_211
        # Every linear layer and norm but the head: a scale and a shift for 20,610 channels.
        adapted = adapt(network, NAMES, SSF(), basis=OneHot(), example=((example,), {}), exclude=["head*"])
    rows_of_all = sum(parameter.numel() for parameter in adapted.adapter.parameters())
    assert rows_of_all == 41_220 * len(NAMES.incomplete())
    assert round(100 * 41_220 / 1_071_211, 2) == 3.85


def test_dropout_acts_in_training_only_and_every_parameter_has_a_use() -> None:
    network, batch = build(), inputs()
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch))
        network.train()
        assert not torch.equal(network(batch), network(batch))
        off = dict.fromkeys(["memory", "relu", "residual", "embedding", "output"], 0.0)
        still = build(attention_dropout={}, **{f"{name}_dropout": value for name, value in off.items()}).train()
        assert torch.equal(still(batch), still.eval()(batch))
    network(batch).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_attention_weights_are_dropped_by_the_modality_that_is_asked() -> None:
    network = build()
    found = {
        (target, source): encoder.layers[0].attention.dropout
        for target, encoders in network.crossmodal.items()
        for source, encoder in encoders.items()  # type: ignore[operator]
    }
    assert found == {(t, s): 0.1 if s == "text" else 0.0 for t in NAMES for s in NAMES if s != t}
    assert all(memory.layers[0].attention.dropout == 0.1 for memory in network.memories.values())  # type: ignore[index,union-attr]
    assert len(network.memories["text"].layers) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [["text"], ["audio", "vision"]])
def test_fewer_modalities(kept: list[str]) -> None:
    network = build(widths={name: WIDTHS[name] for name in kept})
    outputs = network({name: inputs()[name] for name in kept})
    assert outputs.shape == (7, 2)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_network_travels() -> None:
    network = build()
    assert network.channels == WIDTHS
    twin = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    with torch.no_grad():
        assert torch.equal(network(inputs()), twin(inputs()))


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_every_combination_and_size() -> None:
    network, batch, masks = build(), {name: torch.randn(7, 5, width) for name, width in WIDTHS.items()}, NAMES.masks()
    size, steps = torch.export.Dim("batch", min=2), torch.export.Dim("steps", min=2)
    shapes = ({name: {0: size, 1: steps} for name in WIDTHS},)
    exported = torch.export.export(network, (dict(batch),), dynamic_shapes=shapes).module()
    adapted = adapt(build(), NAMES, SSF(), example=((dict(batch),), {}))
    randomise(adapted, scale=0.1)
    compiled = torch.compile(adapted, fullgraph=True, backend="eager", dynamic=False)
    with torch.no_grad():
        for keep in (7, 3):
            fewer = {name: values[:keep, :keep] for name, values in batch.items()}
            torch.testing.assert_close(exported(fewer), network(fewer))
        for mask in (masks, masks.flip(0)):
            torch.testing.assert_close(compiled(batch, available=mask), adapted(batch, available=mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.zeros(7, 2, 5)}, r"modality 'text': expected \[batch, time, 6\] .* got \(7, 2, 5\)"),
        ({"vision": torch.zeros(7, 3, 4).long()}, r"modality 'vision': expected floating point .* got torch\.int64"),
        ({"vision": torch.zeros(6, 3, 4)}, "different numbers of samples: .*'vision': 6"),
        ({"radar": torch.zeros(7, 1)}, r"inputs have unknown \['radar'\]"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build()(inputs() | change)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "dim must be a multiple of heads, got dim 8 and heads 3"),
        ({"widths": {"a": 0}}, "channels of modality 'a' must be a whole number of at least 1, got 0"),
        ({"levels": 0}, "levels must be a whole number of at least 1, got 0"),
        ({"relu_dropout": 1.0}, "relu_dropout must be at least 0 and below 1, got 1.0"),
        ({"attention_dropout": {"video": 0.1}}, r"attention_dropout has unknown \['video'\]; expected some of"),
        ({"attention_dropout": {"text": 2.0}}, "attention_dropout of 'text' must be at least 0 and below 1, got 2.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)
