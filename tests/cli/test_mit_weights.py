"""CMNeXt from weights of ImageNet through the command line; nothing later asks for the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from lightning_mm.cli import main
from lightning_mm.models import CMNeXt
from lightning_mm.tasks.checkpoints import read_checkpoint
from tests.support.experiments import EXPERIMENTS, NETWORK, options, stacked
from tests.support.fake_data import write_data
from tests.support.mit_weights import mit

FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.logger", "false", "--trainer.log_every_n_steps", "1"]


def main_branch(checkpoint: str) -> dict[str, Tensor]:
    state = read_checkpoint(checkpoint)["state_dict"]
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.main.")}


@pytest.mark.slow
def test_a_run_starts_from_the_file_and_later_ones_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data("mfnet", tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    source = CMNeXt("B0", ["rgb", "thermal"], 9)
    torch.save(mit(source), "mit_b0.pth")
    base, ssf = EXPERIMENTS / "mfnet" / "base.yaml", EXPERIMENTS / "mfnet" / "ssf.yaml"
    still = ["--model.init_args.optimizer.init_args.lr", "0.0"]
    start = [f"{NETWORK}.mit_weights", "mit_b0.pth"]
    assert main(["fit", *stacked(base), *options(base), *FEW, *still, *start]) == 0
    found = main_branch("outputs/mfnet/base/best.ckpt")
    assert found
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in found.items())
    hyper_parameters = read_checkpoint("outputs/mfnet/base/best.ckpt")["hyper_parameters"]
    assert "mit_b0" not in str(hyper_parameters)
    # With the file still there, what is loaded afterwards wins.
    torch.save(mit(CMNeXt("B0", ["rgb", "thermal"], 9)), "mit_b0.pth")
    loaded = ["--model.init_args.base_ckpt", "outputs/mfnet/base/best.ckpt", "--trainer.default_root_dir", "again"]
    assert main(["fit", *stacked(base), *options(base), *FEW, *still, *start, *loaded]) == 0
    assert all(torch.equal(value, found[key]) for key, value in main_branch("again/best.ckpt").items())
    # Another machine does not have it.
    Path("mit_b0.pth").unlink()
    assert main(["fit", *stacked(ssf), *options(ssf), *FEW]) == 0
    checkpoint = ["--ckpt_path", "outputs/mfnet/base/best.ckpt", "--trainer.fast_dev_run", "1"]
    assert main(["sweep", *stacked(base), *options(base), *checkpoint]) == 0
    saved = "outputs/mfnet/base/fit.yaml"
    assert yaml.safe_load(Path(saved).read_text())["model"]["init_args"]["model"]["init_args"]["mit_weights"]
    further = ["fit", "-c", saved, "--ckpt_path", "outputs/mfnet/base/best.ckpt", "--trainer.max_epochs", "2"]
    capsys.readouterr()
    assert main(further) == 1
    assert "no MiT weights at mit_b0.pth" in capsys.readouterr().err
    assert main([*further, f"{NETWORK}.mit_weights", "null"]) == 0
    assert all(torch.equal(value, found[key]) for key, value in main_branch("outputs/mfnet/base/best.ckpt").items())
