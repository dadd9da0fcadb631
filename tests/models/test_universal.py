"""The universal model: template, hidden cells, heads of combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm import Modalities
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.models import MultiEncoderUNet, UniversalSegmenter
from lightning_mm.models.universal.class_head import ClassHead
from lightning_mm.models.universal.masking import cells_in, draw_shown, on_pixels
from lightning_mm.testing import assert_missing_invariant

NAMES = Modalities(["flair", "t1", "t2"])
CHANNELS = {"flair": 1, "t1": 2, "t2": 1}


def build(dims: int = 2, **settings: Any) -> UniversalSegmenter:
    torch.manual_seed(0)
    settings = {"size": [8] * dims, "cell": 4, "widths": [4, 6], "head_width": 3, **settings}
    network = UniversalSegmenter(CHANNELS, 2, **settings)
    with torch.no_grad():
        network.template.values.normal_()
    return network


def images(rows: int, side: int = 8, dims: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, count, *[side] * dims, generator=generator) for name, count in CHANNELS.items()}


def test_hidden_cells_have_the_statistics_of_the_official_code(golden_root: Path) -> None:
    with np.load(golden_root / "d4_m3ae_mask_stats.npz") as official:
        expected = {key: official[key] for key in official}
    shown = draw_shown(torch.ones(3000, 4, dtype=torch.bool), 64, 0.875, range(3000), epoch=0, seed=0)
    visible, hidden = expected["visible_masked_counts"][0]
    assert set(shown.flatten(1).sum(1).tolist()) == {visible}
    assert visible + hidden == shown[0].numel()
    left = shown.any(2)
    counts = torch.bincount(left.sum(1), minlength=5) / len(left)
    np.testing.assert_allclose(counts, expected["available_modalities_hist"], atol=0.03)
    np.testing.assert_allclose(1 - left.float().mean(0), expected["dropped_rate_per_modality"], atol=0.03)
    per_modality = shown.sum(2).float().mean(0)
    np.testing.assert_allclose(per_modality, expected["mean_visible_tokens_per_modality"], atol=0.5)


def test_cells_are_those_of_a_sample_and_epoch_and_never_of_what_does_not_exist() -> None:
    observed = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 1]]).bool()
    settings: dict[str, Any] = {"cells": 16, "share": 0.75, "seed": 3}
    shown = draw_shown(observed, index=[4, 5, 6, 7], epoch=0, **settings)
    assert shown.flatten(1).sum(1).tolist() == [12, 12, 12, 12], "a quarter of all cells, of modalities that lack too"
    assert not shown[~observed].any()
    assert torch.equal(shown[[2, 0]], draw_shown(observed[[2, 0]], index=[6, 4], epoch=0, **settings))
    assert not torch.equal(shown, draw_shown(observed, index=[4, 5, 6, 7], epoch=1, **settings))
    few = draw_shown(observed, 4, 0.5, [4, 5, 6, 7], epoch=0, seed=3)
    assert few[2].sum() == 4, "a sample cannot show more than it has"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_template_is_exactly_where_things_are_hidden(dims: int) -> None:
    network, given = build(dims), images(2, dims=dims)
    cells = cells_in([8] * dims, 4)
    shown = on_pixels(draw_shown(torch.ones(2, 3).bool(), cells, 0.6, [0, 1], epoch=0, seed=0), [8] * dims, 4)
    for mask in (shown, torch.tensor([[True, False, True], [False, True, False]])):
        filled = network.filled(given, mask)
        template = dict(zip(CHANNELS, network.template.values.split(list(CHANNELS.values()), dim=1)))
        for column, name in enumerate(NAMES):
            there = mask[:, column].reshape(2, 1, *(mask.shape[2:] or [1] * dims)).expand_as(given[name])
            assert torch.equal(filled[name][there], given[name][there])
            assert torch.equal(filled[name][~there], template[name].expand_as(given[name])[~there])
    assert on_pixels(torch.tensor([[[True, False, False, True]]]), [4, 4], 2).int().tolist() == [
        [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]]
    ]


def test_a_crop_gets_its_part_of_the_template() -> None:
    network = build()
    values, nothing = network.template.values[0], torch.zeros(2, 3, dtype=torch.bool)
    filled = network.filled(images(2, 4), nothing, torch.tensor([[0, 3], [4, 1]]))
    assert torch.equal(filled["t1"][0], values[1:3, 0:4, 3:7])
    assert torch.equal(filled["t1"][1], values[1:3, 4:8, 1:5])
    centred = network.filled(images(2, 4), nothing)
    assert torch.equal(centred["flair"][1], values[:1, 2:6, 2:6])
    with pytest.raises(LightningMMError, match=r"a crop of \(4, 4\) that starts at \[5, 0\] is not inside"):
        network.filled(images(1, 4), nothing[:1], torch.tensor([[5, 0]]))
    with pytest.raises(LightningMMError, match=r"template is for samples of \(8, 8\), got \(12, 12\); set size"):
        network.filled(images(1, 12), nothing[:1])


def test_a_head_is_three_convolutions_for_each_class() -> None:
    torch.manual_seed(0)
    head, features = ClassHead(8, 3), torch.randn(2, 8, 5, 4)
    with torch.no_grad():
        head.weights.normal_()
    assert head.weights.shape == (3, 153)
    logits = []
    for weights in head.weights:
        values, at = features, 0
        for rows in (8, 8, 1):
            kernel, bias = weights[at : at + 8 * rows].view(rows, 8, 1, 1), weights[at + 8 * rows : at + 9 * rows]
            values = F.conv2d(values.relu() if at else values, kernel, bias)
            at += 9 * rows
        logits.append(values)
    torch.testing.assert_close(head(features), torch.cat(logits, dim=1))


def test_the_hyper_network_changes_nothing_at_the_start_and_separates_combinations_later() -> None:
    network, plain = build(hyper=True), build()
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if not key.startswith("hyper")})
    masks = NAMES.masks()
    given = images(len(masks))
    assert torch.equal(network(given, masks), plain(given, masks)), "for every combination"
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    target = torch.arange(len(masks)) % 2
    for _ in range(50):
        optimizer.zero_grad()
        F.cross_entropy(network(given, masks).mean((2, 3)), target).backward()
        optimizer.step()
    assert network.hyper is not None
    with torch.no_grad():
        bottleneck = torch.ones(len(masks), 6, 2, 2)
        changes = network.hyper(masks, bottleneck).flatten(1)
    gaps = torch.cdist(changes, changes) + torch.eye(len(masks))
    assert gaps.min() > 1e-3, "the same features, another combination: another head"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mixed_batch_equals_a_loop(dims: int) -> None:
    network, masks = build(dims, hyper=True).eval(), NAMES.masks()
    assert network.hyper is not None
    nn.init.normal_(network.hyper.change.weight, std=0.1)
    given = images(len(masks), dims=dims)
    with torch.no_grad():
        mixed = network(given, masks)
        for row in range(len(masks)):
            one = network({name: value[row : row + 1] for name, value in given.items()}, masks[row : row + 1])
            torch.testing.assert_close(mixed[row : row + 1], one, rtol=1e-4, atol=1e-5)


def test_absent_inputs_never_enter() -> None:
    assert_missing_invariant(build(hyper=True), list(NAMES), images(2))


def test_texts_of_combinations_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    vectors = {name: torch.randn(5) for name in NAMES.combinations()}
    vectors["t2+flair"] = vectors.pop("flair+t2")  # in any order
    save_file(vectors, path)
    network = build(hyper=True, text=str(path))
    assert network.hyper is not None
    assert isinstance(network.hyper.table, Tensor)
    assert torch.equal(network.hyper.table[NAMES.code(NAMES.mask("flair+t2"))], vectors["t2+flair"])
    assert network(images(7), NAMES.masks()).shape == (7, 2, 8, 8)
    for change, message in (
        ({"t1": None}, "has no embedding of 't1'; it must hold one for each of the 7 combinations"),
        ({"t1": torch.ones(4)}, "expected vectors of one length"),
        ({"t1": torch.full((5,), torch.nan)}, "numbers that are not finite"),
    ):
        save_file({key: value for key, value in {**vectors, **change}.items() if value is not None}, path)
        with pytest.raises(LightningMMError, match=message):
            build(hyper=True, text=str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(LightningMMError, match="is damaged or no safetensors file"):
        build(hyper=True, text=str(path))
    with pytest.raises(DataNotFoundError, match="no file of embeddings at"):
        build(hyper=True, text=str(tmp_path / "nowhere"))
    with pytest.raises(LightningMMError, match="set hyper to true"):
        build(text=str(path))


def test_mistakes_are_named() -> None:
    for settings, message in (
        ({"size": [8]}, "size: expected height and width of images"),
        ({"widths": [4]}, "widths: expected two or more positive numbers"),
        ({"cell": 0}, "cell must be a whole number of at least 1"),
    ):
        with pytest.raises(LightningMMError, match=message):
            build(**settings)
    network = MultiEncoderUNet(CHANNELS, 2, widths=[2, 2, 2])
    for given, message in (
        (images(1, 6), r"height, width must be divisible by 4 .* got \(6, 6\)"),
        ({**images(1), "t1": torch.zeros(1, 1, 8, 8)}, r"modality 't1': expected \[batch, 2, height, width\]"),
        ({**images(1), "t2": torch.zeros(1, 1, 4, 4)}, "modality 't2': expected the batch and size of 'flair'"),
    ):
        with pytest.raises(LightningMMError, match=message):
            network(given)
    with pytest.raises(LightningMMError, match="sizes must be divisible by cell=5"):
        cells_in([8, 8], 5)
