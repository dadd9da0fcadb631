"""SSF and LoRA together from a config: parsed, trained, and swept from their checkpoint."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import yaml

from lightning_mm.cli import main
from tests.support.tiny_run import BASE

TOGETHER = """
data:
  train_policy: {class_path: lightning_mm.missing.UniformCombinations, init_args: {include_full: false}}
trainer:
  callbacks:
  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter
    init_args:
      adapter:
        class_path: lightning_mm.adapters.Together
        init_args:
          kinds:
          - class_path: lightning_mm.adapters.SSF
          - {class_path: lightning_mm.adapters.LoRA, init_args: {rank: 2, layers: [encoders.*]}}
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}/weights", filename: best, enable_version_counter: false}
"""


def test_a_config_of_several_kinds_is_parsed_trained_and_swept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "together.yaml").write_text(TOGETHER)
    base = ["-c", str(tmp_path / "base.yaml")]
    assert main(["fit", *base, "--trainer.default_root_dir", str(tmp_path / "base")]) == 0
    weights = str(tmp_path / "base" / "weights" / "best.ckpt")
    both = [*base, "-c", str(tmp_path / "together.yaml"), "--model.init_args.base_ckpt", weights]
    both += ["--trainer.default_root_dir", str(tmp_path / "both")]

    capsys.readouterr()
    assert main(["fit", *both, "--print_config"]) == 0
    callback = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"][0]["init_args"]
    kinds = callback["adapter"]["init_args"]["kinds"]
    assert [kind["class_path"] for kind in kinds] == ["lightning_mm.adapters.SSF", "lightning_mm.adapters.LoRA"]
    assert kinds[1]["init_args"] == {"rank": 2, "alpha": None, "layers": ["encoders.*"], "shared": False}

    assert main(["fit", *both]) == 0
    checkpoint = torch.load(tmp_path / "both" / "weights" / "best.ckpt", weights_only=True)
    banks = [key.removeprefix("adapter.banks.") for key in checkpoint["state_dict"]]
    assert {key for key in banks if key.endswith("up")} == {f"encoders/{name}.banks.1.up" for name in ("rgb", "depth")}
    assert all(checkpoint["state_dict"][f"adapter.banks.{key}"].any() for key in banks if "rgb" in key), "it trained"

    ckpt = str(tmp_path / "both" / "weights" / "best.ckpt")
    assert main(["sweep", *both, "--ckpt_path", ckpt, "--bootstrap", "0"]) == 0
    with (tmp_path / "both" / "sweep" / "sweep.csv").open() as file:
        value = {(row["method"], row["combination"]): row["value"] for row in csv.DictReader(file)}
    assert {method for method, _ in value} == {"zero_fill", "adapted"}
    assert value["zero_fill", "rgb+depth"] == value["adapted", "rgb+depth"], "the full combination is the base itself"
