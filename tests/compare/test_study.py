"""A study is read from a YAML file, and mistakes in it are told by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare import read_study
from lightning_mm.errors import DataNotFoundError, LightningMMError
from tests.support.studies import METHODS, read


def test_defaults(tmp_path: Path) -> None:
    study = read(tmp_path)
    assert study.name == tmp_path.name
    assert list(study.modalities) == ["a", "b", "c"]
    assert study.configs == (tmp_path / "base.yaml",)
    assert [method.name for method in study.methods] == ["base", "zero_fill", "adapted"]
    assert study.method("adapted").configs == (tmp_path / "ssf.yaml",)
    assert study.method("adapted").tuned == ("model.lr", [0.1, 0.2])
    assert study.method("zero_fill").tuned is None
    assert study.out == Path("outputs") / study.name / "study"


def test_a_method_stands_after_the_one_that_it_starts_from(tmp_path: Path) -> None:
    methods = {
        "second": {"like": "adapted", "start": "first", "configs": ["ssf.yaml"]},
        "first": {"like": "base"},
        "adapted_on_dropout": {"configs": ["ssf.yaml"]},
    }
    names = [method.name for method in read(tmp_path, methods=methods).methods]
    assert names == ["base", "first", "second", "modality_dropout", "adapted_on_dropout"]


def test_one_network_per_incomplete_combination(tmp_path: Path) -> None:
    methods = {"zero_fill": None, "dedicated": None, "full_finetune": {"combinations": ["b+a", "a"]}}
    study = read(tmp_path, methods=methods)
    assert study.combinations_of(study.method("zero_fill")) == (None,)
    assert study.combinations_of(study.method("dedicated")) == ("a", "b", "c", "a+b", "a+c", "b+c")
    assert study.combinations_of(study.method("full_finetune")) == ("a", "a+b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"metods": {}}, "unknown key 'metods'; did you mean 'methods'"),
        ({"methods": {}}, "methods: expected names"),
        ({"methods": {"adaptd": None}}, "no such method; did you mean 'adapted'"),
        ({"methods": {"mine": {"configs": ["ssf.yaml"]}}}, "or `like:` one of them"),
        ({"methods": {"adapted": None}}, "adapted: give configs: a file with its FrozenBackboneAdapter"),
        ({"methods": {"zero_fill": {"config": 1}}}, "unknown key 'config'; did you mean 'configs'"),
        ({"methods": {"zero_fill": [1]}}, "expected settings such as"),
        ({"methods": {"a+b": {"like": "base"}}}, r"a name is made of letters.*got 'a\+b'"),
        ({"methods": {"..": {"like": "base"}}}, "a name is made of letters"),
        ({"methods": {"majority": {"like": "base"}}}, "is none of majority"),
        ({"name": "../x"}, "name: a name is made of letters"),
        ({"methods": {"adapted": {"configs": ["ssf.yaml"], "start": None}}}, "start: expected the name of a method"),
        ({"methods": {"x": {"like": "base", "start": "base"}}}, "start: expected the name of a method"),
        ({"methods": {"adapted": {"configs": ["ssf.yaml"], "start": "zero_fill"}}}, "which trains nothing"),
        ({"methods": {"h": {"like": "head_only", "start": "adapted_on_dropout"}}}, "there is no method"),
        ({"methods": {**METHODS, "h": {"like": "head_only", "start": "adapted"}}}, "which is tuned"),
        (
            {"methods": {"a": {"like": "adapted", "configs": ["ssf.yaml"]}, "h": {"like": "head_only", "start": "a"}}},
            "whose checkpoint is that of an adapter",
        ),
        ({"methods": {"base": {"tune": {"a": [1, 2]}}}}, "the base cannot be tuned"),
        ({"methods": {"head_only": {"tune": {"a": [0.1, "0.1"]}}}}, "expected distinct values"),
        ({"methods": {"head_only": {"tune": {"a": [1, 2]}, "tune_seeds": [7]}}}, "some of the study's seeds"),
        ({"methods": {"zero_fill": {"settings": {"a": 1}}}}, "nothing is trained"),
        ({"methods": {"head_only": {"combinations": ["a"]}}}, "this method has one network for all"),
        ({"methods": {"dedicated": {"combinations": ["a+b+c"]}}}, "is the base's own"),
        ({"methods": {"dedicated": {"combinations": ["d"]}}}, "unknown modality 'd'"),
        ({"methods": {"dedicated": {"like": ["a"]}}}, "like: expected text"),
        ({"bootstrap": "many"}, "bootstrap: expected a whole number"),
        ({"bootstrap": -3}, "bootstrap: expected 0 or more"),
        ({"out": 5}, "out: expected text"),
        ({"wandb": True}, "wandb: expected keys and values"),
        ({"majority": "no"}, "majority: expected true or false"),
        ({"seeds": [-1]}, "seeds: expected"),
        ({"settings": {"data.modalities": ["a"]}}, "write data.modalities into a config"),
        ({"settings": {"seed_everything": 3}}, "settings: seed_everything: the study sets it; write `seeds`"),
        (
            {"methods": {"head_only": {"settings": {"trainer.default_root_dir": "x"}}}},
            "methods: head_only: settings: trainer.default_root_dir: the study sets it; write `out`",
        ),
        (
            {"methods": {"head_only": {"tune": {"data.modalities": [["a"], ["b"]]}}}},
            "methods: head_only: tune: data.modalities: write data.modalities into a config",
        ),
        ({"methods": {"adapted": {"configs": ["ssf.yaml"], "start": "dedicated"}}}, "which has several networks"),
        ({"methods": {"adapted": {"configs": ["ssf.yaml"], "start": "bas"}}}, "there is no method 'bas'"),
        (
            {"methods": {"x": {"like": "head_only", "start": "y"}, "y": {"like": "head_only", "start": "x"}}},
            "start from each other: x -> y -> x",
        ),
        ({"methods": {"head_only": {"tune": {"a": [1], "b": [2]}}}}, "expected one key and a list of values"),
        ({"methods": {"head_only": {"tune": {"a": 1}}}}, "expected one key and a list of values"),
        ({"methods": {"dedicated": {"combinations": "a"}}}, "combinations: expected a list"),
        ({"seeds": [0, 0]}, "seeds: expected a list of distinct whole numbers"),
        ({"seeds": []}, "seeds: expected"),
        ({"seeds": ["x"]}, "seeds: expected"),
        ({"config": 3}, "config: expected a list of files"),
        ({"settings": [1]}, "settings: expected dotted keys"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        read(tmp_path, **content)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no file at .*nowhere\.yaml"):
        read_study(tmp_path / "nowhere.yaml")
    with pytest.raises(DataNotFoundError, match=r"config: no file at .*other\.yaml"):
        read(tmp_path, config=["other.yaml"])


def test_broken_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(LightningMMError, match=r"broken\.yaml: not YAML"):
        read_study(broken)
    broken.write_text("- 1")
    with pytest.raises(LightningMMError, match="expected keys and values, got list"):
        read_study(broken)
    (tmp_path / "empty.yaml").write_text("trainer: {}\n")
    with pytest.raises(LightningMMError, match=r"none of its configs lists data\.modalities"):
        read(tmp_path, config=["empty.yaml"])
