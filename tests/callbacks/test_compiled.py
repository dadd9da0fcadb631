"""A fit in which the network and its adapter are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_mm.errors import LightningMMError
from tests.support.their_module import callback, loader, module, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # read by torch.compile
]


def count_graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compile without a C++ compiler, and note every graph."""
    graphs: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(len(example))
        return graph.forward

    own = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: own(self, backend=backend))
    return graphs


@pytest.mark.compiled
def test_a_compiled_fit_is_that_of_an_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    graphs = count_graphs(monkeypatch)
    eager, compiled = module(), module()
    trainer(tmp_path, [callback()], epochs=3).fit(eager, loader(), loader())
    assert not graphs
    trainer(tmp_path, [callback(compile=True)], epochs=3).fit(compiled, loader(), loader())
    # one for training and one for validation, in two parts each, since the mask is not an argument of this network;
    # none for another batch, combination or epoch
    assert len(graphs) == 4
    for key, value in eager.adapter.state_dict().items():
        torch.testing.assert_close(compiled.adapter.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert compiled.net._compiled_call_impl is None


def test_compiled_and_kept_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_graphs(monkeypatch)
    hook = callback(
        compile=True, keep_encoder_outputs={}, exclude=["camera*"], encoders={"camera": "camera", "radar": "radar"}
    )
    with pytest.raises(LightningMMError, match="compiled code cannot look outputs up; do not compile the network, or"):
        trainer(tmp_path, [hook], epochs=1).fit(module(), loader(), loader())
