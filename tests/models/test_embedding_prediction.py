"""Read-only prompts and the network that predicts embeddings: nothing frozen changes, nothing absent enters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.models import EmbeddingPrediction, ImageEncoder, SequenceEncoder, VectorEncoder
from lightning_mm.models.embedding_prediction import ReadOnlyPrompts, ReadOnlyQueries
from lightning_mm.models.embedding_prediction.blocks import BlockInput
from lightning_mm.models.embedding_prediction.source import Source, listening
from lightning_mm.models.sequence_fusion import TransformerBlock
from lightning_mm.testing import assert_missing_invariant
from tests.support.adapter_networks import trained_statistics
from tests.support.model_checks import check_travels

NAMES = Modalities(["image", "motion", "text"])
D = 24


class Words(nn.Module):
    """Blocks of any library between two linear layers; the vector is the mean over tokens that count."""

    out_channels = D

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, D))
        self.embed, self.blocks, self.norm = nn.Linear(5, D), nn.ModuleList(blocks), nn.LayerNorm(D)

    def forward(self, values: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(values), -1, -1), self.embed(values)], 1)
        for block in self.blocks:
            more = (tokens.new_ones(tokens.shape[:2], dtype=torch.bool),) if isinstance(block, TransformerBlock) else ()
            tokens = block(tokens, *more)
        return self.norm(tokens)[:, 0]


def torch_block(norm_first: bool = True, batch_first: bool = True) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        D, 4, 48, activation="gelu", batch_first=batch_first, norm_first=norm_first, dropout=0.1
    )


def block(kind: str) -> nn.Module:
    if kind == "ours":
        return TransformerBlock(D, 4, 0.1)
    if kind == "timm":
        from timm.models.vision_transformer import Block

        return Block(D, 4, qkv_bias=True, init_values=0.3, qk_norm=True)  # type: ignore[no-any-return]
    if kind in ("vit", "bert"):
        transformers = pytest.importorskip("transformers")
        sizes: dict[str, Any] = {
            "hidden_size": D, "num_attention_heads": 4, "intermediate_size": 48, "attn_implementation": "sdpa"
        }  # fmt: skip
        if kind == "vit":
            made: nn.Module = transformers.models.vit.modeling_vit.ViTLayer(transformers.ViTConfig(**sizes))
        else:
            made = transformers.models.bert.modeling_bert.BertLayer(transformers.BertConfig(**sizes))
        return made
    return torch_block(norm_first=kind == "torch")


def words(kind: str, depth: int = 3) -> Words:
    torch.manual_seed(0)
    encoder = Words(*(block(kind) for _ in range(depth)))
    for parameter in encoder.parameters():  # no norm or bias at its start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder.eval()


OF_TRANSFORMERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("vit", "bert")]
"""Slow to import."""


@pytest.mark.parametrize("kind", ["torch", "torch_post", "ours", "timm", *OF_TRANSFORMERS])
@torch.no_grad()
def test_a_prompt_that_equals_a_token_follows_it_through_the_blocks(kind: str) -> None:
    encoder, values = words(kind), torch.randn(3, 6, 5)
    source = Source("text", encoder, D, prompts=1, read="blocks")
    assert isinstance(source.reader, ReadOnlyPrompts)
    source.reader.prompts.copy_(encoder.cls_token[0])
    with listening():
        vector = encoder(values)
        read = source(vector)
    torch.testing.assert_close(read, vector, rtol=1e-5, atol=1e-5)  # the vector is the first token, after the norm


@pytest.mark.parametrize("kind", ["torch", "timm"])
@torch.no_grad()
def test_prompts_change_no_bit_of_the_encoder_and_do_not_see_each_other(kind: str) -> None:
    encoder, values = words(kind), torch.randn(3, 6, 5)
    plain = encoder(values)  # a fused path of torch, which hooks would leave
    sources = {prompts: Source("text", copy.deepcopy(encoder), D, prompts) for prompts in (0, 8)}
    assert sources[0].reader is None
    read = Source("text", encoder, D, 8)
    with listening():
        assert torch.equal(encoder(values), plain)
        assert isinstance(read.reader, ReadOnlyPrompts)
        inputs = [BlockInput(one) for one in [torch.randn(3, 7, D)] * 3]
        before = read.reader(inputs)
        read.reader.prompts[1] += 1.0
        after = read.reader(inputs)
    assert (before != after).any((0, 2)).tolist() == [False, True] + [False] * 6


def test_the_gradient_of_prompts_is_theirs_alone() -> None:
    encoder, values = words("torch"), torch.randn(3, 6, 5)
    network = EmbeddingPrediction({"text": encoder, "other": VectorEncoder(3)}, 2)
    network.freeze()
    found = network.embed({"text": values, "other": torch.randn(3, 3)})
    assert not found.vectors["text"].requires_grad, "the frozen stream runs without gradients"
    network.predict(found.read["text"], "text", "other").square().sum().backward()
    moved = {name for name, one in network.named_parameters() if one.grad is not None and bool(one.grad.any())}
    assert any(name.endswith("reader.prompts") for name in moved)
    assert all(name.startswith(("sources.text.", "predictors.text.other.")) for name in moved), moved


@pytest.mark.parametrize("batch_first", [True, False])
def test_golden_prompts(batch_first: bool, golden_root: Path) -> None:
    data = np.load(golden_root / "h2_prompts_h4_vqa_h5_similarity.npz")
    blocks = nn.ModuleList(torch_block(batch_first=batch_first) for _ in range(3)).double().eval()
    for number, one in enumerate(blocks):
        prefix = f"h2.block{number}."
        one.load_state_dict({k.removeprefix(prefix): torch.from_numpy(data[k]) for k in data if k.startswith(prefix)})
    tokens, padding = torch.from_numpy(data["h2.x"]), torch.from_numpy(data["h2.pad"])
    reader = ReadOnlyPrompts(list(blocks), D).double()
    reader.prompts.data.copy_(torch.from_numpy(data["h2.prompts"]))
    inputs = []
    for one in blocks:
        given = tokens if batch_first else tokens.transpose(0, 1)
        inputs.append(BlockInput(given, padding, not batch_first))
        with torch.no_grad():
            given = one(given, src_key_padding_mask=padding)
        tokens = given if batch_first else given.transpose(0, 1)
    valid = ~padding
    torch.testing.assert_close(tokens[valid], torch.from_numpy(data["h2.frozen_out"])[valid], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reader(inputs), torch.from_numpy(data["h2.prompt_out"]), rtol=1e-9, atol=1e-9)


def test_prompts_equal_one_sequence_with_a_mask() -> None:
    encoder, values = words("torch"), torch.randn(3, 6, 5)
    source = Source("text", encoder, D, prompts=4)
    with torch.no_grad(), listening():
        read = source(encoder(values))
    assert isinstance(source.reader, ReadOnlyPrompts)
    tokens = torch.cat([encoder.cls_token.expand(3, -1, -1), encoder.embed(values)], 1)
    together = torch.cat([tokens, source.reader.prompts.expand(3, -1, -1)], 1)
    hidden = torch.zeros(11, 11, dtype=torch.bool)
    hidden[:, 7:] = True  # nobody attends to a prompt
    with torch.no_grad():
        for one in encoder.blocks:
            together = one(together, src_mask=hidden)
    torch.testing.assert_close(read, encoder.norm(together[:, 7:]).mean(1), rtol=0, atol=1e-5)


def test_prompts_start_near_the_token_of_the_class() -> None:
    encoder = words("torch")
    reader = Source("text", encoder, D, prompts=5).reader
    assert isinstance(reader, ReadOnlyPrompts)
    distances = (reader.prompts - encoder.cls_token[0, 0]).norm(dim=1)
    torch.testing.assert_close(distances, torch.full((5,), 0.1), rtol=1e-4, atol=1e-5)
    assert "reader.prompts" in dict(Source("text", encoder, D).named_parameters())
    assert all(name == "reader.prompts" for name, _ in Source("text", encoder, D).named_parameters())


def encoders() -> dict[str, nn.Module]:
    return {
        "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
        "motion": SequenceEncoder(3, width=8, out_channels=6, depth=2),
        "text": VectorEncoder(5, width=8, out_channels=8),
    }


def build(**settings: Any) -> EmbeddingPrediction:
    torch.manual_seed(0)
    network = EmbeddingPrediction(encoders(), 4, **settings)
    trained_statistics(network)
    return network.eval()


def inputs(batch: int = 7, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(batch, 1, 10, 7, generator=generator),
        "motion": {"values": torch.randn(batch, 9, 3, generator=generator), "length": 1 + torch.arange(batch) % 9},
        "text": torch.randn(batch, 5, generator=generator),
    }


@pytest.mark.parametrize(("combine", "frozen"), [("late_mean", True), ("late_drop", False), ("concat", False)])
def test_what_is_absent_never_enters(combine: Any, frozen: bool) -> None:
    network = build(combine=combine, read={"image": "stages"})
    if frozen:
        network.freeze("bitfit")
    for mode in (True, False):
        assert_missing_invariant(network.train(mode), NAMES, inputs())
    with torch.no_grad():
        network.eval()
        together, masks = network(inputs(), NAMES.masks()), NAMES.masks()
        for row in range(7):
            one = {"image": inputs()["image"][row : row + 1], "text": inputs()["text"][row : row + 1]}
            motion = {key: leaf[row : row + 1] for key, leaf in inputs()["motion"].items()}
            alone = network({**one, "motion": motion}, masks[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)
        assert torch.equal(network(inputs()), network(inputs(), torch.ones_like(masks)))
    check_travels(network, inputs(), NAMES.masks())


@torch.no_grad()
def test_a_complete_batch_calls_no_predictor_and_means_the_heads() -> None:
    network = build()
    for part in network.predictors.modules():
        part.register_forward_hook(lambda *_: pytest.fail("a predictor ran"))
    found = network.embed(inputs())
    torch.testing.assert_close(network(inputs()), torch.stack(list(network.unimodal(found).values())).mean(0))


@torch.no_grad()
def test_an_absent_embedding_is_the_mean_of_what_present_ones_predict() -> None:
    network, mask = build(prompts=0), torch.tensor([[True, False, True]] * 7)
    found = network.embed(inputs(), mask)
    parts = [network.predict(found.vectors[name], name, "motion") for name in ("image", "text")]
    expected = torch.stack(parts).mean(0)
    torch.testing.assert_close(network.completed(found)["motion"], expected)
    drop = build(combine="late_drop")
    own = drop.unimodal(drop.embed(inputs(), mask))
    torch.testing.assert_close(drop(inputs(), mask), (own["image"] + own["text"]) / 2)


def test_a_trained_encoder_gets_the_samples_that_have_its_modality() -> None:
    network, seen = build().train(), []
    network.encoders["image"].register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    mask = torch.tensor([[True, False, True]] * 3 + [[False, True, True]] * 4)
    network.embed(inputs(), mask, reads=False)
    assert seen == [3]
    none = network.embed(inputs(), torch.tensor([[False, True, True]] * 7), reads=True)
    assert seen == [3]
    assert not none.vectors["image"].any()
    none.vectors["image"].sum().backward()
    grads = [one.grad for one in network.encoders["image"].parameters()]
    assert all(grad is not None and not grad.any() for grad in grads), "zero and not None, for DDP"


@pytest.mark.parametrize("kind", ["none", "bitfit", "ssf", "lora"])
def test_only_the_chosen_parameters_of_encoders_are_trained(kind: Any) -> None:
    network, values = build(), inputs()
    before = network(values)
    tuned = network.freeze(kind, 2)
    network.train()
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(values), before, rtol=1e-5, atol=1e-6)  # nothing at the start
    trained = {id(one) for one in network.encoders.parameters() if one.requires_grad}
    assert trained == {id(one) for one in tuned}
    assert bool(tuned) == (kind != "none")
    network.train()
    statistics = copy.deepcopy([m.running_mean for m in network.encoders.modules() if hasattr(m, "running_mean")])
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.1)
    network(values).square().sum().backward()
    optimizer.step()
    after = [m.running_mean for m in network.encoders.modules() if hasattr(m, "running_mean")]
    assert all(map(torch.equal, statistics, after)), "statistics are frozen in training too"
    with torch.no_grad():
        outputs = network.eval()(values)
        assert (not torch.allclose(outputs, before, atol=1e-4)) or kind == "none"
        folded = copy.deepcopy(network)
        folded.fold()
        torch.testing.assert_close(folded(values), outputs, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network(values), outputs, rtol=0, atol=0)  # the copy shares its classes
        network.fold()
        torch.testing.assert_close(network(values), outputs, rtol=1e-5, atol=1e-6)
    assert not any("parametrizations" in name for name in network.state_dict())


@pytest.mark.slow
def test_encoders_of_other_libraries() -> None:
    transformers = pytest.importorskip("transformers")
    import timm

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=30, max_position_embeddings=8, **small))
    image = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2, num_classes=0, pretrained=False
    )
    network = EmbeddingPrediction({"image": image, "text": bert}, 3)
    network.freeze()
    assert all(isinstance(network.sources[name].reader, ReadOnlyPrompts) for name in ("image", "text"))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    ids = torch.randint(1, 30, (3, 4))
    values = {"image": torch.randn(3, 3, 32, 32), "text": {"input_ids": ids, "attention_mask": mask}}
    with torch.no_grad():
        read = network.embed(values).read["text"]
        longer = {key: nn.functional.pad(leaf, (0, 2)) for key, leaf in values["text"].items()}
        longer["input_ids"][:, 4:] = 7  # padding says nothing to prompts either
        torch.testing.assert_close(network.embed({**values, "text": longer}).read["text"], read, rtol=1e-4, atol=1e-5)
    network(values, Modalities(["image", "text"]).masks()).sum().backward()
    assert all(one.grad is None for one in network.encoders.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read": {"sound": "stages"}}, "read: unknown modality 'sound'"),
        ({"read": {"image": "layers"}}, "modality 'image': `read` names 'layers', and ImageEncoder has no such part"),
        ({"read": {"text": "stages.0.activation"}}, "width of what 'stages.0.activation' returns cannot be told"),
        ({"prompts": -1}, "prompts"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


def test_more_mistakes() -> None:
    with pytest.raises(LightningMMError, match="must say how wide its vectors are"):
        EmbeddingPrediction({"a": nn.Linear(3, 4)}, 2)
    with pytest.raises(LightningMMError, match="ReadOnlyPrompts cannot read Linear; it knows"):
        ReadOnlyPrompts([nn.Linear(3, 3)], 3)
    with pytest.raises(LightningMMError, match="peft must be one of"):
        build().freeze("bits")
    plain = EmbeddingPrediction({"text": VectorEncoder(5), "pixels": ImageEncoder(1)}, 2)
    plain.encoders = nn.ModuleDict({"text": nn.ReLU()})
    with pytest.raises(LightningMMError, match="lora changes no layer: the encoders have no linear or conv"):
        plain.freeze("lora")
    network = build(read={"image": "stages.0.conv"})
    wrong = Source("text", nn.Sequential(nn.Linear(3, 4)), 4, read="0")
    wrong.out_channels = 5
    encoder = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(LightningMMError, match="that is read did not run"), listening():
        wrong(encoder(torch.zeros(2, 3)))
    assert network(inputs()).shape == (7, 4)


def test_queries_of_a_vector_are_linear_maps_of_it() -> None:
    torch.manual_seed(0)
    reader, one, two = ReadOnlyQueries(8, 3), torch.randn(4, 1, 8), torch.randn(4, 1, 8)
    zero = reader(torch.zeros(4, 1, 8))
    torch.testing.assert_close(reader(one + two) - zero, reader(one) + reader(two) - 2 * zero, rtol=1e-4, atol=1e-5)
