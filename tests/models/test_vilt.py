"""ViLT: patches in order, samples apart, absent places without effect, and the counts of the paper."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_mm.adapters import SSF, adapt
from lightning_mm.adapters.layers.types import Adaptable
from lightning_mm.errors import LightningMMError
from lightning_mm.models import ViLT
from lightning_mm.models.vilt.inputs import stretched
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import randomise
from tests.support.model_checks import rows
from tests.support.tiny_vilt import FILL, NAMES, inputs, tiny


def test_deterministic_and_a_sample_does_not_know_of_its_batch() -> None:
    network, batch = tiny(), inputs()
    with torch.no_grad():
        together = network(batch)
        assert torch.equal(network(batch), together)
        for row in range(3):
            alone = rows(batch, slice(row, row + 1))
            torch.testing.assert_close(network(alone), together[row : row + 1], rtol=1e-5, atol=1e-5)
        # the second image without its padding, and texts without theirs
        cropped = {
            "image": batch["image"]["pixel_values"][1:2, :, :, :48],
            "text": {key: leaf[1:2, :6] for key, leaf in batch["text"].items()},
        }
        torch.testing.assert_close(network(cropped), together[1:2], rtol=1e-5, atol=1e-5)
        plain = {"image": batch["image"]["pixel_values"][:1], "text": {"input_ids": batch["text"]["input_ids"][:1]}}
        torch.testing.assert_close(network(plain), together[:1], rtol=1e-5, atol=1e-5)


def test_what_lies_in_the_padding_counts_for_nothing() -> None:
    network, batch = tiny(), inputs()
    spoiled = {
        "image": {**batch["image"], "pixel_values": batch["image"]["pixel_values"].clone()},
        "text": {**batch["text"], "input_ids": batch["text"]["input_ids"].clone()},
    }
    spoiled["image"]["pixel_values"][1, :, :, 48:] = 7.0
    spoiled["text"]["input_ids"][1, 6:] = 7
    with torch.no_grad():
        assert torch.equal(network(spoiled), network(batch))


def test_both_inputs_matter_and_gradients_reach_all_of_the_network() -> None:
    network, batch = tiny(), inputs()
    other = {**batch, "image": {**batch["image"], "pixel_values": -batch["image"]["pixel_values"]}}
    words = {**batch, "text": {**batch["text"], "input_ids": batch["text"]["input_ids"].flip(0)}}
    with torch.no_grad():
        assert not torch.allclose(network(batch), network(other), atol=1e-3)
        assert not torch.allclose(network(batch), network(words), atol=1e-3)
    network(batch).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("sizes", [(6, 6), (6, 8), (3, 5), (1, 9)])
def test_positions_are_interpolated_as_torch_does(sizes: tuple[int, int]) -> None:
    square = torch.randn(6, 6, 4)
    found = stretched(square, torch.tensor([sizes[0]]), torch.tensor([sizes[1]]), 7, 9).unflatten(1, (7, 9))
    expected = F.interpolate(square.permute(2, 0, 1)[None], size=sizes, mode="bilinear", align_corners=True)
    torch.testing.assert_close(found[0, : sizes[0], : sizes[1]], expected[0].permute(1, 2, 0), rtol=1e-5, atol=1e-5)


def test_absent_places_reach_nothing() -> None:
    network, batch = tiny(), inputs()
    assert_missing_invariant(network, NAMES, batch, fill=FILL, available_argument=None)
    square = {"image": batch["image"]["pixel_values"], "text": batch["text"]}
    assert_missing_invariant(network, NAMES, square, fill=FILL, available_argument=None)
    adapted = adapt(network, NAMES, SSF(), fill=FILL, example=((batch,), {}), exclude=["head*"])
    randomise(adapted.adapter, scale=0.2)
    assert_missing_invariant(adapted, NAMES, batch)


def test_adapter_folds_and_is_removed() -> None:
    network, batch = tiny(), inputs()
    with torch.no_grad():
        before = network(batch)
    adapted = adapt(network, NAMES, SSF(), fill=FILL, example=((batch,), {}), exclude=["head*"])
    randomise(adapted.adapter, scale=0.2)
    with torch.no_grad():
        assert torch.equal(adapted(batch, available=torch.ones(3, 2, dtype=torch.bool)), before)
        for name in NAMES.incomplete():
            mask = NAMES.mask(name).expand(3, -1)
            torch.testing.assert_close(adapted.fold(name)(batch), adapted(batch, available=mask), rtol=1e-4, atol=1e-4)
        assert torch.equal(adapted.remove()(batch), before)


def scale_and_shift(network: nn.Module) -> int:
    """Numbers that SSF adds to a combination, from the shapes of the layers alone."""
    return 2 * sum(module.weight.shape[0] for module in network.modules() if isinstance(module, Adaptable))


def test_numbers_of_parameters_are_those_of_the_paper() -> None:
    """SSF on all that is linear, convolution or norm in the backbone, pooler included; not on the head."""
    with torch.device("meta"):
        network = ViLT()
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == 112_934_501
    assert scale_and_shift(network.backbone) == 208_896
    assert round(100 * 208_896 / total, 3) == 0.185
    small, batch = tiny(), inputs()
    adapted = adapt(small, NAMES, SSF(), fill=FILL, example=((batch,), {}), exclude=["head*"])
    assert adapted.adapter.parameters_per_combination() == scale_and_shift(small.backbone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(3, 3, 48, 60)}, "multiples of the patch size 8, got 48 x 60"),
        ({"image": torch.zeros(3, 1, 48, 48)}, r"modality 'image': expected \[batch, 3, .* got \(3, 1, 48, 48\)"),
        ({"image": torch.zeros(2, 3, 48, 48)}, "as many texts as images, got 3 and 2"),
        ({"image": torch.zeros(3, 3, 48, 48, dtype=torch.int64)}, "floating point"),
        ({"image": {"pixel_values": torch.zeros(3, 3, 48, 48), "pixel_mask": torch.ones(3, 6, 6)}}, "a mask of shape"),
        ({"text": torch.zeros(3, 9)}, r"modality 'text': expected \{\"input_ids\".* got Tensor"),
        ({"text": {"input_ids": torch.zeros(3, 9)}}, r"of integers, got torch.float32 \(3, 9\)"),
        ({"text": {"input_ids": torch.zeros(3, 11).long()}}, "at most 10 words, got 11"),
        (
            {"text": {"input_ids": torch.zeros(3, 9).long(), "attention_mask": torch.ones(3, 8)}},
            r"got \(3, 9\) and \(3, 8\)",
        ),
        ({"sound": torch.zeros(3, 1)}, r"unknown \['sound'\]"),
    ],
)
def test_inputs_that_do_not_fit_are_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        tiny()({**inputs(), **change})


def test_settings_that_do_not_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LightningMMError, match=r"divisible by num_attention_heads .* got 30 / 4"):
        tiny(hidden_size=30)
    with pytest.raises(LightningMMError, match=r"image_size by patch_size, got .* and 50 / 8"):
        tiny(image_size=50)
    with pytest.raises(LightningMMError, match="num_classes must be a whole number of at least 1"):
        tiny(0)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LightningMMError, match=r"ViLT needs .*: pip install 'lightning-mm\[transformers\]'"):
        tiny()


@pytest.mark.slow
@pytest.mark.compiled
def test_one_graph_for_all_sizes_of_a_batch() -> None:
    network, batch = tiny(), inputs()
    size = torch.export.Dim("batch", min=1, max=64)
    shapes = {name: {key: {0: size} for key in leaves} for name, leaves in batch.items()}
    exported = torch.export.export(network, (batch,), dynamic_shapes=(shapes,)).module()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        for few in (batch, rows(batch, slice(0, 2))):
            torch.testing.assert_close(exported(few), network(few))
            torch.testing.assert_close(compiled(few), network(few))
