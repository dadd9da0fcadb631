"""The single branch: absent rows do not exist, one trunk for all modalities, adapters and folding in eval mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm import Modalities
from lightning_mm.adapters import Additive
from lightning_mm.errors import LightningMMError
from lightning_mm.models import ImageEncoder, SequenceEncoder, SingleBranchClassifier, VectorEncoder, VectorInput
from tests.support.adapter_networks import trained_statistics
from tests.support.model_checks import check_absence, check_adapter, check_compiles, check_travels

NAMES = Modalities(["image", "motion", "text"])
MASKS = NAMES.masks()
NORMS: list[Any] = ["batch", "batch_per_modality", "layer"]


def encoders() -> dict[str, nn.Module]:
    return {
        "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
        "motion": SequenceEncoder(3, width=8, out_channels=6, depth=2),
        "text": VectorEncoder(5, width=8, out_channels=8),
    }


def build(**settings: Any) -> SingleBranchClassifier:
    torch.manual_seed(0)
    small = {"encoders": encoders(), "num_classes": 4, "embedding": 16, "dropout": 0.0}
    network = SingleBranchClassifier(**{**small, **settings})
    trained_statistics(network)
    return network.eval()


def vectors(names: str = "ab", width: int = 5, **settings: Any) -> SingleBranchClassifier:
    parts: dict[str, nn.Module] = {name: VectorInput(width) for name in names}
    return build(encoders=parts, **settings)


def inputs(batch: int = 7, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(batch, 9, 3, generator=generator)
    return {
        "image": torch.randn(batch, 1, 10, 7, generator=generator),
        "motion": {"values": steps, "length": 1 + torch.arange(batch) % 9},
        "text": torch.randn(batch, 5, generator=generator),
    }


@pytest.mark.parametrize("fuse", ["logits", "embeddings"])
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_absent_never_enters_in_training_and_eval(norm: Any, fuse: Any) -> None:
    parts = {name: [f"encoders.{name}.", f"align.{name}."] for name in NAMES}
    check_absence(build(norm=norm, fuse=fuse), NAMES, inputs(), parts)


@pytest.mark.parametrize("norm", ["batch", *(pytest.param(norm, marks=pytest.mark.slow) for norm in NORMS[1:])])
def test_adapter_reaches_every_layer_routes_and_folds(norm: Any) -> None:
    check_adapter(build(norm=norm), NAMES, inputs(), Additive())


@pytest.mark.parametrize("fuse", ["logits", "embeddings"])
def test_the_mean_over_rows_equals_a_loop_over_samples(fuse: Any) -> None:
    network, given = build(fuse=fuse, norm="layer", freeze_encoders=True), inputs()
    rows, fused = network.rows(given, MASKS), network.fuse(network.rows(given, MASKS), 7)
    assert len(rows.sample) == int(MASKS.sum())
    for sample in range(7):
        mine = rows.sample == sample
        assert rows.modality[mine].tolist() == MASKS[sample].nonzero().squeeze(1).tolist()
        expected = rows.logits[mine].mean(0)
        if fuse == "embeddings":
            expected = network.head(F.normalize(rows.embeddings[mine].mean(0), dim=0))
        torch.testing.assert_close(fused[sample], expected)
    torch.testing.assert_close(network(given, MASKS), fused)
    torch.testing.assert_close(network.train()(given, MASKS), fused)
    torch.testing.assert_close(rows.embeddings.norm(dim=1), torch.ones(len(rows.sample)))


def test_absent_rows_do_not_exist_for_batch_statistics() -> None:
    network, masks = build(), NAMES.masks(["image", "image+text", "text", "image"])
    given, before = inputs(4), copy.deepcopy(network.state_dict())
    network.train()(given, masks)
    state = network.state_dict()
    moved = {key for key, value in state.items() if "running" in key and not torch.equal(value, before[key])}
    assert moved
    assert not any(key.startswith("encoders.motion") for key in moved)
    # the statistics of the trunk's first norm are those of the five rows that exist
    plain = build().train()
    features = plain.trunk[0].linear(
        torch.cat([plain._features("image", given["image"][[0, 1, 3]]), plain._features("text", given["text"][1:3])])
    )
    momentum = plain.trunk[0].norms["all"].momentum
    expected = (1 - momentum) * before["trunk.0.norms.all.running_mean"] + momentum * features.mean(0)
    torch.testing.assert_close(state["trunk.0.norms.all.running_mean"], expected)


def test_a_modality_absent_from_a_batch_of_one_row_leaves_statistics_and_takes_part_in_the_gradient() -> None:
    for norm in NORMS:
        network, before = build(norm=norm), copy.deepcopy(build(norm=norm).state_dict())
        network.train()(inputs(1), NAMES.masks(["text"])).sum().backward()
        assert all(parameter.grad is not None for key, parameter in network.named_parameters() if "norms" not in key)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items() if "running" in key)
        assert network.train()(inputs(2), torch.zeros(2, 3, dtype=torch.bool)).eq(0).all()


def test_identical_inputs_of_two_modalities_have_identical_embeddings() -> None:
    network, value = vectors(), torch.randn(6, 5)
    rows = network.rows({"a": value, "b": value})
    assert torch.equal(rows.embeddings[:6], rows.embeddings[6:])
    apart = vectors(norm="batch_per_modality")
    embeddings = apart.rows({"a": value, "b": value}).embeddings
    assert not torch.allclose(embeddings[:6], embeddings[6:], atol=1e-3), "norms per modality tell them apart"


def test_the_order_of_the_modalities_changes_nothing() -> None:
    network, given = build(), inputs()
    turned = dict(reversed(given.items()))
    assert torch.equal(network(turned, MASKS), network(given, MASKS))
    assert torch.equal(network.train()(turned, MASKS), network(given, MASKS))
    other = build(encoders=dict(reversed(encoders().items())))
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other.eval()(given, MASKS.flip(1)), network.eval()(given, MASKS))


def test_parameters_do_not_grow_with_modalities_but_for_alignment() -> None:
    count = lambda network: sum(parameter.numel() for parameter in network.parameters())  # noqa: E731
    assert count(vectors("ab")) == count(vectors("abcdefg"))
    wide = vectors("ab", width=5, **{})
    aligned = build(encoders={"a": VectorInput(5), "b": VectorInput(4), "c": VectorInput(5)})
    assert list(aligned.align) == ["b"]
    assert count(aligned) == count(wide) + 4 * 5 + 5
    assert list(vectors("ab", **{"norm": "layer"}).align) == []


def test_the_row_of_another_modality_changes_no_row_in_eval_mode() -> None:
    network, given = build(), inputs()
    alone, both = network.rows(given, NAMES.mask("text").expand(7, -1)), network.rows(given)
    torch.testing.assert_close(both.logits[both.modality == 2], alone.logits, rtol=1e-5, atol=1e-6)


def test_frozen_extractors_stay_as_they_are() -> None:
    network = build(freeze_encoders=True)
    before = copy.deepcopy(network.encoders.state_dict())
    network.train()
    assert not any(module.training for module in network.encoders.modules())
    assert network.trunk[0].training
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(inputs(), MASKS).square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in network.encoders.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.encoders.state_dict().items())


def test_fresh_statistics_are_those_of_training_and_leave_no_trace() -> None:
    for norm in ("batch", "batch_per_modality"):
        network, given = build(norm=norm, encoders={"a": VectorInput(5), "b": VectorInput(4)}), {
            "a": torch.randn(6, 5), "b": torch.randn(6, 4),
        }  # fmt: skip
        before = copy.deepcopy(network.state_dict())
        fresh = network.rows(given, fresh=True).logits
        assert not torch.allclose(fresh, network.rows(given).logits, atol=1e-3)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        torch.testing.assert_close(network.train().rows(given).logits, fresh)


def test_it_travels_and_is_built_from_a_config() -> None:
    check_travels(build(), inputs(), MASKS)
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "model")
    vector = {"class_path": "lightning_mm.models.VectorInput", "init_args": {"in_channels": 5}}
    init_args = {"encoders": {"a": vector, "b": vector}, "num_classes": 10, "norm": "layer"}
    config = {"class_path": "lightning_mm.models.SingleBranchClassifier", "init_args": init_args}
    network = parser.instantiate_classes(parser.parse_object({"model": config})).model
    assert network.channels == {"a": 5, "b": 5}
    assert network({"a": torch.zeros(2, 5), "b": torch.zeros(2, 5)}).shape == (2, 10)


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("norm", NORMS)
def test_one_graph_for_every_combination(norm: Any) -> None:
    check_compiles(build(norm=norm), NAMES, inputs())


@pytest.mark.parametrize("training", [False, True])
def test_wrong_inputs_are_named(training: bool) -> None:
    def run(change: dict[str, Tensor], mask: Tensor | None = None) -> None:
        build().train(training)(inputs() | change, mask)

    with pytest.raises(LightningMMError, match=r"'image': expected \[batch, 1, .* \(1 channels\), got \(7, 3, 8, 8\)"):
        run({"image": torch.zeros(7, 3, 8, 8)})
    with pytest.raises(LightningMMError, match=r"inputs have different numbers of samples: {'image': 7,"):
        run({"text": torch.zeros(6, 5)})
    with pytest.raises(LightningMMError, match=r"inputs have unknown \['radar'\]"):
        run({"radar": torch.zeros(7, 1)})
    with pytest.raises(LightningMMError, match=r"available: expected a bool tensor of shape \((7|batch), 3\)"):
        run({}, torch.ones(7, 2, dtype=torch.bool))


@pytest.mark.wrong_types
def test_wrong_settings_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"modality 'a': its encoder Linear must say .* `out_channels`"):
        build(encoders={"a": nn.Linear(3, 4)})
    with pytest.raises(LightningMMError, match=r"norm must be one of .* got 'instance'"):
        build(norm="instance")
    with pytest.raises(LightningMMError, match=r"fuse must be one of .* got 'votes'"):
        build(fuse="votes")
    with pytest.raises(LightningMMError, match=r"dropout must be at least 0 and below 1, got 1\.0"):
        build(dropout=1.0)
    with pytest.raises(LightningMMError, match="embedding must be a whole number of at least 1, got 0"):
        build(embedding=0)
