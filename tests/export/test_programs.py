"""Exports of the package's networks and of odd ones: each file is the eager network, or there is no file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Adapted, Bottleneck, LoRA, Together
from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime, export_adapted, export_network
from lightning_mm.missing import Constant, MeanInput, Noise, save_mean_inputs
from lightning_mm.modalities import Modalities
from tests.support.export_networks import (
    PAIR,
    Pair,
    eager,
    late,
    late_inputs,
    pair,
    pair_call,
    pair_inputs,
    segmenter,
    segmenter_inputs,
    transformer,
    transformer_inputs,
    with_ssf,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")


def spoiled(value: Any, present: Tensor) -> Any:
    """NaN and other lengths in absent places."""
    if isinstance(value, dict):
        return {key: spoiled(leaf, present) for key, leaf in value.items()}
    there = present.view(-1, *[1] * (value.ndim - 1))
    return torch.where(there, value, torch.nan if value.is_floating_point() else value.flip(0))


def check_runs(
    adapted: Adapted, folder: Path, inputs: dict[str, Any], combinations: list[str], mixed: bool = True
) -> None:
    """Both backends are the hooks: each combination alone, and all of them mixed, with NaN in absent places."""
    names, batch = Modalities(inputs), len(next(iter(flatten(inputs))))
    for backend in ("torch", "onnx"):
        runtime = Runtime(folder, backend)
        for combination in combinations:
            with torch.no_grad():
                expected = adapted(inputs, available=names.mask(combination).expand(batch, -1))
            found = runtime({name: inputs[name] for name in names.parse(combination)})
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        if mixed:
            available = names.masks()[torch.arange(batch) % len(names.combinations())]
            given = {name: spoiled(value, available[:, k]) for k, (name, value) in enumerate(inputs.items())}
            with torch.no_grad():
                expected = adapted(inputs, available=available)
            torch.testing.assert_close(runtime(given, available=available), expected, rtol=1e-4, atol=1e-4)
        assert list(runtime._opened) == [*combinations, *["any"] * mixed]


def flatten(value: Any) -> Iterator[Tensor]:
    if isinstance(value, dict):
        for leaf in value.values():
            yield from flatten(leaf)
    else:
        yield value


@pytest.mark.slow
@pytest.mark.compiled
def test_networks_of_the_package(tmp_path: Path) -> None:
    """Convolutions over images and sequences; attention over sequences of any length; a segmenter."""
    adapted = with_ssf(late(mask_absent=False), late_inputs(4))
    index = export_adapted(adapted, ((late_inputs(4),), {}), tmp_path / "late", combinations=["motion"])
    assert list(index.programs) == ["motion", "any"]
    check_runs(adapted, tmp_path / "late", late_inputs(5, seed=1), ["motion"])

    adapted = with_ssf(transformer(), transformer_inputs(4), targets=["projections.*", "head"])
    dynamic = {"text.values": {1: "words"}, "audio.values": {1: "frames"}}
    call = ((transformer_inputs(4),), {})
    export_adapted(adapted, call, tmp_path / "transformer", combinations=["audio"], dynamic=dynamic)
    longer = transformer_inputs(5, seed=1, words=4, frames=9)
    check_runs(adapted, tmp_path / "transformer", longer, ["audio"])

    adapted, call = with_ssf(segmenter(), segmenter_inputs(2)), ((segmenter_inputs(2),), {})
    dynamic = {name: {2: "height", 3: "width"} for name in ("rgb", "depth")}
    export_adapted(adapted, call, tmp_path / "segmenter", combinations=["depth"], mixed=False, dynamic=dynamic)
    check_runs(adapted, tmp_path / "segmenter", segmenter_inputs(3, seed=1, height=24), ["depth"], mixed=False)
    with pytest.raises(LightningMMError, match=r"depth.pt2 is not for inputs of these sizes: .* % 8 == 0"):
        Runtime(tmp_path / "segmenter")({"depth": torch.zeros(2, 1, 20, 16)})


@pytest.mark.slow
@pytest.mark.compiled
def test_kinds_and_fills(tmp_path: Path) -> None:
    """A kind that folds, one that does not, a fill that draws numbers, one from a file; an older export is replaced."""
    generator = torch.Generator().manual_seed(0)
    save_mean_inputs({"rgb": torch.randn(3, generator=generator), "steps/values": torch.ones(2)}, tmp_path / "mean")
    folder, call, inputs = tmp_path / "export", pair_call(), pair_inputs(3, seed=2)
    masks = PAIR.masks()
    for number, (kind, fill) in enumerate(
        [
            (Together([SSF(), LoRA(2)]), Noise()),
            (SSF(), MeanInput(str(tmp_path / "mean"))),
            (Bottleneck(2), Constant({"rgb": 2.0})),
        ]
    ):
        adapted = pair(kind, fill)
        before = [adapted.adapter.fill, {key: value.clone() for key, value in adapted.state_dict().items()}]
        index = export_adapted(adapted, call, folder, formats=["torch"], combinations=["rgb", "steps"][number:] or None)
        assert list(index.programs) == [["rgb", "steps", "any"], ["steps", "any"], ["any"]][number]
        assert {path.name for path in folder.iterdir()} == {f"{name}.pt2" for name in index.programs} | {"export.json"}
        assert adapted.adapter.fill is before[0]
        assert all(torch.equal(value, before[1][key]) for key, value in adapted.state_dict().items())
        runtime, expected = Runtime(folder), eager(adapted, inputs, masks)["logits"]
        torch.testing.assert_close(runtime(inputs, available=masks)["logits"], expected)
        for row, name in enumerate(["rgb", "steps"]):
            alone = runtime({name: inputs[name]})["logits"]
            torch.testing.assert_close(alone[row], expected[row], rtol=1e-5, atol=1e-5)
    assert index.not_folded is not None
    assert "'rgb' cannot be folded: a bottleneck" in index.not_folded
    with pytest.raises(LightningMMError, match="a bottleneck is not a change of weights"):
        export_adapted(adapted, call, folder, formats=["torch"], mixed=False)
    assert list(index.programs) == list(Runtime(folder).index.programs), "the earlier export is still there"


class Lying(Pair):
    """Computes something else when it is traced."""

    def forward(self, image: Tensor, batch: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        outputs = super().forward(image, batch, scale)
        return {**outputs, "logits": outputs["logits"] + 0.01 * torch.compiler.is_compiling()}


class Counting(Pair):
    def forward(self, image: Tensor, batch: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        return super().forward(image + torch.ones(len(image), 3), batch, scale)


class Branching(Pair):
    def forward(self, image: Tensor, batch: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        return super().forward(image if image.sum() > 0 else -image, batch, scale)


class Talking(Pair):
    def forward(self, image: Tensor, batch: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        return {**super().forward(image, batch, scale), "name": "talking"}


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[Path]:
    """A folder two levels below one that must be empty at the end."""
    yield tmp_path / "new" / "export"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.compiled
def test_a_program_that_is_not_the_network_leaves_nothing(nothing_left: Path) -> None:
    assert list(nothing_left.parent.parent.iterdir()) == []
    for network, text in (
        (
            Lying(),
            r"rgb.pt2 differs from the eager network by 0\.0\d+ on random inputs, and the tolerance is 0.0001; nothing",
        ),
        (Counting(), r"torch.export cannot export Counting for 'rgb' .*write x.shape\[0\] for len\(x\)"),
        (Branching(), r"torch.export cannot export Branching for 'rgb' .*must not branch on the values of tensors"),
        (Talking(), "outputs of the network hold a str at 'output.name'"),
    ):
        with pytest.raises(LightningMMError, match=text):
            export_adapted(pair(network=network), pair_call(), nothing_left, formats=["torch"])
        assert not nothing_left.parent.exists(), "not even the folders"
    nothing_left.mkdir(parents=True)
    mine = nothing_left / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(LightningMMError, match=r"rgb\.pt2 differs"):
        export_adapted(pair(network=Lying()), pair_call(), nothing_left, formats=["torch"])
    assert list(nothing_left.iterdir()) == [mine]
    index = export_adapted(
        pair(network=Lying()), pair_call(), nothing_left, formats=["torch"], combinations=["rgb"], tolerance=0.1
    )
    assert 0.001 < index.programs["rgb"]["torch"].difference < 0.1
    for path in (*nothing_left.iterdir(), nothing_left, nothing_left.parent):
        path.unlink() if path.is_file() else path.rmdir()


def test_mistakes_are_answered_before_anything_is_traced(nothing_left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (image,), kwargs = pair_call()
    steps = kwargs["batch"]["steps"]
    adapted, start = pair(), export_adapted  # nothing is traced here, so the types may be checked

    def attempt(call: Any = ((image,), kwargs), **options: Any) -> None:
        start(adapted, call, nothing_left, **options)

    def with_batch(**batch: Any) -> Any:
        return (image,), {"batch": batch}

    for call, text in (
        (with_batch(steps=None), "the example has no tensor for modality 'steps'"),
        (with_batch(steps=steps, mask=image), "argument 'batch.mask' of Pair is a tensor of no modality"),
        (
            with_batch(steps={**steps, "caption": ["a", "b", "c", "d"]}),
            "'batch.steps.caption' of Pair is a list with one",
        ),
        (
            with_batch(steps=steps, caption=("a", "b", "c", "d")),
            "'batch.caption' of Pair is a tuple with one entry per",
        ),
        (((image[:3],), kwargs), r"input 'steps.values' of the example has shape \(4, 5, 2\); expected 3 samples"),
        (((image[:0],), kwargs), r"input 'rgb' of the example has shape \(0, 3\); expected one or more samples"),
        (with_batch(steps={**steps, "rate": torch.tensor(1.0)}), r"'steps.rate' .* shape \(\); expected 4 samples"),
    ):
        with pytest.raises(LightningMMError, match=text):
            attempt(call)
    for dynamic, text in (
        ({"image": {1: "wide"}}, r"`dynamic` names 'image', which is no input; the inputs are \['rgb', 'steps.values'"),
        ({"rgb": {2: "wide"}}, "expected an axis from 1 to 1 and an identifier other than 'batch'"),
        ({"rgb": {0: "size"}}, "expected an axis from 1 to 1"),
        ({"rgb": {1: "batch"}}, "an identifier other than 'batch'"),
        ({"rgb": {1: "a b"}}, "an identifier other than 'batch'"),
        ({"rgb": {1: "n"}, "steps.values": {1: "n"}}, "another axis called 'n' has 3; give them different names"),
    ):
        with pytest.raises(LightningMMError, match=text):
            attempt(dynamic=dynamic)
    adapted.adapter.fill = Noise()
    with pytest.raises(
        LightningMMError, match=r"axis 1 of 'steps.values' cannot change its size, as the fill Noise has 5"
    ):
        attempt(dynamic={"steps.values": {1: "time"}}, formats=["torch"])
    for options, text in (
        ({"formats": []}, "formats must be a non-empty list"),
        ({"formats": "onnx"}, "formats must be a non-empty list"),
        ({"formats": ["onxx"]}, r"format must be one of \['torch', 'onnx'\], got 'onxx'"),
        ({"combinations": ["depth"]}, "unknown modality 'depth'"),
        ({"tolerance": -1.0}, "tolerance must be 0 or more, got -1"),
    ):
        with pytest.raises(LightningMMError, match=text):
            attempt(**options)
    name_is_taken = export_network
    with pytest.raises(LightningMMError, match="'any' names the program for all combinations"):
        name_is_taken(nn.Identity(), ["any"], ((), {"input": {"any": image}}), nothing_left)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(LightningMMError, match=rf"needs {package}, .*: pip install 'lightning-mm\[export\]'"):
                attempt()
    file = nothing_left.parent.parent / "file"
    file.write_text("taken")
    with pytest.raises(
        LightningMMError, match=r"cannot write to .*file/export: a folder is needed at .*file, which is a file"
    ):
        start(pair(), pair_call(), file / "export", formats=["torch"])
    file.unlink()


@pytest.mark.compiled
def test_the_program_for_all_combinations_is_one_graph(tmp_path: Path) -> None:
    """A graph in it for each layer, as of a context of autocast, would make the export take twice as long."""
    export_adapted(pair(), pair_call(), tmp_path / "out", combinations=[], formats=["torch"])
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["any.pt2", "export.json"]
    graph = torch.export.load(tmp_path / "out" / "any.pt2").graph_module
    assert [name for name, module in graph.named_modules() if name and isinstance(module, torch.fx.GraphModule)] == []
