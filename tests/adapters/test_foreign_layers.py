"""Layers of other libraries that are a linear layer or a norm, and layers with weights that are left out by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import IA3, SSF, Additive, Bottleneck, Kind, LoRA, NormTuning, OneHot, ScaleOnly, adapt, load
from lightning_mm.adapters.layers.foreign import role_of
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise

NAMES = Modalities(["a", "b"])
WIDTH = 6
MASKS = NAMES.masks()


class Conv1D(nn.Module):
    """As in GPT-2: the weight is [in, out]."""

    def __init__(self, width: int, given: int) -> None:
        super().__init__()
        self.nf = width
        self.weight, self.bias = nn.Parameter(torch.randn(given, width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class RMSNorm(nn.Module):
    """As in Llama and T5; with an offset, as in Gemma."""

    def __init__(self, width: int, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.ones(width) - offset), offset

    def forward(self, hidden_states: Tensor) -> Tensor:
        variance = hidden_states.float().pow(2).mean(-1, keepdim=True)
        return (self.weight + self.offset) * (hidden_states * torch.rsqrt(variance + 1e-6))


class Projection(nn.Module):
    """A linear layer of another library, without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class LayerNorm2d(nn.Module):
    """As in SAM: the channels are on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        normed = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Router(nn.Module):
    """Returns several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = nn.functional.linear(x, self.weight)
        return scores, scores.argmax(-1)


class Net(nn.Module):
    def __init__(self, layer: nn.Module, pictures: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.layer, self.head = nn.Linear(4, WIDTH), nn.Linear(2, WIDTH), layer, nn.Linear(WIDTH, 3)
        self.pictures = pictures

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.a(a) + self.b(b).unsqueeze(1)
        x = self.layer(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2) if self.pictures else self.layer(x)
        return self.head(x[0] if isinstance(x, tuple) else x).mean(1)


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"a": torch.randn(3, 5, 4, generator=generator), "b": torch.randn(3, 2, generator=generator)}


def frozen_norm() -> nn.Module:
    norm = torchvision.ops.FrozenBatchNorm2d(WIDTH)
    norm.running_mean += 0.3
    norm.running_var *= 2
    return norm


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Conv1D": (lambda: Conv1D(WIDTH, WIDTH), "transposed"),
    "RMSNorm": (lambda: RMSNorm(WIDTH), "norm"),
    "RMSNorm plus one": (lambda: RMSNorm(WIDTH, 1.0), "norm_plus_one"),
    "Projection": (Projection, "linear"),
    "LayerNorm2d": (LayerNorm2d, "norm"),
    "FrozenBatchNorm2d": (frozen_norm, "norm"),
}
KINDS: dict[str, tuple[Callable[[], Kind], tuple[str, ...]]] = {
    "SSF": (SSF, ("linear", "transposed", "norm", "norm_plus_one")),
    "ScaleOnly": (ScaleOnly, ("linear", "transposed", "norm", "norm_plus_one")),
    "LoRA": (lambda: LoRA(2), ("linear", "transposed")),
    "NormTuning": (NormTuning, ("norm", "norm_plus_one")),
    "Bottleneck": (lambda: Bottleneck(2), ("linear", "transposed")),
    "IA3": (lambda: IA3(["head"], ["layer"]), ("linear", "transposed")),
}
PAIRS = [(layer, kind) for layer, (_, role) in LAYERS.items() for kind, (_, roles) in KINDS.items() if role in roles]


@pytest.mark.parametrize(("layer", "kind"), PAIRS)
def test_they_are_adapted_and_folded_as_the_layers_of_torch_are(layer: str, kind: str, tmp_path: Any) -> None:
    given = inputs()
    for basis in (Additive(), OneHot()):
        network = Net(LAYERS[layer][0](), pictures="2d" in layer).eval()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        filled = {
            name: torch.where(MASKS[:, k].view(-1, *[1] * (v.ndim - 1)), v, 0.0)
            for k, (name, v) in enumerate(given.items())
        }
        with torch.no_grad():
            base, baseline = network(**given), network(**filled)
            adapted = adapt(network, NAMES, KINDS[kind][0](), basis=basis, example=((), given))
            assert "layer" in {site.name for site in adapted.adapter.sites}
            torch.testing.assert_close(adapted(**given, available=MASKS), baseline, rtol=1e-6, atol=1e-6)
            assert torch.equal(adapted(**given, available=MASKS)[2], base[2])
            randomise(adapted)
        mixed = adapted(**given, available=MASKS)
        mixed.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.adapter.banks.parameters())
        with torch.no_grad():
            for row in range(3):
                one = {name: value[row : row + 1] for name, value in given.items()}
                alone = adapted(**one, available=MASKS[row : row + 1])
                torch.testing.assert_close(alone, mixed[row : row + 1], rtol=1e-4, atol=1e-5)
            try:
                folded = adapted.fold("a")(**given)
            except LightningMMError as error:
                assert "cannot be folded" in str(error)  # noqa: PT017
                assert kind == "Bottleneck" or (kind == "SSF" and "bias" not in network.layer.state_dict())
            else:
                torch.testing.assert_close(folded[0], mixed[0].detach(), rtol=1e-4, atol=1e-5)
            adapted.save(tmp_path)
            removed = adapted.remove()
            assert all(torch.equal(value, before[name]) for name, value in removed.state_dict().items())
            again = load(tmp_path, removed)
            assert torch.equal(again(**given, available=MASKS), mixed)


def test_what_is_recognised_and_what_is_not() -> None:
    found = {name: role_of(make()) for name, (make, _) in LAYERS.items()}
    assert found == {name: role for name, (_, role) in LAYERS.items()}
    others = [
        nn.Linear(3, 3),
        nn.PReLU(4),
        nn.LayerNorm(3),
        nn.Bilinear(2, 2, 2),
        LayerScale(),
        Router(),
        Net(nn.Identity()),
    ]
    assert [role_of(one) for one in others] == [None] * len(others)


class Tokens(Net):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer)
        self.token = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a + self.token[:4], b)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Net(LayerScale()), r"layer \(LayerScale is no linear, convolution, norm or attention layer: gamma\)"),
        (lambda: Net(Router()), r"layer \(Router is no linear"),
        (lambda: Net(nn.PReLU()), r"layer \(PReLU is no linear"),
        (lambda: Tokens(nn.Identity()), r"\(the network itself\) \(Tokens uses its own parameters: token\)"),
        (lambda: Net(torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(WIDTH, WIDTH)), {nn.Linear})),
         r"layer.0 \(Linear is no linear, convolution, norm or attention layer: packed weights\)"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
def test_others_are_named_with_the_reason_in_one_warning_and_in_the_summary(
    make: Callable[[], nn.Module], reason: str
) -> None:
    network = make().eval()
    for kind in (SSF(), LoRA(2)):
        with pytest.warns(UserWarning, match=f"1 layers are left out of the adapter: {reason}") as said:
            adapted = adapt(network, NAMES, kind, example=((), inputs()))
        adapted.remove()
        assert len(said) == 1
        assert len(adapted.adapter.left_out) == 1
        assert next(iter(adapted.adapter.left_out)) in adapted.adapter.summary().splitlines()[-1]


def test_a_transposed_convolution_is_named_by_lora() -> None:
    layer = nn.Sequential(nn.Unflatten(2, (WIDTH, 1)), nn.ConvTranspose2d(5, 5, 1), nn.Flatten(2))
    with pytest.warns(UserWarning, match=r"1 layers are left out of the adapter: layer.1 \(LoRA is not for this Conv"):
        adapt(Net(layer).eval(), NAMES, LoRA(2), example=((), inputs()))


def test_what_a_user_or_a_kind_leaves_out_is_in_the_summary_only() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = adapt(Net(LayerScale()), NAMES, SSF(), example=((), inputs()), exclude=["layer", "head"])
        assert adapted.adapter.left_out == {"layer": "in `exclude`", "head": "in `exclude`"}
        adapted = adapt(Net(nn.LayerNorm(WIDTH)), NAMES, LoRA(2), example=((), inputs()))
        assert adapted.adapter.left_out == {"layer": "LoRA is not for this LayerNorm"}


def test_lazy_layers_are_refused_before_anything_runs() -> None:
    with pytest.raises(LightningMMError, match=r"'layer\.(weight|bias)' of Net has no shape yet, as its layer is lazy"):
        adapt(Net(nn.LazyLinear(WIDTH)), NAMES, SSF(), example=((), inputs()))
