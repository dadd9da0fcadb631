"""LoRA at layers with a catch: the padding of embeddings, and layers that a part of an adapter leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.adapters import SSF, Additive, Basis, LoRA, OneHot, Together, adapt
from lightning_mm.modalities import Modalities
from tests.support.adapter_networks import randomise


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4, padding_idx=0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.words(a).sum(1) + b


@pytest.mark.parametrize("basis", [OneHot, Additive])
def test_padding_of_an_embedding_stays_zero(basis: type[Basis]) -> None:
    torch.manual_seed(0)
    call = (torch.tensor([[1, 2, 0], [0, 0, 0], [3, 0, 0]]), torch.zeros(3, 4))
    names = Modalities(["a", "b"])
    network = Padded()
    before = network(*call).detach()
    adapted = adapt(network, names, LoRA(2, layers=["words"]), basis=basis(), example=(call, {}))
    randomise(adapted)
    only_a = names.mask("a").expand(3, -1)
    with torch.no_grad():
        output, folded = adapted(*call, available=only_a), adapted.fold("a")(*call)
        assert not torch.allclose(output[0], before[0])
        assert not output[1].any()
        torch.testing.assert_close(folded, output)


def test_a_part_that_leaves_out_a_layer_says_so() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.net(a + b)

    call = (torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3))
    with pytest.warns(UserWarning, match=r"left out of a part of the adapter: net.0 by LoRA \(it has groups=2"):
        adapt(Two(), ["a", "b"], Together([SSF(), LoRA(2)]), example=(call, {}))
