"""Masks that an adapted network is called with: each row has a modality, and each call its own rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Additive, Hyper, OneHot, Pairwise, adapt, load
from lightning_mm.errors import LightningMMError


class Net(nn.Module):
    """Two encoders and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"t1": nn.Linear(6, 8), "flair": nn.Linear(5, 8)})
        self.head = nn.Linear(8, 3)

    def forward(self, t1: Tensor, flair: Tensor) -> Tensor:
        return self.head(torch.relu(self.encoders["t1"](t1) + self.encoders["flair"](flair)))


def test_a_row_without_any_modality_is_refused_by_every_basis() -> None:
    x = {"t1": torch.randn(3, 6), "flair": torch.randn(3, 5)}
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    for basis in (OneHot(), Additive(), Pairwise(), Hyper()):
        for grouped in (False, True):
            adapted = adapt(Net().eval(), ["t1", "flair"], SSF(), basis=basis, example=((), x), grouped=grouped)
            with pytest.raises(LightningMMError, match=r"`available`: no modality is available in rows \[1\] of the"):
                adapted(**x, available=mask)
            with adapted.adapter.disabled(), pytest.raises(LightningMMError, match="no modality is available"):
                adapted(**x, available=mask)
            assert adapted(**x, available=mask[[0, 0, 2]]).shape == (3, 3)
            empty = {name: value[:0] for name, value in x.items()}
            assert grouped or adapted(**empty, available=mask[:0]).shape == (0, 3)
            basis = type(basis)()


def test_calls_of_one_step_have_masks_of_their_own() -> None:
    x, y = ({"t1": torch.randn(n, 6), "flair": torch.randn(n, 5)} for n in (3, 2))
    first, second = torch.tensor([[True, False]] * 3), torch.tensor([[False, True], [True, True]])
    adapted = adapt(Net().eval(), ["t1", "flair"], SSF(), example=((), x))
    for parameter in adapted.adapter.parameters():
        nn.init.normal_(parameter, std=0.2)
    alone = adapted(**x, available=first), adapted(**y, available=second), adapted(**y)
    with adapted.adapter.using(first):
        together = [adapted.base(**x)]
        with pytest.raises(LightningMMError, match=r"has 3 rows, the inputs have 2 samples.*adapter.using\(its mask\)"):
            adapted.base(**y)
        for mask in (second, None):
            with adapted.adapter.using(mask):
                together.append(adapted.base(**y))
        assert torch.equal(adapted.base(**x), alone[0])
    assert all(torch.equal(one, other) for one, other in zip(alone, together))


@pytest.mark.parametrize("grouped", [False, True])
def test_an_input_that_is_none_is_absent_or_an_error(grouped: bool, tmp_path: Path) -> None:
    x = {"t1": torch.randn(3, 6), "flair": torch.randn(3, 5)}
    network = Net().eval()
    adapted = adapt(network, ["t1", "flair"], SSF(), example=((), x), grouped=grouped)
    absent = torch.tensor([True, False]).expand(3, 2)
    expected = adapted(**x, available=absent)
    torch.testing.assert_close(adapted(t1=x["t1"], flair=None, available=absent), expected, rtol=0, atol=0)
    torch.testing.assert_close(adapted(x["t1"], None, available=absent), expected, rtol=0, atol=0)
    partly = torch.tensor([[True, False], [True, True], [True, True]])
    with pytest.raises(
        LightningMMError,
        match=r"input of modality 'flair' is None, and `available` says that samples \[1, 2\] have it; pass a tensor",
    ):
        adapted(t1=x["t1"], flair=None, available=partly)
    adapted.save(tmp_path)
    adapted.remove()
    loaded = load(tmp_path, network)
    with pytest.raises(
        LightningMMError, match="'flair' is None, and this adapter has no example; pass a tensor of the"
    ):
        loaded(t1=x["t1"], flair=None, available=absent)


def test_a_network_that_takes_none_gets_it() -> None:
    class Optional(Net):
        def forward(self, t1: Tensor, flair: Tensor | None = None) -> Tensor:
            return super().forward(t1, torch.zeros(len(t1), 5) if flair is None else flair)

    x = {"t1": torch.randn(3, 6), "flair": torch.randn(3, 5)}
    adapted = adapt(Optional().eval(), ["t1", "flair"], SSF(), example=((), x))
    mask = torch.tensor([[True, False], [True, True], [True, True]])
    assert adapted(t1=x["t1"], available=mask).shape == (3, 3)
