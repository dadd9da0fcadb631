"""The notebooks run from top to bottom, show what they say, and are stored with the outputs of such a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.support.repository import REPOSITORY

FOLDER = REPOSITORY / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a notebook in a kernel of its own; what Jupyter leaves behind goes to a temporary folder."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # Kernels of this environment only, whatever the user has installed.
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # as docs/tools/run_notebooks.py

    def run(name: str) -> dict[str, Any]:
        notebook = nbformat.read(FOLDER / name, as_version=4)
        nbformat.validate(notebook)
        client = nbclient.NotebookClient(
            notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
        )
        stored = [kinds(cell) for cell in code_cells(notebook)]
        done = client.execute()
        assert [kinds(cell) for cell in code_cells(done)] == stored, f"run python docs/tools/run_notebooks.py {name}"
        return done

    return run


def kinds(cell: dict[str, Any]) -> list[list[str]]:
    """What each output of a cell is: text, a table, a picture; a busy machine sends one text in several pieces."""
    found = [sorted(output.get("data", {output["output_type"]: ""})) for output in cell["outputs"]]
    return [kind for at, kind in enumerate(found) if not (kind == ["stream"] and found[at - 1 : at] == [kind])]


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def text(notebook: dict[str, Any]) -> str:
    return "".join(output["text"] for output in outputs(notebook) if output["output_type"] == "stream")


@pytest.mark.slow
def test_adapt_your_network_shows_that_adapting_pays(execute: Any) -> None:
    lines = [line.split() for line in text(execute("adapt_your_network.ipynb")).splitlines()]
    table = {name: (float(before), float(after)) for name, before, _, after in lines}
    full = table.pop("image+echo+audio")
    assert full[0] == full[1] > 0.7
    assert len(table) == 6
    assert sum(after for _, after in table.values()) > sum(before for before, _ in table.values()) + 6 * 0.05


def test_read_a_sweep_shows_tables_intervals_and_the_heat_map(execute: Any) -> None:
    notebook = execute("read_a_sweep.ipynb")
    shown = [output["data"] for output in outputs(notebook) if "data" in output]
    assert sum("text/html" in data for data in shown) == 2  # the tables
    assert sum("image/png" in data for data in shown) == 1
    assert "recovered gap 0." in text(notebook)
    assert "adapted - zero_fill (0." in text(notebook)


@pytest.mark.slow
def test_failing_sensors_cost_less_with_an_adapter(execute: Any) -> None:
    figures = [
        float(one) for one in re.findall(r"(?:zeros|adapted) ([01]\.\d+)", text(execute("failing_sensors.ipynb")))
    ]
    before, after, complete, complete_after = figures
    assert after > before + 0.02
    assert complete == complete_after > before


@pytest.mark.slow
def test_methods_are_compared_on_the_same_samples(execute: Any) -> None:
    notebook = execute("compare_methods.ipynb")
    gap = re.search(r"'adapted': ([\d.]+), 'modality_dropout': ([\d.-]+)", text(notebook))
    assert gap is not None
    assert float(gap[1]) > 0.3
    assert sum("image/png" in output.get("data", {}) for output in outputs(notebook)) == 1


def test_adapting_takes_fewer_than_forty_lines() -> None:
    notebook = json.loads((FOLDER / "adapt_your_network.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in code_cells(notebook)]
    lines = [line for source in sources if "plt.subplots" not in source for line in source.splitlines()]
    lines = [line for line in lines if "matplotlib" not in line]  # the picture is not counted
    assert len([line for line in lines if line.strip() and not line.strip().startswith("#")]) < 40
    assert max(map(len, lines)) <= 120
    assert not [line for line in lines if ";" in line]  # no two in one


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_of_one_run_are_stored(path: Path) -> None:
    cells = code_cells(json.loads(path.read_text(encoding="utf-8")))
    how = f"run python docs/tools/run_notebooks.py {path.name}"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), how
    shown = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in shown), how
    assert not [output for output in shown if output["output_type"] == "error" or output.get("name") == "stderr"], how
    assert path.stat().st_size < 300_000


def test_every_notebook_is_run_here() -> None:
    names = ["adapt_your_network.ipynb", "compare_methods.ipynb", "failing_sensors.ipynb", "read_a_sweep.ipynb"]
    assert [path.name for path in NOTEBOOKS] == names


def test_notebooks_are_clean() -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("needs ruff, of the extra `dev`")
    assert subprocess.run([ruff, "check", "--quiet", FOLDER], cwd=REPOSITORY, check=False).returncode == 0
