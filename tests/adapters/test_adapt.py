"""`adapt` on a network with keyword inputs, BatchNorm, a GRU, a merged batch axis and a transformer layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_mm.adapters import SSF, Adapted, Additive, Basis, OneHot, adapt, load
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import (
    MIXED_INPUTS,
    MIXED_NAMES,
    MixedNetwork,
    mixed_call,
    randomise,
    row_of,
    trained_statistics,
)

BASES = [OneHot, Additive]
pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")


def make(basis: type[Basis], moved: bool = True, batch_first: bool = True) -> tuple[MixedNetwork, Adapted]:
    torch.manual_seed(0)
    network = MixedNetwork(batch_first=batch_first)
    trained_statistics(network)
    adapted = adapt(network, MIXED_NAMES, SSF(), basis=basis(), inputs=MIXED_INPUTS, example=mixed_call(2))
    if moved:
        randomise(adapted)
    return network, adapted


def masks() -> torch.Tensor:
    return Modalities(MIXED_NAMES).masks()


@pytest.mark.parametrize("basis", BASES)
def test_fresh_adapter_is_the_zero_fill_baseline(basis: type[Basis]) -> None:
    torch.manual_seed(0)
    plain = MixedNetwork()
    trained_statistics(plain)
    plain.eval()
    _, adapted = make(basis, moved=False)
    (picture,), kwargs = mixed_call()
    available = masks()
    filled = (
        torch.where(available[:, 0].view(-1, 1, 1, 1), picture, 0.0),
        torch.where(available[:, 1:2], kwargs["text"], 0),
        torch.where(available[:, 2].view(-1, 1, 1), kwargs["extra"]["audio"], 0.0),
    )
    expected = plain(filled[0], text=filled[1], extra={"audio": filled[2]})
    assert torch.equal(adapted(picture, **kwargs, available=available), expected)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("batch_first", [True, False])
def test_mixed_batch_equals_one_row_at_a_time(basis: type[Basis], batch_first: bool) -> None:
    _, adapted = make(basis, batch_first=batch_first)
    call, available = mixed_call(), masks()
    together = adapted(*call[0], **call[1], available=available)
    for row in range(len(available)):
        one = row_of(call, row)
        alone = adapted(*one[0], **one[1], available=available[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("basis", BASES)
def test_all_present_is_bit_identical_to_the_base(basis: type[Basis]) -> None:
    network, adapted = make(basis)
    call = mixed_call()
    full = torch.ones(7, 3, dtype=torch.bool)
    with torch.enable_grad():
        routed = adapted(*call[0], **call[1], available=full)  # banks run here
    with torch.no_grad():
        short_cut = adapted(*call[0], **call[1], available=full)
    base = adapted.remove().eval()
    assert base is network
    with torch.enable_grad():
        expected = network(*call[0], **call[1])
    assert torch.equal(routed, expected)
    torch.testing.assert_close(short_cut, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("basis", BASES)
def test_adaptation_changes_every_incomplete_combination(basis: type[Basis]) -> None:
    _, adapted = make(basis)
    call, available = mixed_call(), masks()
    output = adapted(*call[0], **call[1], available=available)
    with adapted.adapter.disabled():
        zero_fill = adapted(*call[0], **call[1], available=available)
    # the attention's own fast path, taken without gradients, differs in the last bits
    changed = (output - zero_fill).abs().amax(1) > 1e-5
    assert changed.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_absent_inputs_reach_neither_outputs_nor_gradients(basis: type[Basis], poison: float) -> None:
    _, adapted = make(basis)
    (picture,), kwargs = mixed_call()
    available = masks()
    results = []
    for value in (None, poison):
        audio, text, image = kwargs["extra"]["audio"].clone(), kwargs["text"].clone(), picture.clone()
        if value is not None:
            image[~available[:, 0]] = value
            text[~available[:, 1]] = 10
            audio[~available[:, 2]] = value
        adapted.zero_grad()
        output = adapted(image, text=text, extra={"audio": audio}, available=available)
        output.square().sum().backward()
        results.append((output.detach(), [p.grad.clone() for p in adapted.adapter.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


def test_a_row_that_is_not_finite_stays_in_its_own_samples() -> None:
    for basis, row in ((OneHot, 0), (Additive, 0)):
        _, adapted = make(basis)
        with torch.no_grad():
            for parameter in adapted.adapter.banks.parameters():
                parameter[row] = float("nan")
        available = masks()
        output = adapted(*mixed_call()[0], **mixed_call()[1], available=available)
        uses = adapted.adapter.basis.weights(available)[:, row]
        assert output.isnan().any(1).equal(uses)


def test_gradient_reaches_only_the_rows_in_use() -> None:
    _, adapted = make(OneHot)
    available = masks()[[0, 3]].repeat(4, 1)[:7]
    adapted(*mixed_call()[0], **mixed_call()[1], available=available).square().sum().backward()
    for bank in adapted.adapter.banks.values():
        assert bank.scale.grad[[1, 2, 4, 5]].abs().sum() == 0
        assert bank.shift.grad[[0, 3]].abs().sum() > 0


@pytest.mark.parametrize("basis", BASES)
def test_fold_equals_hooks(basis: type[Basis]) -> None:
    _, adapted = make(basis)
    call = mixed_call()
    for combination in Modalities(MIXED_NAMES).combinations():
        folded = adapted.fold(combination)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())
        available = Modalities(MIXED_NAMES).mask(combination).expand(7, -1)
        expected = adapted(*call[0], **call[1], available=available)
        torch.testing.assert_close(folded(*call[0], **call[1]), expected, rtol=1e-5, atol=1e-6)
    before = {key: value.clone() for key, value in adapted.base.state_dict().items()}
    adapted.fold("image")
    assert all(torch.equal(value, before[key]) for key, value in adapted.base.state_dict().items())


def test_base_stays_frozen_whatever_mode_is_set() -> None:
    network, adapted = make(OneHot)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for step in range(3):
        adapted.train()
        network.train()  # even set directly
        optimizer.zero_grad()
        call = mixed_call(seed=step)
        adapted(*call[0], **call[1], available=masks()).square().sum().backward()
        optimizer.step()
    assert not any(module.training for module in network.modules())
    assert list(before) == list(network.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    adapted.remove()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("basis", BASES)
def test_save_and_load(basis: type[Basis], tmp_path) -> None:
    network, adapted = make(basis)
    call, available = mixed_call(), masks()
    expected = adapted(*call[0], **call[1], available=available)
    adapted.save(tmp_path)
    adapted.remove()
    again = load(tmp_path, network)
    assert torch.equal(again(*call[0], **call[1], available=available), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    again.remove()
    with torch.no_grad():
        network.head.bias[0] += 1
    with pytest.raises(LightningMMError, match="another network or has other weights"):
        load(tmp_path, network)


def test_damaged_or_absent_files_are_named(tmp_path) -> None:
    network, adapted = make(OneHot)
    with pytest.raises(FileNotFoundError, match="no saved adapter in"):
        load(tmp_path, network)
    adapted.save(tmp_path)
    adapted.remove()
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(LightningMMError, match="damaged"):
        load(tmp_path, network)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["deepcopy", "pickle"]
)
def test_copies_are_independent(clone) -> None:
    _, adapted = make(OneHot)
    call, available = mixed_call(), masks()
    expected = adapted(*call[0], **call[1], available=available)
    copied = clone(adapted)
    assert torch.equal(copied(*call[0], **call[1], available=available), expected)
    randomise(copied, seed=9)
    assert torch.equal(adapted(*call[0], **call[1], available=available), expected)
    assert not torch.equal(copied(*call[0], **call[1], available=available), expected)
    copied.remove()
    assert not any(module._forward_hooks for module in copied.base.modules())
    assert any(module._forward_hooks for module in adapted.base.modules())


def test_mistakes_are_answered_with_the_way_out() -> None:
    network, call = MixedNetwork(), mixed_call(2)

    def attempt(**changes):
        settings = {"inputs": MIXED_INPUTS, "example": call, **changes}
        return adapt(network, settings.pop("names", MIXED_NAMES), SSF(), **settings)

    with pytest.raises(LightningMMError, match=r"modality 'audio': no argument 'nothing'.*inputs="):
        attempt(inputs={"image": "picture", "audio": "nothing"})
    with pytest.raises(LightningMMError, match="which are not among the modalities"):
        attempt(inputs={**MIXED_INPUTS, "depth": "picture"})
    with pytest.raises(LightningMMError, match="no layer of MixedNetwork matches 'decoder"):
        attempt(targets=["decoder.*"])
    with pytest.raises(LightningMMError, match="it never runs as a module"):
        attempt(targets=["mixer.self_attn.out_proj"])
    with pytest.raises(LightningMMError, match="is a GRU; SSF adapts"):
        attempt(targets=["reader"])
    _, adapted = make(OneHot)
    with pytest.raises(LightningMMError, match=r"expected Bool\[B, 3\]"):
        adapted(*call[0], **call[1], available=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(LightningMMError, match="has 3 rows, the inputs have 2"):
        adapted(*call[0], **call[1], available=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(LightningMMError, match="unknown modality 'depth'"):
        adapted.fold("depth")
    with pytest.raises(LightningMMError, match="already attached to a network"):
        adapted.adapter.attach(nn.Linear(1, 1))


def test_layers_that_never_fire_are_listed_once() -> None:
    with pytest.warns(UserWarning, match=r"left out .*: reader \(recurrent .* mixer.self_attn.out_proj"):
        adapted = adapt(MixedNetwork(), MIXED_NAMES, SSF(), inputs=MIXED_INPUTS, example=mixed_call(2))
    sites = {site.name: site for site in adapted.adapter.sites}
    assert set(sites) == {
        "image.0", "image.1", "frames", "mixer.self_attn", "mixer.linear1", "mixer.linear2", "mixer.norm1",
        "mixer.norm2", "head",
    }  # fmt: skip
    assert sites["frames"].layouts[0].order == "sample_major"
