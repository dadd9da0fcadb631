"""What the files of a saved adapter hold: the whole state of the adapter, and a hash of the whole base."""

from __future__ import annotations

import json
from pathlib import Path

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
