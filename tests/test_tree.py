"""Maps over nests: the same containers, each row where it belongs, whatever the leaves are."""

from __future__ import annotations

import operator
from collections import OrderedDict, UserDict, defaultdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm.data.collate import Collate
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.tree import (
    batch_size,
    dotted,
    is_column,
    leaves_of,
    map_leaves,
    map_tensors,
    merge_rows,
    take_rows,
    tensors_of,
)

B = 4


class Clip(NamedTuple):
    frames: Any
    length: Any


class Attributes(OrderedDict[str, Any]):
    """Its items are attributes too, as in the ``ModelOutput`` of transformers."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        object.__setattr__(self, key, value)


def batch() -> dict[str, Any]:
    """All kinds of batch leaves, in all kinds of containers; row i can be told from every leaf."""
    row = torch.arange(B)
    return {
        "caption": ["c0", "c1", "c2", "c3"],
        "tensor": row.float()[:, None],
        "flag": row > 1,
        "array": row.numpy(),
        "clip": Clip(row, Clip(("c0", "c1", "c2", "c3"), [row, row])),
        "files": [Path("c0"), None, Path("c2"), Path("c3")],
        "numbers": [0, 1, 2, 3],
        "attributes": Attributes(ids=row),
        "user": UserDict(ids=row),
        "missing": ["c0", None, "c2", "c3"],
    }


def shared() -> dict[str, Any]:
    """Leaves that are the same for all samples, and containers without leaves."""
    return {
        "none": None,
        "mode": "mean",
        "number": 4,
        "size": (4, 4, 4, 4),
        "states": (None, None, None, None),
        "scalar": torch.tensor(4.0),
        "scalar array": np.array(4.0),
        "weight": torch.ones(3, B),
        "classes": ["cat", "dog"],
        "empty": [{}, (), []],
    }


def same(one: Any, other: Any) -> bool:
    """Whether two nests have the same containers and leaves."""
    pairs = list(zip(leaves_of(one), leaves_of(other)))
    return len(leaves_of(one)) == len(leaves_of(other)) and all(
        path == other_path
        and type(leaf) is type(other_leaf)
        and (bool((leaf == other_leaf).all()) if isinstance(leaf, (Tensor, np.ndarray)) else leaf == other_leaf)
        for (path, leaf), (other_path, other_leaf) in pairs
    )


def test_map_keeps_every_container_and_hands_on_every_leaf() -> None:
    nest = {**batch(), **shared()}
    mapped = map_leaves(nest, lambda path, leaf: leaf)

    assert same(nest, mapped)
    assert mapped is not nest
    assert isinstance(mapped["clip"].length, Clip)
    assert mapped["attributes"].ids is nest["attributes"]["ids"]
    assert isinstance(mapped["user"], UserDict)
    assert mapped["empty"] == [{}, (), []]


def test_paths_lead_to_the_leaves() -> None:
    nest = {"a": Clip([1, (2,)], {"b": None}), 3: []}
    found = leaves_of(nest)

    assert [dotted(path) for path, _ in found] == ["a.0.0", "a.0.1.0", "a.1.b"]
    for path, leaf in found:
        value: Any = nest
        for key in path:
            value = operator.getitem(value, key)
        assert value is leaf


def test_dict_subclasses_are_copied_and_other_mappings_become_dicts() -> None:
    attributes = Attributes(a=torch.ones(1), b=torch.zeros(1))
    nest = (attributes, defaultdict(list, a=torch.ones(1)), UserDict(a=torch.ones(1)), MappingProxyType({"a": 1}))
    doubled = map_tensors(nest, lambda tensor: tensor * 2)

    assert doubled[0].a.item() == 2
    assert attributes.a.item() == 1
    assert doubled[1]["new"] == []
    assert nest[2]["a"].item() == 1
    assert [type(item) for item in doubled] == [Attributes, defaultdict, UserDict, dict]


def test_map_tensors_leaves_others_alone() -> None:
    nest = {**batch(), **shared()}
    doubled = map_tensors(nest, lambda tensor: tensor + 1)

    for (path, before), (_, after) in zip(leaves_of(nest), leaves_of(doubled)):
        assert after is before or (isinstance(before, Tensor) and torch.equal(after, before + 1)), path
    assert len(tensors_of(nest)) == len([leaf for _, leaf in leaves_of(nest) if isinstance(leaf, Tensor)]) == 9


@pytest.mark.parametrize(
    ("nest", "expected"),
    [
        (["a", "b"], True),
        (("a", "b"), True),
        (["a", None], True),
        ([b"a"], True),
        ([1, 2.0], True),
        ([object()], True),
        ((1, 2), False),
        ((None, None), False),
        ([None, None], True),
        ([], False),
        ((), False),
        (Clip("a", "b"), False),
        ([["a"], ["b"]], False),
        ([{"a": 1}], False),
        ([torch.ones(1)], False),
        ([np.ones(1)], False),
        (["a", torch.ones(1)], False),
        ("ab", False),
        ({"a": "b"}, False),
    ],
)
def test_what_a_column_is(nest: Any, expected: bool) -> None:
    assert is_column(nest) is expected


def test_all_batch_leaves_of_a_sample_stay_together() -> None:
    taken = take_rows(batch(), torch.tensor([3, 0]), B)

    assert same(
        taken,
        {
            "caption": ["c3", "c0"],
            "tensor": torch.tensor([[3.0], [0.0]]),
            "flag": torch.tensor([True, False]),
            "array": np.array([3, 0]),
            "clip": Clip(torch.tensor([3, 0]), Clip(("c3", "c0"), [torch.tensor([3, 0])] * 2)),
            "files": [Path("c3"), Path("c0")],
            "numbers": [3, 0],
            "attributes": Attributes(ids=torch.tensor([3, 0])),
            "user": UserDict(ids=torch.tensor([3, 0])),
            "missing": ["c3", "c0"],
        },
    )


def test_what_is_shared_is_not_taken_apart() -> None:
    assert same(take_rows(shared(), torch.tensor([1]), B), shared())

    nest = {"bias": [torch.ones(B)], "names": ["a"] * B}
    assert same(take_rows(nest, torch.tensor([1]), B, shared=["bias.0", "names"]), nest)


def test_the_number_of_samples_is_that_of_the_first_batch_leaf() -> None:
    assert batch_size({"caption": ["a", "b"], "ids": torch.ones(2, 3)}) == 2
    assert batch_size({"scale": torch.tensor(1.0), "scales": [0.5, 1, 2], "ids": torch.ones(2, 3)}) == 2
    assert batch_size((None, 3, ["a", "b"])) == 2
    assert batch_size(Clip(np.ones(()), np.ones((2, 3)))) == 2
    assert batch_size(()) is None
    assert batch_size({"size": (4, 4), "mode": "mean", "scalar": torch.tensor(1.0)}) is None


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3]], [[2], [0, 3, 1]], [[3, 1], [0, 2]], [[3], [2], [1], [0]]])
def test_merge_undoes_take(groups: list[list[int]]) -> None:
    nest = {**batch(), **shared(), "names": ["a", "b", "c"]}
    nest.pop("scalar"), nest.pop("scalar array"), nest.pop("weight")
    # a list as long as a part would be taken for a column
    nest["classes"] = ("x", "y", "z", "u", "v")
    parts = [take_rows(nest, torch.tensor(rows), B, shared=["names", "classes"]) for rows in groups]
    nest["names"] = parts[0]["names"]
    order = torch.tensor([row for rows in groups for row in rows]).argsort()
    sizes = [len(rows) for rows in groups]
    if 3 in sizes:
        nest.pop("names"), [part.pop("names") for part in parts]

    assert same(merge_rows(parts, sizes, order), nest)


def test_a_shared_list_as_long_as_the_whole_batch_is_not_reordered() -> None:
    parts = [{"names": ["a", "b", "c"], "x": torch.tensor([1])}, {"names": ["a", "b", "c"], "x": torch.tensor([0, 2])}]
    merged = merge_rows(parts, [1, 2], torch.tensor([1, 0, 2]))

    assert merged["names"] == ["a", "b", "c"]
    assert merged["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (torch.ones(1), torch.ones(1), r"parts of \[1, 2\] samples have shapes \[\(1,\), \(1,\)\] at 'x'"),
        (torch.tensor(1.0), torch.tensor(1.0), r"shapes \[\(\), \(\)\] at 'x'; expected the samples on the first axis"),
        (1, 2, "values of type int at 'x' differ; expected tensors or lists with one row per sample"),
        (["a"], ["b"], "values of type str at 'x.0' differ"),
        (["a", "b", "c"], ["b"], "values of type list at 'x' differ"),
        (torch.ones(1), None, "Tensor and NoneType at 'x'; expected the same form"),
        ({"a": torch.ones(1)}, {"b": torch.ones(2)}, r"\['a'\] and \['b'\] at 'x'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(one: Any, other: Any, message: str) -> None:
    sizes = [1, 2]
    with pytest.raises(LightningMMError, match=f"cannot join parts of a batch: .*{message}"):
        merge_rows([{"x": one}, {"x": other}], sizes)


def test_what_collate_makes_of_samples_is_taken_sample_by_sample() -> None:
    """Rows of a batch of four are the batch of those samples."""

    def sample(i: int) -> dict[str, Any]:
        text = {"caption": f"c{i}", "pair": (f"l{i}", f"r{i}"), "clip": Clip(torch.tensor([i]), i), "array": [i, 1.5]}
        return {"inputs": {"text": text, "image": torch.ones(2) if i % 2 else None}, "target": (i, f"t{i}"), "index": i}

    collate = Collate(Modalities(["text", "image"]))
    whole, rows = collate([sample(i) for i in range(B)]), [3, 1]

    assert batch_size(whole) == batch_size(whole["inputs"]["text"]) == B
    assert same(take_rows(whole, torch.tensor(rows), B), collate([sample(i) for i in rows]))


class Doubled(nn.Module):
    """Every function on the way of a network's call."""

    def forward(self, x: Any, size: Any = (2, 2), mode: str = "mean") -> Any:
        nest = ({"x": x, "clip": Clip(x, [x, None])}, size, mode, Attributes(a=x))
        number = batch_size(nest)
        mapped = map_tensors(nest, lambda tensor: tensor * 2)
        named = map_leaves(mapped, lambda path, leaf: leaf + len(dotted(path)) if isinstance(leaf, Tensor) else leaf)
        return tuple([tensor / (1 if number is None else number) for tensor in tensors_of(named)])


@pytest.mark.compiled
def test_maps_can_be_compiled_exported_and_traced() -> None:
    network, x = Doubled(), torch.arange(6.0).view(3, 2)
    expected = network(x)

    compiled = torch.compile(network, backend="eager", fullgraph=True)(x)
    exported = torch.export.export(network, (x,)).module()(x)
    with pytest.warns(FutureWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(network, (x,))(x)

    for results in (compiled, exported, traced):
        assert len(results) == len(expected) == 4
        for result, value in zip(results, expected):
            torch.testing.assert_close(result, value)

    def doubled(nest: Any) -> Any:
        return tensors_of(map_tensors(nest, lambda tensor: tensor * 2))

    for make in (dict, UserDict, OrderedDict, Attributes, lambda x: Clip(x, [x])):
        assert torch.compile(doubled, backend="eager", fullgraph=True)(make(x=x))[0].equal(x * 2), make
