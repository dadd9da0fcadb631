"""The header of a report: what made the figures, and on which data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.report.source import read_sources
from lightning_mm.results import save
from tests.support.sweep_results import small_sweep


def facts(folder: Path) -> dict[str, str]:
    (source,) = read_sources([folder])
    return dict(source.facts())


def test_the_header_says_on_which_data(tmp_path: Path) -> None:
    result = small_sweep()
    save(result, tmp_path)
    found = facts(tmp_path)
    assert result.data_fingerprint is not None
    assert found["data fingerprint"] == result.data_fingerprint.text
    assert found["table of missing"].endswith("; no sample lacks a modality")
    observed = result.samples["observed"].copy()
    observed[[1, 4], 1] = False
    save(replace(result, samples={**result.samples, "observed": observed}), tmp_path)
    with_gaps = facts(tmp_path)
    assert with_gaps["table of missing"].endswith("; of 6 samples lack depth 2")
    assert with_gaps["table of missing"].split(";")[0] != found["table of missing"].split(";")[0]
    assert with_gaps["samples"] == found["samples"]


@pytest.mark.parametrize("content", ['{"versions": [1]}', '{"versions": "1"}', "[" * 5000, "[1]", "{"])
def test_a_damaged_study_file_leaves_out_facts(content: str, tmp_path: Path) -> None:
    save(small_sweep(), tmp_path)
    (tmp_path / "study.json").write_text(content)
    assert facts(tmp_path)["samples"].startswith("6")


def test_what_an_older_sweep_does_not_say_is_left_out(tmp_path: Path) -> None:
    result = replace(small_sweep(), data_fingerprint=None, samples={}, bootstrap=None)
    save(result, tmp_path)
    found = facts(tmp_path)
    assert "data fingerprint" not in found
    assert "table of missing" not in found
    assert found["samples"] == "6"
    other = replace(result, samples={"index": np.arange(6)})
    save(other, tmp_path)
    assert "; index " in facts(tmp_path)["samples"]
