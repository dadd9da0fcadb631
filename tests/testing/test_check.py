"""``check`` on networks that were not written here, and on networks that break one promise each."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Additive, Bottleneck, LoRA
from lightning_mm.errors import LightningMMError
from lightning_mm.testing import CheckResult, check
from tests.support.foreign_networks import network_and_call
from tests.support.repository import REPOSITORY

QUICK = ("torchvision ConvNeXt", "transformers CLIP")
TWELVE = (
    *("torchvision MobileNetV3", "torchvision ConvNeXt", "torchvision Swin", "torchvision DenseNet"),
    *("timm ViT", "timm ConvNeXt V2", "timm Mixer"),
    *("smp UNet++", "smp DeepLabV3+"),
    *("transformers Llama", "transformers CLIP"),
    "MONAI UNet",
)
PROPERTIES = (
    "can be adapted",
    "base unchanged",
    "starts as the base",
    "absent inputs have no effect",
    "gradient only in the adapter",
    "mixed batch equals one by one",
    "saved and loaded",
    "threads do not meet",
    "folded networks agree",
    "exported program agrees",
    "exported for all combinations",
)


@pytest.mark.compiled
@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in TWELVE])
def test_twelve_networks_of_other_libraries(name: str) -> None:
    network, call = network_and_call(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    started = time.perf_counter()
    # programs take the longest; tests/export makes many
    result = check(network, (call, {}), modalities=["a", "b"], export=False)
    assert time.perf_counter() - started < 60
    assert result.failed == ()
    asked = {line.name: line.ok for line in result.lines if line.ok is not None}
    assert asked == dict.fromkeys(PROPERTIES[:-2], True)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in network.modules())


class Healthy(nn.Module):
    """Two encoders and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.middle, self.head = nn.Linear(3, 8), nn.Linear(2, 8), nn.Identity(), nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.a(a) + self.b(b))))


class Looks(Healthy):
    """Keeps the input before any hook, and the fill, and adds it to its features."""

    def __call__(self, a: Tensor, b: Tensor) -> Any:
        self.raw = a
        return super().__call__(a, b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(a, b) + self.raw.sum(1, keepdim=True)


class PassedTwice(Healthy):
    """Reads an input from another argument, too."""

    def forward(self, a: Tensor, b: Tensor, short_cut: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(a, b) + short_cut.sum(1, keepdim=True)


class Follows(nn.Module):
    """A layer that keeps the largest value that it has seen."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.detach().max()))
        return x / (1 + self.largest)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Changes(Healthy):
    def __init__(self) -> None:
        super().__init__()
        self.middle = Follows()


class Crowd(Healthy):
    """Subtracts the mean of the batch, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = Centred()


class NeedsMany(Healthy):
    """Its norm refuses a single sample."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.BatchNorm1d(8, track_running_stats=False)


class Counts(Healthy):
    """Counts its calls, and returns other outputs in each."""

    calls = 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(a, b) + self.calls


def inputs(count: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator), torch.randn(count, 2, generator=generator)


def checked(make: Callable[[], nn.Module], **options: Any) -> CheckResult:
    torch.manual_seed(0)
    call = inputs()
    if make is PassedTwice:
        call = (*call, call[0])
    return check(make(), (call, {}), modalities=["a", "b"], **{"export": False, **options})


BROKEN: dict[type[nn.Module], tuple[set[str], str]] = {
    Looks: (
        {PROPERTIES[3], PROPERTIES[8]},
        "nan in absent entries: output changed in 100.0% .*; read an input only",
    ),
    PassedTwice: ({PROPERTIES[3]}, "nan in absent entries: output changed in .*the argument that `inputs` names"),
    Changes: (
        {PROPERTIES[1]},
        "expected weights and buffers .*; got 'middle.largest', which .* changes; change it",
    ),
    Counts: ({PROPERTIES[1]}, "expected the same outputs .* two calls on the same inputs; got a difference of"),
    Crowd: ({PROPERTIES[5]}, r"first in the output of layer 'middle' \(Centred\); this layer mixes the samples"),
    NeedsMany: ({PROPERTIES[5]}, r"alone; got ValueError for a single sample \(Expected more than 1 value per channel"),
}
"""Networks that break a promise: the lines that say so, and what the first of them says."""


@pytest.mark.compiled
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_network_is_caught_by_the_right_line(broken: type[nn.Module]) -> None:
    result = checked(broken)
    names, why = BROKEN[broken]
    assert not result.ok
    assert {line.name for line in result.failed} == names
    assert re.search(why, result.failed[0].why), result.failed[0].why


@pytest.mark.compiled
def test_every_line_of_a_healthy_network() -> None:
    result = checked(Healthy, kinds=[SSF(), LoRA(2)], basis=Additive())
    assert result.ok
    assert [line.name for line in result.kinds[0].lines if line.ok] == list(PROPERTIES[:-2])
    first, second = result.kinds
    assert (first.kind, second.kind, first.basis) == ("SSF", "LoRA", "Additive")
    # two rows of a scale and a shift for 8 + 8 + 4 channels; b alone lacks a
    assert [(one.combination, one.parameters) for one in first.costs] == [("a", 40), ("b", 40), ("a+b", 0)]
    assert [one.operations for one in first.costs] == [2 * (3 * 8 + 2 * 8 + 8 * 4)] * 3 == [result.operations] * 3
    assert json.loads(json.dumps(result.to_dict()))["kinds"][1]["ok"] is True
    console = Console(file=StringIO(), width=100)
    result.print(console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(re.search(rf"{name} +yes ", printed) for name in PROPERTIES[:-2])
    assert "cost of a+b" in printed


@pytest.mark.compiled
def test_lines_that_are_no_question_do_not_fail() -> None:
    result = checked(Healthy, kinds=Bottleneck(2))
    assert result.ok
    (line,) = [one for one in result.lines if one.name == "folded networks agree"]
    assert (line.ok, line.why) == (None, "Bottleneck acts by hooks only")
    assert [one.operations for one in result.kinds[0].costs] == [None] * 3
    late = checked(Healthy, seconds=1e-9)
    assert {one.ok for one in late.lines} == {None}
    assert "the 1e-09 s are over, give more" in late.lines[0].why


def test_what_is_left_out_and_what_cannot_be_adapted() -> None:
    class Remembers(Healthy):
        def __init__(self) -> None:
            super().__init__()
            self.middle = nn.GRU(8, 8)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.middle((self.a(a) + self.b(b)).unsqueeze(0))[0][0])

    result = checked(Remembers)
    assert result.ok
    assert result.kinds[0].left_out == {"middle": "recurrent layers run all steps inside one call"}
    assert result.lines[-1].why == "1: middle (recurrent layers run all steps inside one call)"
    nothing = checked(nn.Identity)
    assert [(one.name, one.ok) for one in nothing.lines] == [("can be adapted", False)]
    assert "modality 'a': no argument 'a' in forward(input)" in nothing.lines[0].why


def test_wrong_arguments() -> None:
    with pytest.raises(LightningMMError, match=r"kinds must hold at least one kind such as SSF\(\), got none"):
        checked(Healthy, kinds=[])
    with pytest.raises(LightningMMError, match="seconds must be more than 0, got 0"):
        checked(Healthy, seconds=0)


@pytest.mark.compiled
def test_the_example_of_the_documentation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "check.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shown, failing = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("COLUMNS", "110")
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "example"}
    exec(code, space)
    assert plain(capsys.readouterr().out) == plain(shown)
    assert [line.name for line in space["result"].lines if line.ok] == list(PROPERTIES)

    network = space["Network"]()
    network.norm = nn.BatchNorm2d(8, track_running_stats=False)
    (line,) = check(network, space["call"], modalities=["rgb", "depth"], export=False).failed
    assert plain(f"{line.name}: {line.why}") == plain(failing)


def plain(text: str) -> str:
    """Words of a text, without what another machine rounds or times differently."""
    text = re.sub(r"difference (of )?[\d.]+(e-\d+)?|[\d.]+ times|\d+ kB|\d+ s;", "#", " ".join(text.split()))
    return text.replace("─", "").replace("  ", " ")
