"""The sequence-fusion transformer: padding and absence leave no trace, adapters at every layer, clear mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import Additive, Basis, OneHot
from lightning_mm.errors import LightningMMError
from lightning_mm.models import SequenceFusionTransformer
from lightning_mm.models.attention import Attention
from tests.support.model_checks import check_absence, check_adapter, check_compiles, check_travels

WIDTHS = {"text": 6, "audio": 3, "video": 4}
NAMES = Modalities(WIDTHS)


def build(**settings: Any) -> SequenceFusionTransformer:
    torch.manual_seed(0)
    small = {"width": 8, "heads": 2, "layers": 1, "fusion_layers": 2}
    return SequenceFusionTransformer(**{"widths": WIDTHS, "num_outputs": 2, **small, **settings}).eval()


def inputs(batch: int = 7, seed: int = 1) -> dict[str, Any]:
    """One modality of each form: one step, padded steps, steps of one length."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "text": torch.randn(batch, 6, generator=generator),
        "audio": {
            "values": torch.randn(batch, 5, 3, generator=generator),
            "length": 1 + torch.arange(batch) % 5,
        },
        "video": torch.randn(batch, 3, 4, generator=generator),
    }


def test_what_is_absent_never_enters() -> None:
    parts = {name: [f"projections.{name}.", f"blocks.{name}."] for name in NAMES}
    check_absence(build(dropout=0.0), NAMES, inputs(), parts)


@pytest.mark.parametrize(("basis", "mask_absent"), [(OneHot, True), (Additive, True), (Additive, False)])
def test_adapter_reaches_every_layer_routes_and_folds(basis: type[Basis], mask_absent: bool) -> None:
    check_adapter(build(mask_absent=mask_absent), NAMES, inputs(), basis())


def test_absent_modalities_are_as_if_they_were_not_part_of_the_sequence() -> None:
    """Independent reference: the network of the two modalities that are there, with the same weights."""
    network, batch = build(), inputs()
    kept = ("text", "audio")
    small = build(widths={name: WIDTHS[name] for name in kept})
    state = {key: value for key, value in network.state_dict().items() if ".video." not in key}
    state["modality_embedding"] = state["modality_embedding"][:2]
    small.load_state_dict(state)
    with torch.no_grad():
        masked = network(batch, NAMES.mask("text+audio").expand(7, -1))
        torch.testing.assert_close(masked, small({name: batch[name] for name in kept}), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [0.0, 1e6, float("nan")])
def test_padding_leaves_no_trace(padding: float) -> None:
    network, batch = build(), inputs(3)
    with torch.no_grad():
        for length in (1, 4):
            steps = torch.randn(3, length, 3, generator=torch.Generator().manual_seed(length))
            alone = network({**batch, "audio": steps})
            for extra in (1, 6):
                values = torch.cat([steps, torch.full((3, extra, 3), padding)], dim=1)
                padded = network({**batch, "audio": {"values": values, "length": torch.full((3,), length)}})
                torch.testing.assert_close(padded, alone, rtol=1e-6, atol=1e-6)


def test_one_step_in_any_form_and_no_step() -> None:
    network, batch = build(), inputs()
    step = torch.randn(7, 3, generator=torch.Generator().manual_seed(3))
    forms: list[Any] = [step, step[:, None], {"values": step[:, None], "length": torch.ones(7, dtype=torch.long)}]
    with torch.no_grad():
        first, *others = (network({**batch, "audio": form}) for form in forms)
        assert all(torch.equal(first, other) for other in others)
        empty = network({**batch, "audio": {"values": step[:, None], "length": torch.zeros(7, dtype=torch.long)}})
        assert torch.equal(empty, network({**batch, "audio": torch.zeros(7, 3)}))


def test_the_order_of_steps_and_modalities_counts() -> None:
    network = build(widths={"a": 3, "b": 3})
    steps = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = network({"a": steps[0], "b": steps[1]})
        assert not torch.allclose(plain, network({"a": steps[0].flip(1), "b": steps[1]}), atol=1e-4)
        assert not torch.allclose(plain, network({"a": steps[1], "b": steps[0]}), atol=1e-4)


def test_attention_against_a_loop_over_heads() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, dropout=0.0).eval()
    tokens, valid = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, False, False, False]])
    with torch.no_grad():
        for row in range(2):
            there = tokens[row, valid[row]]
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                query, key, value = (
                    layer(source)[:, head]
                    for layer, source in (
                        (attention.query, tokens[row]),
                        (attention.key, there),
                        (attention.value, there),
                    )
                )
                heads.append((query @ key.T / math.sqrt(4)).softmax(1) @ value)
            torch.testing.assert_close(
                attention(tokens, tokens, tokens, valid[:, None])[row], attention.out(torch.cat(heads, 1))
            )


def test_dropout_acts_in_training_only_and_every_parameter_has_a_use() -> None:
    network, batch = build(dropout=0.5), inputs()
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch))
        network.train()
        assert not torch.equal(network(batch), network(batch))
    network(batch, NAMES.mask("text").expand(7, -1)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_learns_what_only_one_step_tells() -> None:
    network, batch = build(num_outputs=1).train(), inputs(32)
    target = batch["video"][:, 1, :1]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(network(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_channels_are_told_and_the_network_travels() -> None:
    network = build(layers=0)
    assert network.channels == WIDTHS
    assert isinstance(network.head, nn.Linear)
    check_travels(network, inputs(), NAMES.masks())


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_every_combination() -> None:
    check_compiles(build(), NAMES, inputs())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": torch.zeros(7, 5)}, r"modality 'text': expected \[batch, time, 6\] .* 6 channels, got \(7, 5\)"),
        ({"video": torch.zeros(7, 1, 3, 4)}, r"modality 'video': .* 4 channels, got \(7, 1, 3, 4\)"),
        ({"video": torch.zeros(7, 3, 4).long()}, r"modality 'video': expected floating point .* got torch\.int64"),
        ({"video": torch.zeros(6, 3, 4)}, "different numbers of samples: .*'video': 6"),
        ({"radar": torch.zeros(7, 1)}, r"inputs have unknown \['radar'\]"),
        ({"audio": {"values": torch.zeros(7, 3)}}, r"modality 'audio': .* got a dict of \['values'\]"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build()(inputs() | change)


def test_missing_input_and_wrong_mask_are_named() -> None:
    batch = inputs()
    with pytest.raises(LightningMMError, match=r"inputs lack \['video'\]"):
        build()({name: batch[name] for name in ("text", "audio")})
    with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(batch, 3\)"):
        build()(batch, torch.ones(7, 2, dtype=torch.bool))
    with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(7, 3\), .* \(6, 3\)"):
        build(mask_absent=False)(batch, torch.ones(6, 3, dtype=torch.bool))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(LightningMMError, match="a multiple of heads, got width 8 and heads 3"):
        build(heads=3)
    with pytest.raises(LightningMMError, match="channels of modality 'a' must be a whole number of at least 1, got 0"):
        build(widths={"a": 0})
    with pytest.raises(LightningMMError, match="modality 'keys' cannot name a part of a network"):
        build(widths={"keys": 2})
    with pytest.raises(LightningMMError, match="fusion_layers must be a whole number of at least 1, got 0"):
        build(fusion_layers=0)
    with pytest.raises(LightningMMError, match="layers must be a whole number of at least 0, got -1"):
        build(layers=-1)
    for dropout in (-0.1, 1.0):
        with pytest.raises(LightningMMError, match=f"dropout must be at least 0 and below 1, got {dropout}"):
            build(dropout=dropout)
