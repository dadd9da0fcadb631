"""The tables of docs/which_method_when.md say what the result files say (test_readme.py: the page is current)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.results import SweepResult, SweepRow, save
from tests.support.repository import REPOSITORY

Table = Mapping[str, tuple[float, ...]]


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which reads results from an empty folder."""
    spec = importlib.util.spec_from_file_location("guide", REPOSITORY / "experiments" / "guide.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def write(folder: Path, table: Table, facts: Any, modalities: tuple[str, ...] = ("a", "b"), **more: Any) -> None:
    """Values per method, for each modality alone and then both, of one seed."""
    names = [*modalities, "+".join(modalities)]
    rows = [
        SweepRow(method, name, 1 + ("+" in name), "accuracy", value, n=10, seed=0)
        for method, values in table.items()
        for name, value in zip(names, values)
    ]
    save(SweepResult(rows, modalities=list(modalities), primary_metric="accuracy", **more), folder, timestamp=False)
    (folder / "study.json").write_text(json.dumps(facts))


def test_figures_and_statements(guide: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "one", {"zero_fill": (0.2, 0.4, 0.9), "late_drop": (0.5, 0.6, 0.85)}, {})
    text = "{{one late_drop mean}} of {{one zero_fill a+b}}\n"
    holds = "<!-- holds: one late_drop mean > zero_fill mean by {} -->\n"
    assert guide.filled(text + holds.format(24)) == "55.0 of 90.0\n"
    with pytest.raises(LightningMMError, match=r"late_drop mean > .* it is 0.5500 against 0.3000; rewrite"):
        guide.filled(holds.format(26))
    with pytest.raises(LightningMMError, match="there is no such figure"):
        guide.filled("{{one adapted mean}}")
    part = "<!-- if: {} -->\nkept\n<!-- end -->\n"
    assert guide.filled(part.format("one") + part.format("other")) == "kept\n"


def test_tables(guide: ModuleType, tmp_path: Path) -> None:
    own = {"zero_fill": (0.2, 0.4, 0.9), "unimodal": (0.5, 0.6, 0.8), "embedding_prediction": (0.6, 0.7, 0.85)}
    costs: dict[str, Any] = {"seconds": {"unimodal": 4.0, "embedding_prediction": 2.0}}
    costs["parameters"] = {"unimodal": {"trained": 1000}, "embedding_prediction": {"trained": 20}}
    facts = {"base_seconds": 7.0, "validation_means": {"zero_fill": 0.9, "unimodal": 0.95}}
    write(tmp_path / "ravdess_prediction", own, facts, **costs)
    write(tmp_path / "ravdess_paired_10", {"unimodal": (0.1, 0.2, 0.3)}, {})
    both = {"zero_fill": (0.1, 0.2, 1.0), "late_drop": (0.3, 0.6, 0.7), "dedicated": (0.3, 0.6)}
    write(tmp_path / "easy_vqa", both, {"base_seconds": 3.0}, modalities=("image", "question"))
    (tmp_path / "ravdess_paired_10" / "logged.json").write_text(
        json.dumps(
            {"embedding_prediction": {"val/explained_variance": [0.2, 0.4], "val/predicted_std": [0.5, 0.5]}},
        )
    )
    table = {name: guide.filled(f"<!-- guide: {name} -->") for name in ("mean", "costs", "vqa", "explained", "chosen")}
    assert "| `zero_fill` | 30.0 | 15.0 |" in table["mean"], "only the best is bold"
    assert "AVDigits" not in table["mean"]
    assert "| `embedding_prediction` | **65.0** | – |" in table["mean"]
    assert "`adapted`" not in table["mean"]
    assert "| the base | 7.0 s | 3.0 s |" in table["costs"], "of the sets that have results"
    assert "| `embedding_prediction` | 2.0 s, 20 after `unimodal` | – |" in table["costs"]
    assert "| `late_drop` | 60.0 | 30.0 | 70.0 | 25.0 % |" in table["vqa"]
    assert "| 100.0 % |" in table["vqa"]
    assert "| RavdessFeatures, 10 % paired | mean | 0.30 | 0.50 |  |" in table["explained"]
    assert table["chosen"] == "- RavdessFeatures: `unimodal` (95.0 on validation data, 55.0 on test data)"
    paired = guide.filled("<!-- guide: paired RavdessFeatures -->")
    assert "| method | 100 % | 10 % |" in paired
    assert "| `unimodal` | 55.0 | 15.0 |" in paired
