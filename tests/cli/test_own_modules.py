"""Modules of the user in the current folder: both commands find them, and a message says where they were looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_mm.cli.dispatch import find_modules_here
from lightning_mm.cli.lightning.config_errors import shorten
from lightning_mm.cli.lightning.parser import Parser

NETWORK = (
    "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, inputs):\n        return inputs['rgb']\n"
)
BASE = """
data: {dataset: lightning_mm.data.Scenes, modalities: [rgb, depth, thermal]}
model: {class_path: lightning_mm.tasks.SemanticSegmentationTask, init_args: {num_classes: 6, model: mynet.Net}}
trainer:
  callbacks:
    class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best}
"""


def test_the_current_folder_comes_first_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for before, after in (
        (["/bin", "/lib"], [str(tmp_path), "/bin", "/lib"]),
        (["", "/lib"], ["", "/lib"]),
        (["/lib", str(tmp_path)], ["/lib", str(tmp_path)]),
    ):
        monkeypatch.setattr(sys, "path", before)
        find_modules_here()
        assert sys.path == after


def test_why_a_module_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_needs_more.py").write_text("import no_such_package_x\n")
    (tmp_path / "own_is_broken.py").write_text("1 / 0\n")
    for module, why in {
        "no_such_package_y.nets": "there is no module 'no_such_package_y'",
        "own_needs_more": "'own_needs_more' imports 'no_such_package_x', which is not there",
        "own_is_broken": "importing 'own_is_broken' raises ZeroDivisionError: division by zero",
    }.items():
        text = f"Parser key \"model\":\n  Problem with given class_path '{module}.Net':\n    No module named 'x'"
        assert f"model: cannot import '{module}.Net': {why}; modules are found in" in shorten(text, Parser())


@pytest.mark.slow
def test_both_commands_find_modules_of_the_current_folder_and_of_no_other(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "lightning-mm"
    if not script.is_file():
        pytest.skip("the console script is not installed here")
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "base.yaml").write_text(BASE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for command in ([str(script)], [sys.executable, "-m", "lightning_mm"]):
        for folder, code in ((tmp_path, 0), (elsewhere, 2)):
            words = [*command, "fit", "-c", str(tmp_path / "base.yaml"), "--print_config"]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
            assert done.returncode == code, done.stderr
            assert code == 0 or "modules are found in the folder in which the command runs" in done.stderr


@pytest.mark.slow
def test_workers_of_a_study_find_modules_of_the_current_folder(tmp_path: Path) -> None:
    """The network is found, and fails in the first trial: it reads `rgb`, which this combination lacks."""
    script = Path(sys.executable).parent / "lightning-mm"
    if not script.is_file():
        pytest.skip("the console script is not installed here")
    (tmp_path / "mynet.py").write_text(NETWORK)
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "study.yaml").write_text("methods: {dedicated: {combinations: [depth]}}\n")
    done = subprocess.run([str(script), "compare", "-c", "study.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "dedicated of depth: Net raised KeyError: 'rgb' on inputs of depth (" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
