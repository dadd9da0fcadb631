"""Leaves of a call that are as long as the batch by chance: class prompts, queries, sizes, lists of class names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Adapted, Additive, BatchNormSSF, Kind, LoRA, NormTuning, adapt, refit_batch_norm
from lightning_mm.errors import LightningMMError
from tests.support.adapter_networks import randomise

pytestmark = pytest.mark.filterwarnings("ignore:.*left out of the adapter")
NAMES = Modalities(["a", "b"])
MASKS = NAMES.masks(["a", "a+b", "b", "a+b"])
COMPLETE = torch.tensor([1, 3])


class Both(nn.Module):
    """Two linear layers and a norm; subclasses say what the third input does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.extra, self.norm = nn.Linear(6, 8), nn.Linear(5, 8), nn.Linear(7, 8), nn.LayerNorm(8)

    def joined(self, a: Tensor, b: Tensor) -> Tensor:
        return self.norm(self.a(a) + self.b(b))


class Prompts(Both):
    def forward(self, a: Tensor, b: Tensor, prompts: Tensor) -> Tensor:
        return self.joined(a, b) @ self.extra(prompts).T


class PromptsAndMask(Both):
    """Two shared leaves that fit each other, and one of the samples."""

    def forward(self, a: Tensor, b: Tensor, prompts: Tensor, used: Tensor, weight: Tensor) -> Tensor:
        return weight.unsqueeze(1) * self.joined(a, b) @ (self.extra(prompts) * used.unsqueeze(1)).T


class Pooled(Both):
    """The output has no axis of prompts."""

    def forward(self, a: Tensor, b: Tensor, prompts: Tensor) -> Tensor:
        return self.joined(a, b) + self.extra(prompts).mean(0)


class Attended(Both):
    def forward(self, a: Tensor, b: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        keys, x = self.extra(batch["queries"]), self.joined(a, b)
        return {"y": (x @ keys.T).softmax(1) @ keys, "size": x.sum(1) * batch["size"][0] + len(batch["names"])}


class PerSample(Both):
    """The third input has one row for each sample."""

    def forward(self, a: Tensor, b: Tensor, extra: Tensor) -> Tensor:
        return self.joined(a, b) + self.extra(extra)


class Index(Both):
    """The third input reaches the output alone."""

    def forward(self, a: Tensor, b: Tensor, index: Tensor) -> dict[str, Tensor]:
        return {"y": self.joined(a, b), "index": index}


def inputs(network: nn.Module, size: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    given: dict[str, Any] = {
        "a": torch.randn(size, 6, generator=generator),
        "b": torch.randn(size, 5, generator=generator),
    }
    rows = torch.randn(4, 7, generator=generator)
    extra: dict[type, dict[str, Any]] = {
        Prompts: {"prompts": rows},
        Pooled: {"prompts": rows},
        PromptsAndMask: {"prompts": rows, "used": torch.tensor([1.0, 0, 1, 1]), "weight": given["a"][:, 0]},
        Attended: {"batch": {"queries": rows, "size": [2, 3, 4, 5], "names": ["w", "x", "y", "z"]}},
        PerSample: {"extra": torch.randn(size, 7, generator=generator)},
        Index: {"index": torch.arange(size)},
    }
    return {**given, **extra[type(network)]}


SHARED = {
    Prompts: ["prompts"],
    Pooled: ["prompts"],
    PromptsAndMask: ["prompts", "used"],
    Attended: ["batch.names", "batch.queries", "batch.size"],
    PerSample: [],
    Index: [],
}


def leaves(output: Any) -> list[Tensor]:
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("make", SHARED)
def test_what_all_samples_share_is_not_adapted_by_sample(make: type[Both], grouped: bool) -> None:
    for kind in (SSF(), LoRA(2), NormTuning()):
        network = make().eval()
        given = inputs(network)
        with torch.no_grad():
            expected = network(**given)
            adapted = adapt(network, NAMES, kind, basis=Additive(), example=((), given), grouped=grouped)
            assert adapted.adapter.for_all == SHARED[make]
            randomise(adapted)
            mixed = adapted(**given, available=MASKS)
            for one, other in zip(leaves(mixed), leaves(expected)):
                torch.testing.assert_close(one[COMPLETE], other[COMPLETE], rtol=1e-6, atol=1e-6)
            for row in range(4):
                alone = adapted(**one_sample(make, given, row), available=MASKS[row : row + 1])
                for one, other in zip(leaves(mixed), leaves(alone)):
                    torch.testing.assert_close(one[row : row + 1], other, rtol=1e-4, atol=1e-5)


def one_sample(make: type[Both], given: dict[str, Any], row: int) -> dict[str, Any]:
    own = {"a", "b", "weight", "extra", "index"}
    return {name: value[row : row + 1] if name in own else value for name, value in given.items()}


def test_an_example_of_one_sample_and_one_prompt() -> None:
    network = Prompts().eval()
    given = inputs(network, 1)
    given["prompts"] = given["prompts"][:1]
    adapted = adapt(network, NAMES, SSF(), example=((), given))
    assert [site.name for site in adapted.adapter.sites] == ["a", "b", "norm"]
    assert "extra" in adapted.adapter.left_out
    assert "left out: extra (its output does not grow with the batch" in adapted.adapter.summary()


def test_an_encoder_that_also_gets_shared_rows_runs_on_the_whole_batch() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.queries = nn.Linear(6, 8), nn.Linear(7, 8)

        def forward(self, a: Tensor, queries: Tensor) -> Tensor:
            x, keys = self.a(a), self.queries(queries)
            return (x @ keys.T).softmax(1) @ keys

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({"a": Encoder(), "b": nn.Linear(5, 8)})

        def forward(self, a: Tensor, b: Tensor, queries: Tensor) -> Tensor:
            return self.encoders["a"](a, queries) + self.encoders["b"](b)

    network = Network().eval()
    given = {**inputs(Prompts()), "queries": torch.randn(4, 7)}
    given.pop("prompts")
    for size in (3, 4):
        call = {**given, "queries": given["queries"][:size]}
        adapted = adapt(network, NAMES, SSF(), basis=Additive(), example=((), call))
        assert adapted.adapter.encoders == {"b": "encoders.b"}
        randomise(adapted)
        together = adapted(**call, available=MASKS)
        with adapted.adapter.every_row():
            torch.testing.assert_close(adapted(**call, available=MASKS), together, rtol=1e-5, atol=1e-6)
        adapted.remove()


def test_batch_norm_statistics_of_some_samples_keep_shared_leaves() -> None:
    class Normed(Prompts):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)  # type: ignore[assignment]

    network = Normed().eval()
    given = inputs(Prompts())
    adapted = adapt(network, NAMES, BatchNormSSF(), example=((), given))
    observed = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    refit_batch_norm(adapted.adapter, network, [((), given)], [observed])
    few = {name: value[[0, 2, 3]] if name != "prompts" else value for name, value in given.items()}
    statistics = {name: value.clone() for name, value in adapted.adapter.state_dict().items()}
    adapted.remove()
    again = adapt(network, NAMES, BatchNormSSF(), example=((), few))
    refit_batch_norm(again.adapter, network, [((), few)])
    row = again.adapter.basis.names.index("b")
    for name, value in again.adapter.state_dict().items():
        if value.ndim == 2:
            torch.testing.assert_close(statistics[name][row], value[row])


def test_inputs_of_another_form_are_one_message() -> None:
    class Pictures(Both):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3, padding=1)  # type: ignore[assignment]

        def forward(self, a: Any, b: Tensor) -> Tensor:
            return torch.stack([self.a(x[None]).mean((0, 2, 3)) for x in a]) + self.b(b)

    class Packed(Both):
        def forward(self, a: Any, b: Tensor) -> Tensor:
            padded, _ = pad_packed_sequence(PackedSequence(self.a(a.data), *a[1:]), batch_first=True)
            return padded.sum(1) + self.b(b)

    class Graph:
        def __init__(self) -> None:
            self.x = torch.randn(9, 6)

    class Nodes(Both):
        def forward(self, a: Any, b: Tensor, member: Tensor) -> Tensor:
            nodes = a.x if isinstance(a, Graph) else a
            return torch.zeros(len(b), 8).index_add(0, member, self.a(nodes)) + self.b(b)

    member, b = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3]), torch.randn(4, 5)
    pictures = [torch.rand(3, 8 + place, 9) for place in range(4)]
    cases: list[tuple[nn.Module, dict[str, Any], str]] = [
        (Pictures(), {"a": pictures, "b": b}, "'a' has 3; 'b' has 4. Pad lists of images"),
        (
            Pictures(),
            {"a": pictures[:3], "b": b[:3]},
            r"Pictures does not run on `example` with 3 samples|with 2 samples",
        ),
        (
            Packed(),
            {"a": pack_sequence([torch.randn(n, 6) for n in (5, 4, 3, 2)]), "b": b},
            "is a PackedSequence, whose",
        ),
        (Nodes(), {"a": torch.randn(9, 6), "b": b, "member": member}, "'a' has 9; 'b' has 4"),
        (
            Nodes(),
            {"a": Graph(), "b": b, "member": member},
            "modality 'a' is a Graph, whose samples cannot be told apart",
        ),
        (Nodes(), {"a": torch.randn(9, 6).to_sparse(), "b": b, "member": member}, "is a nested or sparse tensor"),
        (
            Prompts(),
            {"a": torch.randn(6, 4).T.contiguous(), "b": b},
            "arguments of the call do not fit Prompts.forward",
        ),
    ]
    for network, given, text in cases:
        with pytest.raises(LightningMMError, match=text):
            adapt(network.eval(), NAMES, SSF(), example=((), given))


def test_a_network_of_one_batch_size_is_one_message_with_what_was_tried() -> None:
    class Fixed(Both):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.joined(a, b).view(4, 2, 4)

    given = inputs(Index())
    given.pop("index")
    text = re.escape("Fixed does not run on `example` with 3 samples (RuntimeError: shape '[4, 2, 4]' is invalid")
    with pytest.raises(LightningMMError, match=f"{text}.*a \\[3, 6\\], b \\[3, 5\\]"):
        adapt(Fixed().eval(), NAMES, SSF(), example=((), given))


def adapters(kind: Callable[[], Kind]) -> Adapted:
    network = PerSample().eval()
    return adapt(network, NAMES, kind(), example=((), inputs(network)))


def test_rows_of_samples_are_adapted_as_before() -> None:
    assert [site.name for site in adapters(SSF).adapter.sites] == ["a", "b", "extra", "norm"]
