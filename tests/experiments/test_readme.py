"""The snippet of the README and the commands of the pages run; the experiments page is what the result files say."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_mm.cli import main
from tests.support.fake import ombria
from tests.support.in_process import in_process
from tests.support.pages import DOCS, README, blocks, commands, run_python
from tests.support.repository import REPOSITORY

PAGES = [
    DOCS / f"{name}.md"
    for name in ("command_line", "check", "results", "studies", "export", "data/index", "corruption")
]
"""Pages whose commands are run on the experiments of the repository, in this order."""
COMMANDS = [["lightning-mm", *command] for command in commands(*PAGES)]
FEW = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
FEW += ["--trainer.log_every_n_steps", "1", "--data.batch_size", "4"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def test_commands_parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Verbs, flags and files of the pages exist; a run needs the checkpoints of the one before."""
    assert {command[1] for command in COMMANDS} >= {"fit", "sweep", "export", "check", "compare", "table", "report"}
    monkeypatch.chdir(REPOSITORY)
    for _, verb, *args in COMMANDS:
        if verb in ("fit", "sweep", "export", "check"):
            assert main([verb, *args, "--print_config"]) == 0, shlex.join([verb, *args])
        elif verb == "compare":
            assert main([verb, *args, "--dry_run"]) == 0, shlex.join([verb, *args])


@pytest.mark.slow
def test_commands_run_in_the_order_in_which_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ombria.write(tmp_path / "data" / "ombria")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.chdir(tmp_path)  # the README's folders are relative to the checkout
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    for _, verb, *rest in COMMANDS:
        if verb == "export":
            continue  # it traces, and the types are checked here; tests/export/test_cli.py runs it
        # what a shell does with a star
        args = [str(path) for one in rest for path in (sorted(Path().glob(one)) if "*" in one else [one])]
        if verb == "fit":
            args += [*QUIET, *FEW]
        elif verb == "check":  # traces nothing, as the types are checked here
            args += [*QUIET, "--export", "false", "--data.dataset.init_args.size", "32"]
        elif verb == "compare":
            few = ["--fast", "--combinations", "depth", "--methods", "zero_fill", "adapted", "dedicated"]
            args = [*args, *few, "--set", "data.dataset.init_args.size=32", "data.dataset.init_args.test_length=8"]
        elif verb == "sweep":
            args += [*QUIET, "--bootstrap", "10", "--data.dataset.init_args.test_length", "8"]
        assert main([verb, *args]) == 0, shlex.join([verb, *args])
    assert list(tmp_path.rglob("sweep.csv"))


class Network(nn.Module):
    """What a reader may bring."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.depth = nn.Conv2d(3, 4, 1), nn.Conv2d(1, 4, 1)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        return (self.rgb(rgb) + self.depth(depth)).mean((2, 3))


def test_the_ten_lines_of_the_readme_train_an_adapter() -> None:
    rgb, depth, label = torch.randn(6, 3, 4, 4), torch.randn(6, 1, 4, 4), torch.randint(4, (6,))
    space = {"network": Network(), "rgb": rgb, "depth": depth}
    space = run_python(README, {**space, "loader": [(rgb, depth, label)] * 2})
    assert any(float(p.detach().abs().sum()) > 0 for p in space["adapted"].adapter.parameters())
    assert (
        len(
            [line for block in blocks(README) if block.language == "python" for line in block.text.splitlines() if line]
        )
        <= 12
    )


def test_the_experiments_page_is_made_from_the_result_files() -> None:
    script = REPOSITORY / "experiments" / "make_readme.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run python experiments/make_readme.py ({done.stderr[-500:]})"
