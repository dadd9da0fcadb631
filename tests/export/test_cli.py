"""``lightning-mm export`` on the scenes experiment: the command of its page, the plain network, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_mm.adapters import Additive
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.cli import main
from lightning_mm.export import Runtime
from lightning_mm.modalities import Modalities
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.tasks.checkpoints import load_weights
from tests.support.pages import DOCS, commands
from tests.support.repository import REPOSITORY

NAMES = Modalities(["rgb", "depth", "thermal"])
SMALL = ["--data.dataset.init_args.size", "32", "--data.batch_size", "4", "--trainer.accelerator", "cpu"]
SMALL += ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.log_every_n_steps", "1", "--trainer.enable_model_summary", "false"]


def documented_command() -> list[str]:
    """What stands after ``lightning-mm`` on the page about exports."""
    (command,) = commands(DOCS / "export.md")
    return command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: folders of the experiment are relative."""
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    channels = {"rgb": 3, "depth": 1, "thermal": 1}
    return {name: torch.randn(batch, size, 32, 32, generator=generator) for name, size in channels.items()}


def task(base_ckpt: str) -> SemanticSegmentationTask:
    """The task of experiments/scenes/base.yaml."""
    channels = {"rgb": 3, "depth": 1, "thermal": 1}
    network = MultiEncoderSegmenter(channels, 6, "resnet18", encoder_depth=3, decoder_channels=[64, 32, 16])
    return SemanticSegmentationTask(network, list(NAMES), num_classes=6, base_ckpt=base_ckpt).eval()


@pytest.mark.slow
@pytest.mark.compiled
def test_exports_what_was_trained(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["-c", "experiments/scenes/base.yaml"]
    base_ckpt, ssf_ckpt = "outputs/scenes/base/best.ckpt", "outputs/scenes/ssf/best.ckpt"
    verb, *command = documented_command()
    assert command == [*base, "-c", "experiments/scenes/ssf.yaml", "--ckpt_path", ssf_ckpt, "--out", "exported"]
    assert main(["fit", *base, *SMALL, *FEW]) == 0
    assert main(["fit", *command[:4], *SMALL, *FEW]) == 0
    before = {path for path in here.rglob("*") if "experiments" not in path.parts}
    one = ["--combinations", "[rgb+thermal]", "--mixed", "false"]
    assert main([verb, *command, *SMALL, *one]) == 0
    printed = capsys.readouterr().out
    assert "written: exported/export.json; programs: rgb+thermal" in printed
    assert "largest difference from the network: " in printed

    adapted, given = task(base_ckpt), inputs(3)
    FrozenBackboneAdapter(basis=Additive(), exclude=["head*", "*.downsample.*"]).attach(
        adapted,
        {"inputs": given, "available": torch.ones(3, 3) > 0, "target": torch.zeros(3, 32, 32).long(), "index": None},
    )
    load_weights(adapted, ssf_ckpt)
    mask = NAMES.mask("rgb+thermal").expand(3, -1)
    with torch.no_grad():
        expected = adapted(given, mask)
        with adapted.adapter.disabled():
            zero_fill = adapted(given, mask)
    assert not torch.allclose(expected, zero_fill, atol=1e-3), "two steps of training show"
    for backend in ("torch", "onnx"):
        found = Runtime("exported", backend)({"rgb": given["rgb"], "thermal": given["thermal"]})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    plain = ["--ckpt_path", base_ckpt, "--combinations", "[depth]", "--mixed", "false", "--formats", "[torch]"]
    assert main(["export", *base, *SMALL, *plain, "--out", "plain"]) == 0
    with torch.no_grad():
        expected = task(base_ckpt)(given, NAMES.mask("depth").expand(3, -1))
    torch.testing.assert_close(Runtime("plain")({"depth": given["depth"]}), expected, rtol=1e-4, atol=1e-4)
    assert json.loads(Path("plain/export.json").read_text())["adapter"] is None
    after = {path for path in here.rglob("*") if "experiments" not in path.parts}
    new = {str(path.relative_to(here)) for path in after - before}
    files = {"exported/rgb+thermal.pt2", "exported/rgb+thermal.onnx", "exported/export.json"}
    assert new == files | {"exported", "plain", "plain/depth.pt2", "plain/export.json"}


def test_mistakes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = ["-c", "experiments/scenes/base.yaml"], ["--out", "new"]
    ssf = [*base, "-c", "experiments/scenes/ssf.yaml", "--model.init_args.base_ckpt", "null"]
    for configs, options, code, text in (
        (base, [], 2, "out"),
        (
            base,
            out,
            1,
            "export needs the weights of the network, or it would write those of the start: give --ckpt_path",
        ),
        (ssf, out, 1, "export needs the weights of the adapter"),
        (base, [*out, "--ckpt_path", "none.ckpt"], 2, "ckpt_path: no file at 'none.ckpt'"),
        (base, [*out, "--formats", "[tensorrt]"], 2, "formats"),
    ):
        assert main(["export", *configs, *SMALL, *options]) == code, options
        assert text in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["experiments"]
