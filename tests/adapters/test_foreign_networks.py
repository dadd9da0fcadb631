"""Adapters on networks that were not written here: a correct result or a clear error, never silence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import (
    IA3,
    SSF,
    Adapted,
    Additive,
    BitFit,
    Bottleneck,
    Kind,
    LoRA,
    NormTuning,
    OneHot,
    adapt,
)
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise, trained_statistics
from tests.support.foreign_networks import Added

pytestmark = pytest.mark.slow

NAMES = Modalities(["a", "b"])
MASKS = NAMES.masks(["a", "b", "a+b", "b"])
KINDS: dict[str, Callable[[], Kind]] = {
    "SSF": SSF,
    "BitFit": BitFit,
    "NormTuning": NormTuning,
    "LoRA": lambda: LoRA(2),
    "IA3": IA3,
    "Bottleneck": lambda: Bottleneck(2),
}


class Recurrent(nn.Module):
    """An LSTM between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.lstm, self.after = nn.Linear(5, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.lstm(self.before(x))[0][:, -1])


class Attention(nn.Module):
    """Attention whose sequence comes first, as is torch's default."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        return self.head(self.attention(steps, steps, steps)[0].mean(0))


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=batch_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested tensors are off
        return nn.TransformerEncoder(layer, 2)


class Encoder(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.encoder, self.batch_first = encoder(batch_first), batch_first

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x).mean(1) if self.batch_first else self.encoder(x.transpose(0, 1)).mean(0)


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    return transformers.BertModel(config)


def vilt() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    config = transformers.ViltConfig(
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, max_position_embeddings=8,
    )  # fmt: skip
    return transformers.ViltModel(config)


class Vilt(nn.Module):
    """Text and image in one transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.vilt = vilt()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        mask = torch.ones_like(a)
        return self.vilt(input_ids=a, attention_mask=mask, pixel_values=b).pooler_output


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bert, self.image = bert(), nn.Linear(7, 12)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.bert(input_ids=a).last_hidden_state.mean(1) + self.image(b)


def images(size: int, channels: int = 3) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = (torch.randn(4, channels, size, size, generator=generator) for _ in range(2))
        return a, b

    return make


def steps(width: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        a, b = (torch.randn(4, 7, width, generator=generator) for _ in range(2))
        return a, b

    return make


def text_and(*shape: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randint(1, 20, (4, 6), generator=generator), torch.randn(4, *shape, generator=generator)

    return make


def vit() -> nn.Module:
    return torchvision.models.vit_b_16(image_size=32, num_classes=5)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], tuple[Tensor, Tensor]]]] = {
    "torchvision ResNet-18": (lambda: Added(torchvision.models.resnet18(num_classes=5)), images(32)),
    "torchvision ViT-B/16": (lambda: Added(vit()), images(32)),
    "smp Unet of ResNet-18": (lambda: Added(smp.Unet("resnet18", encoder_weights=None, classes=2)), images(32)),
    "smp FPN of EfficientNet": (lambda: Added(smp.FPN("efficientnet-b0", encoder_weights=None, classes=2)), images(32)),
    "smp Segformer of MiT": (lambda: Added(smp.Segformer("mit_b0", encoder_weights=None, classes=2)), images(32)),
    "ViltModel": (Vilt, text_and(3, 16, 16)),
    "BertModel": (Bert, text_and(7)),
    "nn.TransformerEncoder, batch first": (lambda: Added(Encoder(True)), steps(6)),
    "nn.TransformerEncoder, sequence first": (lambda: Added(Encoder(False)), steps(6)),
    "nn.LSTM": (lambda: Added(Recurrent()), steps(5)),
    "nn.MultiheadAttention": (lambda: Added(Attention()), steps(6)),
}
NOTHING_TO_DO = {
    ("NormTuning", "nn.LSTM"): r"no layer of Added can be adapted by NormTuning; reasons: .*recurrent",
    ("NormTuning", "nn.MultiheadAttention"): "no layer of its types",
    ("IA3", "torchvision ResNet-18"): "IA3 finds no projection",
    ("IA3", "smp Unet of ResNet-18"): "IA3 finds no projection",
    ("IA3", "smp FPN of EfficientNet"): "IA3 finds no projection",
    ("IA3", "nn.LSTM"): "IA3 finds no projection",
    ("IA3", "nn.MultiheadAttention"): "IA3 finds no projection",
}
"""Pairs that are refused, and how."""


@pytest.fixture(autouse=True)
def one_path() -> Iterator[None]:
    """The fast path of attention, taken where nothing needs a gradient, differs in the last bits."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def make(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    build, data = NETWORKS[name]
    network = build().eval()
    trained_statistics(network)
    with torch.no_grad():
        for parameter in network.parameters():  # heads that start at zero hide what comes before them
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return network, data(torch.Generator().manual_seed(1))


def filled(call: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [
        torch.where(MASKS[:, k].view(-1, *[1] * (value.ndim - 1)), value, torch.zeros((), dtype=value.dtype))
        for k, value in enumerate(call)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_correct_result_or_a_clear_error(name: str, kind: str) -> None:
    network, call = make(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        baseline = network(*filled(call))
    if (kind, name) in NOTHING_TO_DO:
        with pytest.raises(LightningMMError, match=NOTHING_TO_DO[kind, name]):
            adapt(network, NAMES, KINDS[kind](), example=(call, {}))
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapted = adapt(network, NAMES, KINDS[kind](), basis=Additive(), example=(call, {}))
        unreached = unreached_layers(adapted)
    told = [str(one.message) for one in said if "left out of the adapter" in str(one.message)]
    assert all(any(layer in text for text in told) for layer in unreached), f"silently left out: {unreached}"
    with torch.no_grad():
        torch.testing.assert_close(adapted(*call, available=MASKS), baseline, rtol=1e-5, atol=1e-5)
        randomise(adapted, scale=0.02)
        together = adapted(*call, available=MASKS)
        assert not torch.allclose(together[0], baseline[0], rtol=1e-4, atol=1e-5), "nothing was adapted"
        torch.testing.assert_close(together[2], baseline[2], rtol=1e-4, atol=1e-4)
        for row in range(len(MASKS)):
            alone = adapted(*(value[row : row + 1] for value in call), available=MASKS[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-4)
        try:
            folded = adapted.fold("b")(*call)
        except LightningMMError as error:
            assert "cannot be folded" in str(error)  # noqa: PT017
        else:
            torch.testing.assert_close(folded[[1, 3]], together[[1, 3]], rtol=1e-3, atol=1e-4)
    removed = adapted.remove()
    assert all(torch.equal(value, before[key]) for key, value in removed.state_dict().items())


def test_ia3_says_what_it_does_not_find() -> None:
    network, call = make("torchvision ViT-B/16")
    with pytest.warns(UserWarning, match="IA3 finds no projection to keys or values in Added"):
        adapted = adapt(network, NAMES, IA3(), example=(call, {}))
    assert all(site.details["inputs"] for site in adapted.adapter.sites)
    bert_network, call = make("BertModel")
    sites = adapt(bert_network, NAMES, IA3(), example=(call, {})).adapter.sites
    assert not [site.name for site in sites if site.name.endswith("attention.output.dense")]


def unreached_layers(adapted: Adapted) -> list[str]:
    """Layers that the kind is for, and that have no bank."""
    with_bank = {site.name for site in adapted.adapter.sites}
    chosen, _ = adapted.adapter.kind.choose(adapted.base)
    return [name for name in chosen if name not in with_bank]


def test_one_hot_trains_on_a_network_of_another_library() -> None:
    network, call = make("BertModel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = adapt(network, NAMES, SSF(), basis=OneHot(), example=(call, {}))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (adapted(*call, available=MASKS)[[0, 1, 3]] - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
