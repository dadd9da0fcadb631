"""What the files of a saved adapter hold: the whole state of the adapter, and a hash of the whole base."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, adapt, fingerprint, load
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Learned
from tests.support.adapter_networks import randomise


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 4), nn.Linear(2, 4), nn.BatchNorm1d(4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        summed: Tensor = self.norm(self.a(a) + self.b(b))
        return summed


def base() -> Sum:
    torch.manual_seed(0)
    return Sum()


def test_the_fingerprint_covers_every_parameter_and_buffer() -> None:
    network = base()
    seen = [fingerprint(network)]
    for tensor in network.state_dict().values():
        tensor += 1
        seen.append(fingerprint(network))
    assert len(set(seen)) == len(seen)


def test_a_base_with_other_statistics_is_refused(tmp_path: Path) -> None:
    call = ((torch.ones(2, 3), torch.ones(2, 2)), {})
    adapt(base(), ["a", "b"], SSF(), example=call).save(tmp_path)
    other = base()
    other.norm.running_mean += 1
    with pytest.raises(LightningMMError, match="fingerprint"):
        load(tmp_path, other)


def test_a_learned_fill_comes_back_as_it_was_trained(tmp_path: Path) -> None:
    call = ((torch.ones(2, 3), torch.ones(2, 2)), {})
    adapted = adapt(base(), ["a", "b"], SSF(), example=call, fill=Learned({"a": 3, "b": 2}, channel_axis=-1))
    randomise(adapted)
    adapted.save(tmp_path)
    again = load(tmp_path, base())
    trained, found = adapted.adapter.state_dict(), again.adapter.state_dict()
    assert any(key.startswith("fill.") and value.any() for key, value in trained.items())
    assert trained.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in trained.items())
    available = torch.tensor([[True, False], [False, True]])
    assert torch.equal(again(*call[0], available=available), adapted(*call[0], available=available))


def saved(folder: Path) -> dict[str, Any]:
    adapt(base(), ["a", "b"], SSF(), example=((torch.ones(2, 3), torch.ones(2, 2)), {})).save(folder)
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def test_a_changed_or_mixed_folder_is_refused(tmp_path: Path) -> None:
    config = saved(tmp_path)
    config["sites"][0]["left_alone"] = not config["sites"][0].get("left_alone", False)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LightningMMError, match="it was changed after it was saved"):
        load(tmp_path, base())
    saved(tmp_path)
    other = adapt(base(), ["a", "b"], SSF(), example=((torch.ones(2, 3), torch.ones(2, 2)), {}))
    randomise(other)
    other.save(tmp_path / "other")
    (tmp_path / "other" / "adapter_model.safetensors").replace(tmp_path / "adapter_model.safetensors")
    with pytest.raises(LightningMMError, match="were not saved together"):
        load(tmp_path, base())


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (["sites", 0, "foldable"], "yes", "sites.0.foldable: expected a valid boolean, got 'yes'"),
        (["sites", 0, "channels"], 0, "sites.0.channels: expected greater than or equal to 1"),
        (["sites", 0, "layouts", 0, "channel_axis"], 9, "axes below 2"),
        (["sites", 0, "layouts", 0, "order"], "odd", "'plain', 'sample_major', 'step_major' or 'any', got 'odd'"),
        (["sites", 0, "name"], "c", r"adapts layers that this Sum does not have: \['c'\]"),
        (["sites", 1, "name"], "a", "distinct layers in sites"),
        (["base_fingerprint"], "abc", "base_fingerprint: expected"),
        (["config_sha256"], "abc", "config_sha256: expected"),
        (["rows"], ["a"], "rows: OneHot has the rows"),
        (["encoders"], {"c": "a"}, "encoders of some of the modalities"),
        (["encoders"], {"a": "c"}, r"does not have: \['c'\]"),
        (["inputs", "a", "name"], "c", "reads modality 'a' from argument 'c'"),
        (["inputs", "a", "position"], 1, "reads modality 'a' from argument 'a' at position 1"),
        (["kind", "class_path"], "os.system", "expected a Kind in the saved adapter, got 'os.system'"),
        (["kind", "class_path"], "antigravity.Kind", "the class 'antigravity.Kind' .* import antigravity first"),
        (["kind", "init_args"], {"rank": 3}, r"damaged \(TypeError: SSF\(\) takes no arguments\)"),
        (["grouped"], 1, "grouped: expected a valid boolean, got 1"),
        (["notes"], "x", "unknown key 'notes'"),
        (["version"], float("nan"), "NaN is no number of JSON"),
    ],
)
def test_each_field_of_a_config_is_checked(keys: list[Any], value: Any, expected: str, tmp_path: Path) -> None:
    config = saved(tmp_path)
    if keys != ["config_sha256"]:
        del config["config_sha256"]  # older releases wrote none
    place: Any = config
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(LightningMMError, match=expected):
        load(tmp_path, base())
    assert "antigravity" not in sys.modules, "a file does not choose what is imported"


def test_weights_and_config_of_two_saves_are_refused(tmp_path: Path) -> None:
    call = ((torch.ones(2, 3), torch.ones(2, 2)), {})
    adapted = adapt(base(), ["a", "b"], SSF(), example=call)
    adapted.save(tmp_path, "first")
    randomise(adapted)
    adapted.save(tmp_path, "second")
    weights, config = (tmp_path / "first" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    weights.write_bytes((tmp_path / "second" / weights.name).read_bytes())
    with pytest.raises(LightningMMError, match=r"were not saved together: a save was killed half way"):
        load(tmp_path, base(), "first")

    kept = json.loads(config.read_text())
    assert kept.pop("weights_sha256")
    config.write_text(json.dumps(kept))  # as an older version has written it
    found = load(tmp_path, base(), "first").adapter.state_dict()
    assert all(torch.equal(found[key], value) for key, value in adapted.adapter.state_dict().items())
