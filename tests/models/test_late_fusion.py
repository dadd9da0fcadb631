"""The late fusion classifier: what absence means to it, adapters at every layer, mistakes answered by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive, Basis, OneHot, adapt
from lightning_mm.errors import LightningMMError
from lightning_mm.models import (
    ImageEncoder,
    LateFusionClassifier,
    MaxFusion,
    SequenceEncoder,
    SpectrogramEncoder,
    VectorEncoder,
)
from lightning_mm.models.fusion import build_fusion
from tests.support.adapter_networks import trained_statistics
from tests.support.model_checks import check_absence, check_adapter, check_compiles, check_travels

NAMES = Modalities(["image", "motion", "text"])
FUSIONS: list[Any] = ["mean", "max", "concat", "attention"]


def encoders() -> dict[str, nn.Module]:
    """Of three widths, so that the fusion has to project."""
    return {
        "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
        "motion": SequenceEncoder(3, width=8, out_channels=6, depth=2),
        "text": VectorEncoder(5, width=8, out_channels=8),
    }


def build(**settings: Any) -> LateFusionClassifier:
    torch.manual_seed(0)
    network = LateFusionClassifier(**{"encoders": encoders(), "num_classes": 4, "hidden": 8, **settings})
    trained_statistics(network)
    return network.eval()


def inputs(batch: int = 7, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, 9, 3, generator=generator)
    return {
        "image": torch.randn(batch, 1, 10, 7, generator=generator),
        "motion": {"values": steps, "length": 1 + torch.arange(batch) % 9},
        "text": torch.randn(batch, 5, generator=generator),
    }


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_absent_never_enters(fusion: Any) -> None:
    check_absence(build(fusion=fusion), NAMES, inputs(), {name: [f"encoders.{name}."] for name in NAMES})


@pytest.mark.parametrize(
    ("fusion", "basis"),
    [("mean", OneHot), ("max", Additive), ("concat", OneHot), ("concat", Additive), ("attention", OneHot)],
)
def test_adapter_reaches_every_layer_routes_and_folds(fusion: Any, basis: type[Basis]) -> None:
    check_adapter(build(fusion=fusion), NAMES, inputs(), basis())


def test_adapter_of_a_network_that_knows_of_no_missing_modality() -> None:
    check_adapter(build(mask_absent=False), NAMES, inputs(), Additive())


def test_without_masks_available_is_ignored_and_the_fill_is_seen() -> None:
    network, batch = build(mask_absent=False), inputs()
    other = {**batch, "text": batch["text"] + 1}
    absent = NAMES.mask("image+motion").expand(7, -1)
    with torch.no_grad():
        assert torch.equal(network(batch, absent), network(batch))
        assert not torch.allclose(network(other, absent), network(batch, absent))


def test_every_combination_gives_an_answer_of_its_own() -> None:
    network, masks = build(), NAMES.masks()
    one = inputs(1)
    same = {
        "image": one["image"].expand(7, -1, -1, -1),
        "motion": {"values": one["motion"]["values"].expand(7, -1, -1), "length": torch.full((7,), 9)},
        "text": one["text"].expand(7, -1),
    }
    with torch.no_grad():
        logits = network(same, masks)
    assert all(not torch.allclose(logits[i], logits[j]) for i in range(7) for j in range(i))


def test_adapter_costs_less_than_one_percent_of_an_inertial_network() -> None:
    channels = {"skeleton": 60, "accelerometer": 3, "gyroscope": 3}
    parts: dict[str, nn.Module] = {m: SequenceEncoder(c, 72, 72, kernel_size=9) for m, c in channels.items()}
    network = LateFusionClassifier(parts, num_classes=27, fusion="mean")
    total = sum(parameter.numel() for parameter in network.parameters())
    assert 0.25e6 < total < 0.4e6
    example = {m: torch.zeros(2, 16, c) for m, c in channels.items()}
    for basis in (OneHot(), Additive()):
        adapted = adapt(network, channels, SSF(), basis=basis, example=((example,), {}), exclude=["*.conv"])
        assert adapted.adapter.parameters_per_combination() < 0.01 * total
        adapted.remove()


def test_widths_names_and_order_are_told_and_the_network_travels() -> None:
    network = build(fusion=MaxFusion)
    assert network.channels == {"image": 1, "motion": 3, "text": 5}
    assert tuple(network.encoders) == tuple(network.channels) == NAMES.names
    assert isinstance(network.head, nn.Linear)
    assert isinstance(network.fusion, MaxFusion)
    assert build(num_classes=1)(inputs()).shape == (7, 1)
    check_travels(network, inputs(), NAMES.masks())


def test_an_encoder_of_the_user() -> None:
    class Words(nn.Embedding):
        out_channels = 8

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).mean(1)

    network = LateFusionClassifier({"words": Words(9, 8), "text": VectorEncoder(5)}, num_classes=3)
    assert network.channels == {"words": None, "text": 5}
    ids = torch.arange(6).view(2, 3)
    assert network({"words": ids, "text": torch.zeros(2, 5)}).shape == (2, 3)


def test_it_learns() -> None:
    torch.manual_seed(0)
    network, batch = build().train(), inputs(32)
    target = (batch["text"][:, 0] > 0).long() + 2 * (batch["image"].mean((1, 2, 3)) > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_it_is_built_from_a_config() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "model")
    config = {
        "class_path": "lightning_mm.models.LateFusionClassifier",
        "init_args": {
            "encoders": {
                "image": {"class_path": "lightning_mm.models.ImageEncoder", "init_args": {"in_channels": 1}},
                "audio": {"class_path": "lightning_mm.models.SpectrogramEncoder", "init_args": {"bands": 32}},
            },
            "num_classes": 10,
            "fusion": "mean",
        },
    }
    network = parser.instantiate_classes(parser.parse_object({"model": config})).model
    assert isinstance(network.encoders["audio"], SpectrogramEncoder)
    digits = {"image": torch.zeros(2, 1, 28, 28), "audio": torch.zeros(2, 1, 32, 48)}
    assert network(digits, torch.ones(2, 2, dtype=torch.bool)).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_every_combination() -> None:
    check_compiles(build(fusion="attention"), NAMES, inputs())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(7, 3, 8, 8)}, r"'image': expected \[batch, 1, .* \(1 channels\), got \(7, 3, 8, 8\)"),
        ({"motion": torch.zeros(7, 4, 2)}, r"modality 'motion': expected \[batch, time, 3\] .* got \(7, 4, 2\)"),
        ({"text": torch.zeros(7, 5).int()}, r"modality 'text': expected floating point numbers, got torch\.int32"),
        ({"text": torch.zeros(6, 5)}, r"different numbers of samples: {'image': 7, 'motion': 7, 'text': 6}"),
        ({"radar": torch.zeros(7, 1)}, r"inputs have unknown \['radar'\]"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build()(inputs() | change)


def test_missing_input_and_wrong_mask_are_named() -> None:
    batch = inputs()
    with pytest.raises(LightningMMError, match=r"inputs lack \['text'\]"):
        build()({name: batch[name] for name in ("image", "motion")})
    for mask in (torch.ones(7, 2, dtype=torch.bool), torch.ones(7, 3), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(batch, 3\)"):
            build()(batch, mask)
    with pytest.raises(LightningMMError, match="modality 'image': expected 6 samples first"):
        build()(batch, torch.ones(6, 3, dtype=torch.bool))
    with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(7, 3\), .* \(6, 3\)"):
        build(mask_absent=False)(batch, torch.ones(6, 3, dtype=torch.bool))


def test_wrong_settings_are_named() -> None:
    class Wide(VectorEncoder):
        def forward(self, vector: Tensor) -> Tensor:
            return vector

    with pytest.raises(LightningMMError, match=r"modality 'a': its encoder Linear must say .* `out_channels`"):
        build(encoders={"a": nn.Linear(3, 4)})
    with pytest.raises(LightningMMError, match=r"modality 'a': expected vectors \[batch, 8\] .* Wide, got \(2, 5\)"):
        build(encoders={"a": Wide(5, out_channels=8)})({"a": torch.zeros(2, 5)})
    with pytest.raises(LightningMMError, match="modality 'pop' cannot name a part of a network"):
        build(encoders={"pop": VectorEncoder(3)})
    with pytest.raises(LightningMMError, match="num_classes must be a whole number of at least 1, got 0"):
        build(num_classes=0)
    with pytest.raises(LightningMMError, match=r"dropout must be at least 0 and below 1, got 1\.5"):
        build(dropout=1.5)
    with pytest.raises(LightningMMError, match="one or more distinct names"):
        build(encoders={})
    with pytest.raises(LightningMMError, match=r"fusion must be one of .* got 'median'"):
        build_fusion("median", [4, 4])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_of_vectors_is_that_of_maps_of_one_pixel(fusion: Any) -> None:
    torch.manual_seed(0)
    widths = [4, 2, 4]
    vectors, maps = build_fusion(fusion, widths, spatial=False), build_fusion(fusion, widths)
    state = {key: torch.randn(value.shape) for key, value in maps.state_dict().items()}
    maps.load_state_dict(state)
    vectors.load_state_dict({key: value.flatten(1) if value.ndim == 4 else value for key, value in state.items()})
    features, masks = [torch.randn(7, width) for width in widths], NAMES.masks()
    expected = maps([feature[:, :, None, None] for feature in features], masks).flatten(1)
    torch.testing.assert_close(vectors(features, masks), expected)
    with pytest.raises(LightningMMError, match="fusion of 3 modalities got 2 vectors"):
        vectors(features[:2], masks)
