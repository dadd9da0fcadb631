"""The network of several video streams: who votes, what absence means, adapters at every layer, mistakes by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torchvision.models import get_model

from lightning_mm.adapters import SSF, Additive, Basis, LoRA, OneHot, adapt
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.modalities import Modalities
from lightning_mm.models import LateFusionClassifier, MultiStreamVideoNetwork, VectorEncoder, VideoEncoder
from lightning_mm.models.video_encoder import video_networks
from lightning_mm.tasks import ClassificationTask
from lightning_mm.tasks.auxiliary import AuxiliaryHeads
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise, trained_statistics
from tests.support.cli_network import TinyStream
from tests.support.model_checks import check_absence, check_adapter, check_compiles, check_travels

NAMES = Modalities(["rgb", "depth"])
TINY = ["mc3_18", "r3d_18", "r2plus1d_18", "swin3d_t"]
"""Networks that take clips of any size."""
UNSEEN = "ignore:.*layers are left out of the adapter"
"""The attention of swin3d_* reads the weights of two layers that it never calls."""


def build(network: str | None = None, **settings: Any) -> MultiStreamVideoNetwork:
    torch.manual_seed(0)
    made = MultiStreamVideoNetwork({name: network or TinyStream() for name in NAMES}, 4, **settings)
    trained_statistics(made)
    return made.eval()


def clips(batch: int = 3, frames: int = 4, size: int = 16, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, 3, frames, size, size, generator=generator) for name in NAMES}


def votes_of(network: MultiStreamVideoNetwork, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The logits of every vote, computed apart."""
    features = {name: network.encoders[name](inputs[name]) for name in NAMES}
    votes = {name: network.heads[name](features[name]) for name in NAMES}
    if network.head_fusion is not None:
        votes["fusion"] = network.head_fusion(torch.cat(list(features.values()), 1))
    return votes


@pytest.mark.parametrize("fusion_vote", [False, True])
def test_the_mean_is_over_the_votes_of_what_is_there(fusion_vote: bool) -> None:
    network, inputs = build(fusion_vote=fusion_vote), clips(4)
    available = torch.cat([NAMES.masks(), torch.zeros(1, 2, dtype=torch.bool)])
    with torch.no_grad():
        votes, logits = votes_of(network, inputs), network(inputs, available)
    torch.testing.assert_close(logits[0], votes["rgb"][0])
    torch.testing.assert_close(logits[1], votes["depth"][1])
    torch.testing.assert_close(logits[2], torch.stack(list(votes.values())).mean(0)[2])
    assert len(votes) == 2 + fusion_vote
    assert torch.equal(logits[3], torch.zeros(4))


@pytest.mark.parametrize("fusion_vote", [False, True])
def test_with_vote_absent_every_stream_votes_on_what_it_is_given(fusion_vote: bool) -> None:
    network, inputs = build(fusion_vote=fusion_vote, vote_absent=True), clips()
    filled = fill_inputs(Zeros(), NAMES, inputs, NAMES.masks())
    with torch.no_grad():
        expected = torch.stack(list(votes_of(network, filled).values())).mean(0)
        torch.testing.assert_close(network(filled, NAMES.masks()), expected)
        assert torch.equal(network(filled, NAMES.masks()), network(filled))
        other = build(fusion_vote=fusion_vote)(filled, NAMES.masks())
    assert not torch.allclose(other[:2], expected[:2], atol=1e-2), "the vote of a stream that saw zeros moves the mean"


@pytest.mark.parametrize(
    ("network", "fusion_vote"),
    [
        (None, False),
        (None, True),
        *(pytest.param(name, name == "swin3d_t", marks=pytest.mark.slow) for name in ("mc3_18", "swin3d_t")),
    ],
)
def test_what_is_absent_never_enters(network: str | None, fusion_vote: bool) -> None:
    parts = {name: [f"encoders.{name}.", f"heads.{name}."] for name in NAMES}
    check_absence(build(network, fusion_vote=fusion_vote), NAMES, clips(), parts)


@pytest.mark.parametrize("vote_absent", [False, True])
@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_ssf_reaches_every_layer_routes_and_folds(basis: type[Basis], vote_absent: bool) -> None:
    check_adapter(build(fusion_vote=True, vote_absent=vote_absent), NAMES, clips(), basis())


@pytest.mark.slow
def test_ssf_reaches_every_layer_of_a_network_of_torchvision() -> None:
    check_adapter(build("mc3_18", vote_absent=True), NAMES, clips(), OneHot())


def check_routing(network: MultiStreamVideoNetwork, kind: Any, basis: Basis, size: int = 16) -> None:
    """A mixed batch is its samples one at a time, and so is the fold; absent inputs do not matter."""
    inputs, masks = clips(size=size), NAMES.masks()
    with torch.no_grad():
        before = network(fill_inputs(Zeros(), NAMES, inputs, masks), masks)
    adapted = adapt(network, NAMES, kind, basis=basis, example=((inputs,), {}), exclude=["head*"])
    randomise(adapted, scale=0.05)
    with torch.no_grad():
        together = adapted(inputs, available=masks)
        assert not torch.allclose(together[:2], before[:2], atol=1e-3)
        for row, combination in enumerate(NAMES.combinations()):
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            alone = adapted(one, available=masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(adapted.fold(combination)(one), alone, rtol=1e-4, atol=1e-4)
    assert_missing_invariant(adapted, NAMES, inputs)


def test_lora_reaches_convolutions_over_time_and_folds() -> None:
    check_routing(build(fusion_vote=True), LoRA(2), Additive())


@pytest.mark.slow
@pytest.mark.filterwarnings(UNSEEN)
@pytest.mark.parametrize(("network", "kind"), [("mc3_18", SSF()), ("swin3d_t", LoRA(2))])
def test_adapters_on_every_network(network: str, kind: Any) -> None:
    check_routing(build(network), kind, OneHot())


def test_rows_of_an_absent_stream_get_zero_gradient_and_cost_nothing() -> None:
    """The encoder of each stream is found, sees every distinct row once, and the outputs stay."""
    masks = NAMES.masks(["rgb", "rgb", "depth", "rgb+depth", "rgb"])
    outputs, sizes = {}, dict.fromkeys(NAMES, 0)
    for vote_absent in (True, False):
        for encoders in (None, {}):
            network = build(vote_absent=vote_absent)
            inputs = clips(5)
            named = None if vote_absent else {name: f"encoders.{name}" for name in NAMES}
            settings: dict[str, Any] = {"encoders": named if encoders is None else encoders, "exclude": ["head*"]}
            adapted = adapt(network, NAMES, SSF(), example=((inputs,), {}), **settings)
            assert set(adapted.adapter.encoders) == (set(NAMES) if encoders is None else set())
            randomise(adapted, scale=0.05)
            for name in NAMES:
                network.encoders[name][0].register_forward_pre_hook(
                    lambda module, args, name=name: sizes.update({name: len(args[0])})
                )
            outputs[vote_absent, encoders is None] = adapted(inputs, available=masks)
            assert sizes == ({"rgb": 5, "depth": 3} if encoders is None else {"rgb": 5, "depth": 5})
    for vote_absent in (True, False):
        torch.testing.assert_close(outputs[vote_absent, True], outputs[vote_absent, False], rtol=1e-4, atol=1e-5)
    adapted(inputs, available=NAMES.mask("rgb").expand(5, -1)).square().sum().backward()
    moved = {
        name: any(
            bool(parameter.grad.any())
            for key, parameter in adapted.adapter.banks.named_parameters()
            if key.startswith(f"encoders/{name}/") and parameter.grad is not None
        )
        for name in NAMES
    }
    assert moved == {"rgb": True, "depth": False}


@pytest.mark.slow
def test_an_adapter_costs_less_than_one_percent() -> None:
    network = MultiStreamVideoNetwork(dict.fromkeys(NAMES, "r3d_18"), 60)
    total = sum(parameter.numel() for parameter in network.parameters())
    # torchvision's own count with 400 classes, less the difference of the heads
    assert total == 2 * (33_371_472 - 340 * 513)
    adapted = adapt(network, NAMES, SSF(), basis=OneHot(), example=((clips(2),), {}), exclude=["head*"])
    assert adapted.adapter.parameters_per_combination() == 38_400 < 0.001 * total


@pytest.mark.parametrize("name", ["mc3_18", pytest.param("swin3d_t", marks=pytest.mark.slow)])
def test_a_stream_is_the_network_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    whole, encoder = get_model(name, num_classes=7).eval(), VideoEncoder(name).eval()
    missing, unexpected = encoder.network.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    assert len(unexpected) == 2, "weight and bias of its classifier"
    classifier = whole.fc if hasattr(whole, "fc") else whole.head
    video = clips()["rgb"]
    with torch.no_grad():
        assert torch.equal(classifier(encoder(video)), whole(video))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frames", "size"), [("s3d", 13, 209), ("mvit_v2_s", 16, 224)])
def test_streams_that_take_large_clips_only(name: str, frames: int, size: int) -> None:
    torch.manual_seed(0)
    whole, encoder = get_model(name, num_classes=7).eval(), VideoEncoder(name).eval()
    encoder.network.load_state_dict(whole.state_dict(), strict=False)
    video = clips(1, frames, size)["rgb"]
    with torch.no_grad():
        features, expected = encoder(video), whole(video)
        if name == "s3d":
            features = features[:, :, None, None, None]
        logits = (whole.classifier if name == "s3d" else whole.head)(features)
    assert features.shape[1] == encoder.out_channels
    torch.testing.assert_close(logits.flatten(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_network_of_torchvision_is_known_by_its_size() -> None:
    """On the meta device, which computes shapes alone: the least clip passes, and less does not."""
    sizes = {"s3d": (13, 209), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}
    for name in video_networks():
        frames, size = sizes.get(name, (1, 1))
        with torch.device("meta"):
            encoder = VideoEncoder(name).eval()
            assert encoder(torch.zeros(2, 3, frames, size, size)).shape == (2, encoder.out_channels)
            # mvit counts tokens of 2 frames and 4 pixels
            for other in ((frames - 2, size, size), (frames, size, size - 4)) if size > 1 else ():
                with pytest.raises(
                    LightningMMError, match=rf"{name} takes clips of (exactly|at least) {frames} frames"
                ):
                    encoder(torch.zeros(2, 3, *other))
                with pytest.raises(RuntimeError):
                    encoder.network(torch.zeros(2, 3, *other))
    assert set(TINY) < set(video_networks())


def test_streams_may_differ_and_so_may_their_clips() -> None:
    network = MultiStreamVideoNetwork({"rgb": "swin3d_t", "depth": "mc3_18", "flow": "mc3_18"}, 5, fusion_vote=True)
    assert network.channels == {"rgb": 3, "depth": 3, "flow": 3}
    assert network.head_fusion is not None
    assert network.head_fusion.in_features == 768 + 512 + 512
    small, large = torch.zeros(2, 3, 4, 16, 16), torch.zeros(2, 3, 8, 32, 24)
    assert network({"rgb": large, "depth": small, "flow": small}).shape == (2, 5)


def test_it_travels_has_encoders_and_an_encoder_serves_elsewhere() -> None:
    network = build(fusion_vote=True, dropout=0.5)
    check_travels(network, clips(), NAMES.masks())
    assert set(AuxiliaryHeads(network, NAMES, 4).heads) == set(NAMES)
    mixed = LateFusionClassifier({"rgb": VideoEncoder("mc3_18"), "text": VectorEncoder(5)}, num_classes=3)
    assert mixed({"rgb": torch.zeros(2, 3, 4, 16, 16), "text": torch.zeros(2, 5)}).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_every_combination() -> None:
    check_compiles(build(fusion_vote=True), NAMES, clips())


def test_it_is_built_from_a_config() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "model")
    own = {"class_path": "lightning_mm.models.VideoEncoder", "init_args": {"network": "swin3d_t"}}
    config = {"class_path": "lightning_mm.models.MultiStreamVideoNetwork"}
    config["init_args"] = {"streams": {"rgb": "mc3_18", "depth": own}, "num_classes": 60, "fusion_vote": True}
    network = parser.instantiate_classes(parser.parse_object({"model": config})).model
    assert {name: encoder.name for name, encoder in network.encoders.items()} == {"rgb": "mc3_18", "depth": "swin3d_t"}


def test_mistakes_are_named() -> None:
    for settings, message in [
        ({"streams": {"rgb": "r3d_19"}}, r"modality 'rgb': no video network 'r3d_19'; expected one of \['mc3_18'"),
        ({"streams": {"rgb": "mc3_18"}, "weights": "IMAGENET"}, "'rgb': video network 'mc3_18' has no weights 'IMAGEN"),
        ({"streams": {"rgb": "mc3_18"}, "num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
        ({"streams": {"rgb": "mc3_18"}, "dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ]:
        with pytest.raises(LightningMMError, match=message):
            MultiStreamVideoNetwork(**{"num_classes": 4, **settings})
    with pytest.raises(LightningMMError, match="modality 'rgb': its stream ReLU must say how wide its vectors are"):
        MultiStreamVideoNetwork({"rgb": nn.ReLU()}, 4)
    network, inputs = build("mc3_18"), clips()
    for change, message in [
        ({"flow": inputs["rgb"]}, r"inputs have unknown \['flow'\]"),
        ({"depth": inputs["depth"][:2]}, r"modality 'depth': expected clips \[3, channels, frames, height, width\]"),
        (
            {"depth": torch.zeros(3, 3, 16, 16)},
            r"modality 'depth': expected clips .* got torch\.float32 \(3, 3, 16, 16\)",
        ),
        (
            {"rgb": torch.zeros(3, 1, 4, 16, 16)},
            r"modality 'rgb': expected clips \[batch, 3, .* got \(3, 1, 4, 16, 16\)",
        ),
        (
            {"rgb": torch.zeros(3, 3, 4, 16, 16).int()},
            r"'rgb': expected clips .* of floating point, .* got torch\.int32",
        ),
    ]:
        with pytest.raises(LightningMMError, match=message):
            network(inputs | change)
    with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \(3, 2\)"):
        network(inputs, torch.ones(2, 2, dtype=torch.bool))
    assert isinstance(network.heads["rgb"], nn.Linear)


def test_the_callback_takes_the_encoders_of_the_streams() -> None:
    """Frozen and adapted in a task, a batch of rgb alone shows one row to the stream of depth."""
    task = ClassificationTask(build(vote_absent=True), list(NAMES), 4)
    masks = NAMES.mask("rgb").expand(5, -1)
    batch = {"inputs": clips(5), "available": masks, "observed": masks, "target": torch.zeros(5, dtype=torch.int64)}
    encoders = {name: f"encoders.{name}" for name in NAMES}
    adapter = FrozenBackboneAdapter(SSF(), exclude=["head*"], encoders=encoders).attach(task, batch)
    assert adapter.encoders == encoders
    sizes: dict[str, int] = {}
    for name, encoder in task.model.encoders.items():
        encoder[0].register_forward_pre_hook(lambda module, args, name=name: sizes.update({name: len(args[0])}))
    with torch.no_grad():
        task.eval()(batch["inputs"], masks)
    assert sizes == {"rgb": 5, "depth": 1}
