"""Several adapters of one base in one folder: saved and loaded by name, exchanged without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import SSF, Adapted, Additive, Kind, LoRA, OneHot, adapt, fingerprint, list_adapters, load
from lightning_mm.adapters.saving import folder as saving_module
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import (
    MIXED_INPUTS,
    MIXED_NAMES,
    MixedNetwork,
    mixed_call,
    randomise,
    trained_statistics,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")
KINDS = {"ssf": (SSF, Additive), "lora.rank-4": (LoRA, OneHot), "rgb+depth": (SSF, OneHot)}
FILES = ["adapter_config.json", "adapter_model.safetensors"]


def base() -> MixedNetwork:
    torch.manual_seed(0)
    network = MixedNetwork()
    trained_statistics(network)
    return network


def outputs(adapted: Adapted) -> Tensor:
    args, kwargs = mixed_call()
    return adapted(*args, **kwargs, available=Modalities(MIXED_NAMES).masks()).detach()


def save_all(network: MixedNetwork, folder: Path) -> dict[str, Tensor]:
    """Save one adapter of every kind, and give their outputs."""
    found = {}
    for seed, (name, (kind, basis)) in enumerate(KINDS.items()):
        made: Kind = kind()
        adapted = adapt(network, MIXED_NAMES, made, basis=basis(), inputs=MIXED_INPUTS, example=mixed_call(2))
        randomise(adapted, seed)
        found[name] = outputs(adapted)
        adapted.save(folder, name)
        adapted.remove()
    return found


def test_each_is_found_under_its_name_and_the_files_lie_in_its_own_folder(tmp_path: Path) -> None:
    network = base()
    expected = save_all(network, tmp_path / "new")
    assert list_adapters(tmp_path / "new") == sorted(KINDS)
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(KINDS)
    for name in KINDS:
        assert sorted(path.name for path in (tmp_path / "new" / name).iterdir()) == FILES
        adapted = load(tmp_path / "new", network, name)
        assert torch.equal(outputs(adapted), expected[name])
        adapted.remove()
        # The folder of a name is a saved adapter like any other.
        adapted = load(str(tmp_path / "new" / name), network)
        assert torch.equal(outputs(adapted), expected[name])
        adapted.remove()


def test_exchange_is_exact_and_hashes_the_base_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = base()
    network.head.weight.requires_grad_(False)
    network.image.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    required = [parameter.requires_grad for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    expected = save_all(network, tmp_path)
    hashed: list[str] = []
    monkeypatch.setattr(saving_module, "fingerprint", lambda one: hashed.append(type(one).__name__) or fingerprint(one))
    for name in ["ssf", "lora.rank-4", "ssf", "rgb+depth", "lora.rank-4", "ssf"]:
        hashed.clear()
        adapted = load(tmp_path, network, name)
        assert hashed == ["MixedNetwork"]
        assert torch.equal(outputs(adapted), expected[name])
        assert adapted.remove() is network
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        assert [parameter.requires_grad for parameter in network.parameters()] == required
        assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_name_must_be_given_where_there_are_some(tmp_path: Path) -> None:
    network = base()
    save_all(network, tmp_path)
    with pytest.raises(
        LightningMMError, match=r"holds adapters by name: \['lora.rank-4', 'rgb\+depth', 'ssf'\]; pass one"
    ):
        load(tmp_path, network)
    with pytest.raises(DataNotFoundError, match=r"no saved adapter in .*other: .*names exist: \['lora.rank-4'"):
        load(tmp_path, network, "other")
    # One without a name may lie beside them; no name then means that one.
    unnamed = load(tmp_path, network, "ssf")
    with torch.no_grad():
        next(unnamed.adapter.banks.parameters()).add_(1)
    expected = outputs(unnamed)
    unnamed.save(tmp_path)
    unnamed.remove()
    assert list_adapters(tmp_path) == sorted(KINDS)
    again = load(tmp_path, network)
    assert torch.equal(outputs(again), expected)
    again.remove()


def test_saving_again_replaces_one_and_leaves_the_others(tmp_path: Path) -> None:
    network = base()
    expected = save_all(network, tmp_path)
    adapted = load(tmp_path, network, "ssf")
    randomise(adapted, seed=9)
    changed = outputs(adapted)
    assert not torch.equal(changed, expected["ssf"])
    adapted.save(tmp_path, "ssf")
    adapted.remove()
    for name, right in {**expected, "ssf": changed}.items():
        adapted = load(tmp_path, network, name)
        assert torch.equal(outputs(adapted), right)
        adapted.remove()


def test_what_is_no_adapter_is_not_listed(tmp_path: Path) -> None:
    save_all(base(), tmp_path)
    (tmp_path / "ssf" / FILES[0]).unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("three adapters")
    (tmp_path / "rgb+depth").rename(tmp_path / ".hidden")
    assert list_adapters(tmp_path) == ["lora.rank-4"]
    with pytest.raises(DataNotFoundError, match=r"ssf: adapter_config.json is missing; .* \['lora.rank-4'\]"):
        load(tmp_path, base(), "ssf")
    with pytest.raises(DataNotFoundError, match=r"no saved adapters in .*nowhere: it is not a folder"):
        list_adapters(tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match=r"no saved adapter in .*nowhere"):
        load(tmp_path / "nowhere", base(), "ssf")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "a\\b", "/root", ".hidden", "two words", "a\n", "-flag", "a:b", FILES[0]]
)
def test_names_are_checked(name: str, tmp_path: Path) -> None:
    network = base()
    adapted = adapt(network, MIXED_NAMES, SSF(), inputs=MIXED_INPUTS, example=mixed_call(2))
    with pytest.raises(LightningMMError, match="the name of an adapter must be letters, digits"):
        adapted.save(tmp_path / "folder", name)
    assert not (tmp_path / "folder").exists()
    adapted.remove()
    with pytest.raises(LightningMMError, match=r"got '.*'; choose one such as 'lora'"):
        load(tmp_path, network, name)
