"""Released weights of ViLT: there and back, told by name where they do not fit, and the reference's own numbers."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.models import ViLT
from lightning_mm.models.vilt.weights import TEXT_POSITIONS, from_reference, lengthened
from tests.support.tiny_vilt import SIZES, inputs, tiny


@pytest.fixture(scope="module")
def notes(golden_root: Path) -> dict[str, Any]:
    return json.loads((golden_root / "g_vilt_tiny.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden_root: Path) -> dict[str, Tensor]:
    with np.load(golden_root / "g_vilt_tiny.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.fixture(scope="module")
def weights(recipe: ModuleType, notes: dict[str, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = recipe.official_weights(notes)
    # In the reference the head of retrieval is a view of the second row of that of matching, and is filled after it.
    for part in ("weight", "bias"):
        state[f"itm_score.fc.{part}"][1:] = state[f"rank_output.{part}"]
    assert recipe.weights_fingerprint(state) == pytest.approx(notes["fingerprint"], rel=1e-6)
    return state


def left_out_heads(weights: dict[str, Tensor], text: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    """Outputs of the reference's heads of pre-training and retrieval, which are left out on loading.

    Args:
        weights: Those of the reference.
        text: Our features of the words, ``Float[N, D]``.
        pooled: Ours of the samples, ``Float[B, D]``.
    """
    of = lambda layer: (weights[f"{layer}.weight"], weights[f"{layer}.bias"])  # noqa: E731
    hidden = F.gelu(F.linear(text, *of("mlm_score.transform.dense")))
    hidden = F.layer_norm(hidden, hidden.shape[-1:], *of("mlm_score.transform.LayerNorm"), eps=1e-12)
    return {
        "mlm_logits": F.linear(hidden, weights["mlm_score.decoder.weight"], weights["mlm_score.bias"]),
        "itm_logits": F.linear(pooled, *of("itm_score.fc")),
        "rank_output": F.linear(pooled, *of("rank_output")),
    }


@pytest.mark.parametrize("replaced", ["", "_img0_ones"], ids=["image", "image of ones"])
def test_agrees_with_the_reference(
    notes: dict[str, Any], weights: dict[str, Tensor], arrays: dict[str, Tensor], replaced: str
) -> None:
    network = ViLT(11, **SIZES).eval()
    network.load_reference(weights, head="vqa_classifier")
    batch = {
        "image": {
            "pixel_values": arrays["image_sample0_ones" if replaced else "image"],
            "pixel_mask": arrays["pixel_mask"],
        },
        "text": {"input_ids": arrays["text_ids"], "attention_mask": arrays["text_masks"]},
    }
    with torch.no_grad():
        features, logits = network.features(batch), network(batch)
        pooled = network.backbone.pooler(features)  # type: ignore[misc]
    seen = arrays["text_masks"].bool()
    expected = {key.removesuffix(replaced): value for key, value in arrays.items() if key.endswith(replaced)}
    found = {"cls_feats": pooled, "raw_cls_feats": features[:, 0], "vqa_logits": logits}
    found["text_feats"] = features[:, :9][seen]
    found |= left_out_heads(weights, found["text_feats"], pooled)
    for name in ("text_feats", "mlm_logits"):
        expected[name] = expected[name][seen]
    patches = arrays["pixel_mask"][:, ::8, ::8].flatten(1).bool()
    for row in range(3):  # without the padding
        found[f"image_feats_sorted_{row}"] = features[row, 9:][torch.cat([torch.tensor([True]), patches[row]])]
    errors = {
        name: float((own - expected[name]).abs().max() / expected[name].abs().max()) for name, own in found.items()
    }
    assert max(errors.values()) < notes["tolerance"]["rtol"] / 50, errors


def test_the_rule_is_that_of_the_key_map(golden_root: Path, weights: dict[str, Tensor]) -> None:
    rules = json.loads((golden_root / "g_vilt_key_map.json").read_text())["backbone"]
    renamed, heads = from_reference(weights)
    for key in weights:
        fitting = [rule for rule in rules if re.match(rule["official"], key)]
        if not fitting:
            assert any(key.startswith(f"{head}.") for head in heads), key
            continue
        (rule,) = fitting
        thirds = ["query", "key", "value"] if "{query" in rule["hf"] else [""]
        for third in thirds:
            name = re.sub(rule["official"], rule["hf"].replace("{query|key|value}", third), key)
            assert renamed.pop(name).shape[0] * len(thirds) == weights[key].shape[0], name
    assert renamed == {}


def test_heads_of_other_tasks_are_left_out_and_said(
    weights: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    network = ViLT(5, **SIZES)
    head = {key: value.clone() for key, value in network.head.state_dict().items()}
    with caplog.at_level(logging.INFO):
        network.load_reference({**weights, "text_embeddings.position_ids": torch.arange(10)[None]}, "none")
    assert "heads itm_score, mlm_score, rank_output, vqa_classifier of the reference weights are left" in caplog.text
    assert all(torch.equal(value, head[key]) for key, value in network.head.state_dict().items())


def test_the_head_that_fits_is_taken_unless_told_otherwise(tmp_path: Path) -> None:
    """From a checkpoint with heads of pre-training and of other tasks beside the one of ours."""
    source = tiny()
    state = {
        **source.to_reference("food101_classifier"),
        "mlm_score.bias": torch.ones(60),
        **tiny(3).to_reference("vqa_classifier"),
    }
    several = {**state, **tiny().to_reference("snli_classifier")}
    without = {key: value for key, value in state.items() if not key.startswith("food101")}
    for name, weights in (("one", state), ("several", several), ("without", without)):
        torch.save({"state_dict": weights}, tmp_path / name)

    def taken(network: ViLT) -> bool:
        backbone, head = (
            all(torch.equal(value, own[key]) for key, value in source.state_dict().items() if key.startswith(part))
            for own in [network.state_dict()]
            for part in ("backbone.", "head.")
        )
        assert backbone
        return head

    fresh = lambda file=None, **settings: ViLT(11, file and str(tmp_path / file), **SIZES, **settings)  # noqa: E731
    assert taken(fresh("one"))
    assert not taken(fresh("one", head="none"))
    assert taken(fresh("several", head="food101_classifier"))
    # a start that is fine-tuned may have a head at random
    assert not taken(fresh("several"))
    assert not taken(fresh("without"))
    network = fresh(head="food101_classifier")
    network.load_reference(several)
    assert taken(network)
    network = fresh()
    network.load_reference({"state_dict": state})
    assert taken(network)
    for weights, message in (
        (several, r"several heads for 11 classes, \['food101_classifier', 'snli_classifier'\]: set head"),
        (without, r"no head for 11 classes, only \['mlm_score', 'vqa_classifier'\]: .* as `pretrained`"),
    ):
        network = fresh()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        with pytest.raises(LightningMMError, match=message):
            network.load_reference(weights)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        network.load_reference(weights, head="none")
        assert not taken(network)


def test_there_and_back(tmp_path: Path) -> None:
    source, batch = tiny(), inputs()
    state = source.to_reference("food101_classifier")
    assert state["transformer.blocks.1.attn.qkv.weight"].shape == (96, 32)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "whole.ckpt")
    for pretrained in (None, str(tmp_path / "whole.ckpt")):
        copy = ViLT(11, pretrained, **SIZES).eval()
        copy.load_reference(state, head="food101_classifier")
        assert all(torch.equal(value, copy.state_dict()[key]) for key, value in source.state_dict().items())
        with torch.no_grad():
            assert torch.equal(copy(batch), source(batch))
    back = copy.to_reference()
    assert back.keys() == {key for key in state if not key.startswith("food101_classifier")}
    assert all(torch.equal(value, state[key]) for key, value in back.items())


def test_positions_of_longer_texts_are_interpolated() -> None:
    source = tiny()
    longer, shorter = tiny(max_text_length=20), tiny(max_text_length=6)
    for network in (longer, shorter):
        network.load_reference(source.to_reference(), "none")
    key = "backbone.embeddings.text_embeddings.position_embeddings.weight"
    table = source.state_dict()[key]
    assert torch.equal(shorter.state_dict()[key], table[:6])
    found = longer.state_dict()[key]
    assert torch.equal(found[0], table[0])
    assert torch.equal(found[-1], table[-1])
    # the middles of twice as many places lie a quarter of a step beside those of the table
    torch.testing.assert_close(found[1:-1:2], 0.75 * table[:-1] + 0.25 * table[1:])
    torch.testing.assert_close(found[2:-1:2], 0.25 * table[:-1] + 0.75 * table[1:])
    assert torch.equal(lengthened(table, 10), table)
    ids = {"input_ids": torch.arange(20).expand(3, -1)}
    with torch.no_grad():
        assert longer({"image": torch.ones(3, 3, 48, 48), "text": ids}).isfinite().all()


def test_weights_that_do_not_fit_are_told_and_change_nothing(tmp_path: Path) -> None:
    network = tiny()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = network.to_reference("vqa_classifier")
    lacking = {key: value for key, value in state.items() if key != "pooler.dense.bias"}
    cases: list[tuple[dict[str, Tensor], str | None, str]] = [
        (lacking, None, r"state_dict lacks backbone\.pooler\.dense\.bias; use"),
        ({**state, "prompt": torch.ones(1)}, None, r"1 keys that the reference ViLT does not have: \['prompt'\]"),
        ({f"model.{key}": value for key, value in state.items()}, None, "without a prefix"),
        ({**state, "pooler.dense.bias": torch.ones(3)}, None, r"dense\.bias \(3,\) instead of \(32,\)"),
        ({**state, "transformer.blocks.7.norm1.bias": torch.ones(32)}, None, "has unknown backbone.encoder.layer.7"),
        ({**state, TEXT_POSITIONS: torch.ones(10, 16)}, None, r"\(10, 16\) instead of \(10, 32\)"),
        (state, "nlvr2_classifier", r"no head 'nlvr2_classifier', only \['vqa_classifier'\]"),
        ({**state, "vqa_classifier.3.bias": torch.ones(7)}, "vqa_classifier", r"head\.3\.bias \(7,\) instead of"),
    ]
    for wrong, head, message in cases:
        with pytest.raises(LightningMMError, match=message):
            network.load_reference(wrong, head)
    with pytest.raises(DataNotFoundError, match=r"no ViLT weights at .*none\.ckpt; fetch a checkpoint from"):
        ViLT(pretrained=str(tmp_path / "none.ckpt"), **SIZES)
    for content, message in (
        ([1, 2], "are a list, expected"),
        ({"state_dict": {"a": 1}}, "other.ckpt: expected a state_dict of tensors"),
    ):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(LightningMMError, match=message):
            ViLT(pretrained=str(tmp_path / "other.ckpt"), **SIZES)
    (tmp_path / "other.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(LightningMMError, match="cannot be read as tensors and plain types"):
        ViLT(pretrained=str(tmp_path / "other.ckpt"), **SIZES)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
