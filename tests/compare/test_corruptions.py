"""The keys ``corruptions`` and ``severities`` of a study: options of its test sweeps, and one table at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.plan import Plan
from lightning_mm.errors import LightningMMError
from tests.support.studies import read

NOISE = {"class_path": "lightning_mm.data.GaussianNoise"}


def test_test_sweeps_of_networks_for_all_combinations_get_them(tmp_path: Path) -> None:
    methods = {"zero_fill": None, "modality_dropout": None, "dedicated": None}
    settings: dict[str, Any] = {"methods": methods, "validate": True, "out": str(tmp_path / "out")}
    plain = {(step.folder, step.stage): step for step in Plan(read(tmp_path, **settings)).steps({})}
    more = {"corruptions": {"b": [NOISE]}, "severities": [1, 4]}
    damaged = {(step.folder, step.stage): step for step in Plan(read(tmp_path, **settings, **more)).steps({})}
    assert plain.keys() == damaged.keys()
    changed = {place for place, step in damaged.items() if step.key != plain[place].key}
    assert {(damaged[place].method, place[1]) for place in changed} == {
        ("zero_fill", "test"),
        ("modality_dropout", "test"),
    }
    for place in changed:
        command = damaged[place].command
        assert json.loads(command[command.index("--corruptions") + 1]) == {"b": [NOISE]}
        assert json.loads(command[command.index("--severities") + 1]) == [1, 4]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"corruptions": {"d": [NOISE]}}, r"corruptions: d: unknown modality; expected some of \['a', 'b', 'c'\]"),
        (
            {"corruptions": {"a": ["noise"]}},
            r"corruptions: a: expected a list such as \[\{class_path: lightning_mm.data",
        ),
        ({"corruptions": [NOISE]}, "corruptions: expected dotted keys and values"),
        ({"severities": [0, 1]}, r"severities: expected some of \[1, 2, 3, 4, 5\], got"),
        ({"severities": 3}, "severities: expected a list of distinct whole numbers"),
    ],
)
def test_mistakes_are_explained(content: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match=text):
        read(tmp_path, **content)
