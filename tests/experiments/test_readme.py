"""Every command and every snippet of the README runs; the experiments page is what the result files say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.cli import main
from tests.support.fake import ombria
from tests.support.repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("lightning-mm ")
]
FEW = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
FEW += ["--trainer.log_every_n_steps", "1", "--data.batch_size", "4"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def test_commands_parse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Verbs, flags and files of the README exist; a run needs the checkpoints of the one before."""
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
        return self.rgb(rgb) + self.depth(depth)


class Module(LightningModule):
    """A LightningModule of somebody else, with batches of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.net(batch["rgb"], batch["depth"]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


@pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX` has been removed")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the trainer of the snippet writes beside the reader
    first, second = [block for language, block in BLOCKS if language == "python"]
    rgb, depth, mask = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4), torch.tensor([[True, False], [True, True]])
    samples = [{"rgb": rgb[i], "depth": depth[i], "mask": mask[i]} for i in range(2)]
    module = Module()
    space = {"network": Network(), "rgb": rgb, "depth": depth, "mask": mask, "module": module}
    space["loader"] = DataLoader(samples, batch_size=2)  # type: ignore[arg-type]
    exec(first, space)
    assert isinstance(space["outputs"], Tensor)
    exec(second, space)
    assert any(float(p.detach().abs().sum()) > 0 for p in module.adapter.parameters())


def test_files_that_it_links_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_experiments_page_is_made_from_the_result_files() -> None:
    script = REPOSITORY / "experiments" / "make_readme.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run python experiments/make_readme.py ({done.stderr[-500:]})"
