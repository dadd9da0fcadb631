"""The multi-encoder segmenter: shapes, what absence means, and mistakes answered by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.models import MaxFusion, MultiEncoderSegmenter
from lightning_mm.testing import assert_missing_invariant

CHANNELS = {"rgb": 3, "depth": 1, "thermal": 2}
NAMES = Modalities(CHANNELS)
MIXED = {"rgb": "resnet18", "depth": "mit_b0", "thermal": "mobilenet_v2"}


def build(**settings: Any) -> MultiEncoderSegmenter:
    torch.manual_seed(0)
    small: dict[str, Any] = {"encoder": "mit_b0", "encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    return MultiEncoderSegmenter(CHANNELS, 4, **{**small, **settings})


def images(batch: int = 2, size: int = 32, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, count, size, size, generator=generator) for name, count in CHANNELS.items()}


@pytest.mark.parametrize("encoder", ["mit_b0", MIXED])
@pytest.mark.parametrize(("decoder", "depth"), [("unet", 3), ("unet", 5), ("fpn", 5), ("segformer", 3)])
def test_every_encoder_with_every_decoder(encoder: Any, decoder: Any, depth: int) -> None:
    network = build(encoder=encoder, decoder=decoder, encoder_depth=depth, decoder_channels=None).eval()
    with torch.no_grad():
        logits = network({name: image[:, :, :, :32] for name, image in images(size=64).items()}, NAMES.masks()[[0, 6]])
    assert logits.shape == (2, 4, 64, 32)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("fusion", "training"), [("mean", False), ("mean", True), ("max", False), ("concat", False), ("attention", True)]
)
def test_absent_values_leave_outputs_and_gradients_bit_identical(fusion: Any, training: bool) -> None:
    assert_missing_invariant(build(fusion=fusion).train(training), NAMES, images(batch=2))


@pytest.mark.parametrize("encoder", ["tu-resnet10t", "mobilenet_v2"])
def test_absent_values_do_not_reach_batch_norm(encoder: str) -> None:
    network = build(encoder=encoder).train()
    assert_missing_invariant(network, NAMES, images(batch=3), combinations=["depth+thermal"])


@pytest.mark.parametrize("decoder", ["unet", "fpn", "segformer"])
def test_decoders_do_not_read_the_raw_input(decoder: Any) -> None:
    network = build(decoder=decoder, encoder_depth=5, decoder_channels=None).eval()
    assert_missing_invariant(network, NAMES, images(), combinations=["depth", "thermal"], check_gradients=False)


@pytest.mark.parametrize("combination", NAMES.incomplete())
def test_encoder_of_an_absent_modality_gets_zero_gradient(combination: str) -> None:
    network = build()
    network(images(), NAMES.mask(combination).expand(2, 3)).square().sum().backward()
    for name, encoder in network.encoders.items():
        gradients = [parameter.grad for parameter in encoder.parameters()]
        # Not None: under DDP every parameter takes part in every step.
        assert all(gradient is not None for gradient in gradients)
        moved = any((gradient != 0).any() for gradient in gradients if gradient is not None)
        assert moved == (name in NAMES.parse(combination)), name


@pytest.mark.parametrize("encoder", ["mit_b0", MIXED, "tu-resnet10t"])
@pytest.mark.parametrize(("decoder", "depth"), [("unet", 3), ("fpn", 5), ("segformer", 4)])
def test_every_parameter_has_a_use(encoder: Any, decoder: Any, depth: int) -> None:
    network = build(encoder=encoder, decoder=decoder, encoder_depth=depth, decoder_channels=None, fusion="concat")
    network(images(), NAMES.mask("rgb").expand(2, 3)).square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_complete_mask_is_no_mask_bit_for_bit() -> None:
    network = build().eval()
    with torch.no_grad():
        assert torch.equal(network(images()), network(images(), torch.ones(2, 3, dtype=torch.bool)))


def test_mixed_rows_equal_one_by_one() -> None:
    network, masks = build().eval(), NAMES.masks()
    inputs = images(batch=len(masks))
    with torch.no_grad():
        together = network(inputs, masks)
        for row in range(len(masks)):
            alone = network({name: image[row : row + 1] for name, image in inputs.items()}, masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_every_combination_gives_an_answer_of_its_own() -> None:
    network, masks = build().eval(), NAMES.masks()
    same = {name: image.expand(len(masks), -1, -1, -1) for name, image in images(batch=1).items()}
    with torch.no_grad():
        logits = network(same, masks)
    assert all(not torch.allclose(logits[i], logits[j]) for i in range(len(masks)) for j in range(i))


def test_widths_do_not_depend_on_what_is_missing_and_the_network_travels() -> None:
    network = build(fusion=MaxFusion).eval()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    with torch.no_grad():
        assert torch.equal(network(images()), twin(images()))
    assert all(isinstance(fusion, MaxFusion) for fusion in network.fusion)


def test_without_masks_available_is_ignored_and_the_fill_is_seen() -> None:
    network, batch, absent = build(mask_absent=False).eval(), images(), NAMES.mask("rgb+depth").expand(2, 3)
    other = {**batch, "thermal": batch["thermal"] + 1}
    with torch.no_grad():
        assert torch.equal(network(batch, absent), network(batch))
        assert torch.equal(network(batch), build().eval()(batch))  # the same weights, and nothing else of its own
        assert not torch.allclose(network(other, absent), network(batch, absent))


def test_mean_fusion_learns() -> None:
    network, inputs = build(), images()
    target = (inputs["rgb"][:, 0] > 0).long() + 2 * (inputs["depth"][:, 0] > 0).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(network(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": torch.zeros(2, 3, 32, 32)}, r"'depth': expected \[batch, 1, .*\(1 channels\), got \(2, 3, 32, 32\)"),
        (
            {name: torch.zeros(2, count, 30, 32) for name, count in CHANNELS.items()},
            "height and width must be divisible by 8 .* got 30 x 32",
        ),
        ({"depth": torch.zeros(2, 1, 64, 32)}, "modality 'depth': expected the batch and size of 'rgb'"),
        ({"radar": torch.zeros(2, 1, 32, 32)}, r"inputs have unknown \['radar'\]"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build()(images() | change)


def test_missing_input_and_wrong_mask_are_named() -> None:
    inputs = images()
    with pytest.raises(LightningMMError, match=r"inputs lack \['thermal'\]"):
        build()({name: inputs[name] for name in ("rgb", "depth")})
    for mask in (torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(2, 3\)"):
            build()(inputs, mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnet81"}, "unknown encoder 'resnet81'; did you mean 'resnet18'"),
        ({"encoder": {"rgb": "resnet18"}}, r"one encoder for each of \['rgb', 'depth', 'thermal'\]"),
        ({"encoder_weights": "nowhere"}, "encoder 'mit_b0' cannot be built: .*nowhere"),
        ({"encoder_depth": 6}, r"encoder_depth must be one of \[3, 4, 5\], got 6"),
        ({"fusion": "median"}, "fusion must be one of .* got 'median'"),
        ({"decoder": "lego"}, r"decoder must be one of \['unet', 'fpn', 'segformer'\], got 'lego'"),
        ({"decoder": "fpn", "decoder_channels": None}, "decoder 'fpn' needs encoder_depth 4 or 5"),
        ({"decoder_channels": [8]}, r"decoder_channels of 'unet' must be one width per scale, e.g. \[64, 32, 16\]"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


def test_channels_and_names_that_cannot_be() -> None:
    with pytest.raises(LightningMMError, match="channels of modality 'a' must be a whole number of at least 1, got 0"):
        MultiEncoderSegmenter({"a": 0}, 2, "mit_b0")
    with pytest.raises(LightningMMError, match="modality 'pop' cannot name a part"):
        MultiEncoderSegmenter({"pop": 1}, 2, "mit_b0")
    with pytest.raises(LightningMMError, match="num_classes must be a whole number of at least 1"):
        MultiEncoderSegmenter({"a": 1}, 0, "mit_b0")


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_every_combination() -> None:
    network, masks = build(fusion="attention").eval(), NAMES.masks()
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=False)
    exported = torch.export.export(network, (images(), masks[[0, 6]])).module()
    with torch.no_grad():
        for rows in ([0, 6], [2, 4]):
            expected = network(images(), masks[rows])
            assert torch.equal(compiled(images(), masks[rows]), expected)
            torch.testing.assert_close(exported(images(), masks[rows]), expected)
