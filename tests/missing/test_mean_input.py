"""The mean training sample as a fill: equal to a slow loop, kept in a file, moved with the module, in no state_dict."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, adapt, load
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import Fill, MeanInput, fill_inputs, mean_inputs, save_mean_inputs
from lightning_mm.testing import assert_missing_invariant

LENGTHS = [3, 5, 4, 5]


def samples() -> list[dict[str, Any]]:
    """Images, sequences with a length, bare sequences, and a nest with ids; every third image is absent."""
    torch.manual_seed(0)
    made = []
    for number, length in enumerate(LENGTHS):
        inputs: dict[str, Any] = {
            "rgb": None if number == 2 else 100 + torch.randn(2, 3, 3),
            "audio": {"values": torch.randn(length, 4), "length": length, "speaker": torch.randn(6)},
            "skeleton": torch.randn(length, 2, 3).numpy(),
            "text": {"ids": torch.arange(3), "vectors": [torch.randn(2), float(number)]},
        }
        if number == 3:
            del inputs["text"]
        made.append({"inputs": inputs, "target": 0})
    return made


def written(tmp_path: Path, modalities: list[str]) -> str:
    path = tmp_path / "means.safetensors"
    save_mean_inputs(mean_inputs(samples(), modalities), path)
    return str(path)


def test_means_equal_a_slow_loop() -> None:
    means = mean_inputs(samples(), ["rgb", "audio", "skeleton", "text"])
    inputs = [sample["inputs"] for sample in samples()]
    expected = {
        "rgb": torch.stack([one["rgb"] for one in inputs if one["rgb"] is not None]).mean(0),
        "audio/values": torch.cat([one["audio"]["values"] for one in inputs]).mean(0),
        "audio/speaker": torch.stack([one["audio"]["speaker"] for one in inputs]).mean(0),
        "skeleton": torch.cat([torch.as_tensor(one["skeleton"]).flatten(0, 1) for one in inputs]).mean(0),
        "text/vectors.0": torch.stack([one["text"]["vectors"][0] for one in inputs[:3]]).mean(0),
        "text/vectors.1": torch.tensor(1.0),
    }
    assert set(means) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(means[key], value, rtol=1e-6, atol=1e-6)
        assert means[key].dtype == torch.float32
    few = mean_inputs((sample for sample in samples()), ["rgb"], limit=1)
    assert torch.equal(few["rgb"], inputs[0]["rgb"])


def test_a_pass_in_float64_loses_nothing() -> None:
    many = ({"inputs": {"a": torch.tensor([1e4 + (n % 2) / 8])}} for n in range(4000))
    assert mean_inputs(many, ["a"])["a"].item() == 1e4 + 1 / 16


def test_only_valid_steps_count_where_sequences_are_padded_already() -> None:
    padded = [
        {"inputs": {"a": {"values": torch.tensor([[1.0], [3.0], [float("nan")]]), "length": 2}}},
        {"inputs": {"a": {"values": torch.tensor([[5.0], [7.0], [9.0]]), "length": torch.tensor(3)}}},
    ]
    assert mean_inputs(padded, ["a"])["a/values"].tolist() == [5.0]


def test_map_style_data_sets_without_an_end() -> None:
    class Endless(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"inputs": {"a": np.full(2, index, dtype=np.float32)}}

    assert mean_inputs(Endless(), ["a"])["a"].tolist() == [1.0, 1.0]


def test_absent_rows_are_the_mean_and_present_ones_are_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path, ["rgb", "audio", "skeleton"])
    means, fill = mean_inputs(samples(), ["rgb", "audio", "skeleton"]), MeanInput(path)
    inputs = {
        "rgb": torch.full((2, 2, 3, 3), float("nan")),
        "audio": {"values": torch.randn(2, 7, 4), "length": torch.tensor([7, 2]), "speaker": torch.randn(2, 6)},
        "skeleton": torch.randn(2, 9, 2, 3),
    }
    inputs["rgb"][0] = 1.0
    available = torch.tensor([[True, True, True], [False, False, False]])
    filled = fill_inputs(fill, ["rgb", "audio", "skeleton"], inputs, available)
    assert torch.equal(filled["rgb"], torch.stack([torch.ones(2, 3, 3), means["rgb"]]))
    assert torch.equal(filled["audio"]["values"][1], means["audio/values"].expand(7, 4))
    assert torch.equal(filled["audio"]["speaker"][1], means["audio/speaker"])
    assert torch.equal(filled["skeleton"][1], means["skeleton"].expand(9, 2, 3))
    assert filled["audio"]["length"].tolist() == [7, 1]
    assert torch.equal(filled["audio"]["values"][0], inputs["audio"]["values"][0])
    half = fill("rgb", torch.ones(1, 2, 3, 3, dtype=torch.bfloat16), torch.tensor([False]))
    assert half.dtype == torch.bfloat16
    assert fill("rgb", torch.ones(1, 2, dtype=torch.int64), torch.tensor([False])).tolist() == [[0, 0]]


def test_rows_are_buffers_outside_of_the_state_dict(tmp_path: Path) -> None:
    fill = MeanInput(written(tmp_path, ["rgb", "audio"]))
    assert fill.state_dict() == {}
    assert {buffer.shape for buffer in fill.buffers()} == {torch.Size([2, 3, 3]), torch.Size([4]), torch.Size([6])}
    assert all(buffer.is_meta for buffer in copy.deepcopy(fill).to("meta").buffers())


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.other = nn.Linear(18, 4), nn.Linear(3, 4)

    def forward(self, inputs: dict[str, Tensor], available: Tensor | None = None) -> Tensor:
        out: Tensor = self.rgb(inputs["rgb"].flatten(1)) + self.other(inputs["skeleton"].mean((1, 2)))
        return out


def test_adapters_use_it_and_save_it(tmp_path: Path) -> None:
    network, fill = Sum(), MeanInput(written(tmp_path, ["rgb", "skeleton"]))
    inputs = {"rgb": torch.randn(3, 2, 3, 3), "skeleton": torch.randn(3, 4, 2, 3)}
    adapted = adapt(network, ["rgb", "skeleton"], SSF(), fill=fill, example=((inputs,), {}))
    assert_missing_invariant(adapted, ["rgb", "skeleton"], inputs)
    adapted.save(tmp_path / "adapter")
    again = load(tmp_path / "adapter", adapted.remove())
    assert isinstance(again.adapter.fill, MeanInput)
    absent = torch.tensor([[False, True]]).expand(3, -1)
    expected = network.other(inputs["skeleton"].mean((1, 2))) + network.rgb(fill.row("rgb", inputs["rgb"]).flatten(1))
    torch.testing.assert_close(again(inputs, available=absent), expected)


def test_writing_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "means.safetensors"
    for value in (1.0, 2.0):
        save_mean_inputs({"a": torch.full((3,), value).double()}, path)
        assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert MeanInput(str(path)).row("a", torch.zeros(1, 3)).tolist() == [[2.0] * 3]


def test_files_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no mean inputs at .*nowhere; write them with .*save_mean_inputs"):
        MeanInput(str(tmp_path / "nowhere"))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(Path(written(tmp_path, ["rgb"])).read_bytes()[:-9])
    for content in (None, b"", b"no tensors at all"):
        if content is not None:
            damaged.write_bytes(content)
        with pytest.raises(LightningMMError, match="damaged or in another format"):
            MeanInput(str(damaged))
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(LightningMMError, match=r"holds no mean inputs \(format None\)"):
        MeanInput(str(tmp_path / "other"))


def test_batches_that_do_not_fit_are_told(tmp_path: Path) -> None:
    fill: Fill = MeanInput(written(tmp_path, ["rgb", "audio"]))
    absent = torch.tensor([False])
    with pytest.raises(LightningMMError, match=r"'rgb': the mean sample has shape \(2, 3, 3\), .* \(2, 4, 4\)"):
        fill("rgb", torch.zeros(1, 2, 4, 4), absent)
    with pytest.raises(LightningMMError, match=r"'audio/values': the mean sample has shape \(4,\), .* \(7, 5\)"):
        fill("audio", {"values": torch.zeros(1, 7, 5)}, absent)
    with pytest.raises(LightningMMError, match=r"holds no mean of 'text', only of \['audio/speaker', 'audio/values'"):
        fill("text", torch.zeros(1, 2), absent)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, None], "modality 'a' is in none of the samples"),
        ([torch.arange(3)], "'a' holds no floating-point numbers, and integers"),
        (
            [torch.zeros(2, 3), torch.zeros(2, 4)],
            r"'a' have shapes \(2, 3\) and \(2, 4\); they may differ in",
        ),
        ([torch.zeros(3), torch.zeros(2, 3)], "have shapes"),
        ([torch.tensor([1.0, float("nan")])], "'a' holds NaN or infinity"),
        ([{"x": torch.zeros(2)}, {"y": torch.zeros(2)}], "'a/x' is in some samples of 'a' and not in others"),
    ],
)
def test_data_without_a_mean_are_told(values: list[Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        mean_inputs([{"inputs": {"a": value}} for value in values], ["a"])
