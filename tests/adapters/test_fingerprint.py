"""The fingerprint of networks with state that is no dense tensor: it is stable, and another value is another one."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive, adapt, fingerprint, load
from lightning_mm.errors import LightningMMError

NAMES = Modalities(["a", "b"])
CALL = {"a": torch.ones(2, 4), "b": torch.ones(2, 3)}


class Net(nn.Module):
    def __init__(self, buffer: Tensor | None = None, extra: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.norm = nn.Linear(4, 5), nn.Linear(3, 5), nn.LayerNorm(5)
        self.register_buffer("buffer", buffer)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(self.a(a) + self.b(b))


def matrix(value: float) -> Tensor:
    return torch.diag(torch.tensor([value, 1.0, 2.0]))


PAIRS: dict[str, Callable[[float], Net]] = {
    "dense": lambda x: Net(matrix(x)),
    "COO": lambda x: Net(matrix(x).to_sparse()),
    "CSR": lambda x: Net(matrix(x).to_sparse_csr()),
    "CSC": lambda x: Net(matrix(x).to_sparse_csc()),
    "half": lambda x: Net(matrix(x).bfloat16()),
    "nested": lambda x: Net(torch.nested.nested_tensor([torch.full((2,), x), torch.ones(3)])),
    "quantised": lambda x: Net(torch.quantize_per_tensor(matrix(x), 0.1, 0, torch.qint8)),
    "by channel": lambda x: Net(torch.quantize_per_channel(matrix(x), torch.ones(3), torch.zeros(3), 0, torch.qint8)),
    "nest": lambda x: Net(extra={"labels": ["a", x], "table": torch.full((2,), x), "none": None}),
    "bytes": lambda x: Net(extra=BytesIO(str(x).encode())),
    "text": lambda x: Net(extra=str(x)),
}


@pytest.mark.filterwarnings("ignore:.*prototype", "ignore:.*beta state", "ignore:torch.quantize_per")
@pytest.mark.parametrize("name", PAIRS)
def test_it_is_saved_and_loaded_and_another_value_is_refused(name: str, tmp_path: Path) -> None:
    network = PAIRS[name](3.0)
    assert fingerprint(network) == fingerprint(PAIRS[name](3.0))
    assert fingerprint(network) != fingerprint(PAIRS[name](4.0))
    adapt(network, NAMES, SSF(), basis=Additive(), example=((), CALL)).save(tmp_path)
    load(tmp_path, PAIRS[name](3.0))
    with pytest.raises(LightningMMError, match="trained on a base with fingerprint"):
        load(tmp_path, PAIRS[name](4.0))


def test_objects_count_by_their_type() -> None:
    one, other = Net(extra=object()), Net(extra=object())
    assert fingerprint(one) == fingerprint(other) != fingerprint(Net(extra=Path("x")))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per")
def test_dynamically_quantised_layers(tmp_path: Path) -> None:
    network = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})
    with pytest.warns(UserWarning, match="2 layers are left out of the adapter: a, b"):
        adapted = adapt(network, NAMES, SSF(), basis=Additive(), example=((), CALL))
    adapted.save(tmp_path)
    assert load(tmp_path, adapted.remove()).adapter.sites == adapted.adapter.sites


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(LightningMMError, match=r"the weight 'a.*' has no values"):
        fingerprint(Net().to("meta"))
