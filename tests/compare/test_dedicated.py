"""Dedicated networks of the user are tried before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from lightning_mm.cli.lightning.run import run_lightning
from lightning_mm.compare import read_study
from lightning_mm.compare.cell_config import cut
from lightning_mm.compare.dedicated import check_dedicated, smallest_without_each
from lightning_mm.errors import DataNotFoundError, LightningMMError, NotApplicableError
from tests.support.studies import read

MODEL = {"init_args": {"model": {"class_path": "mynet.Net", "init_args": {"channels": {"a": 1, "b": 2, "c": 3}}}}}


class Reader(nn.Module):
    """Reads all of its inputs by name."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names, self.head = names, nn.LazyConv2d(6, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(torch.cat([inputs[name] for name in self.names], 1))


class FixedReader(Reader):
    """Reads all three, whatever the config says."""

    def __init__(self) -> None:
        super().__init__(["rgb", "depth", "thermal"])


def runner(tried: list[dict[str, Any]], fail: Callable[[list[str]], None]) -> Callable[[list[str]], dict[str, Any]]:
    """Prints a config, or notes the one of a trial; ``fail`` is told of its modalities."""

    def run(command: list[str]) -> dict[str, Any]:
        if "--print_config" in command:
            config = {"seed_everything": 0, "trainer": {}, "model": MODEL, "data": {"modalities": ["a", "b", "c"]}}
            print(yaml.safe_dump(config))
            raise SystemExit(0)
        config = yaml.safe_load(Path(command[command.index("-c") + 1]).read_text())
        tried.append(config)
        assert "--trainer.fast_dev_run=1" in command
        fail(config["data"]["modalities"])
        return {}

    return run


def test_for_every_modality_one_network_without_it_is_tried(tmp_path: Path) -> None:
    study = read(tmp_path, methods={"dedicated": None, "zero_fill": None}, out=str(tmp_path / "out"))
    assert smallest_without_each(study, study.method("dedicated")) == ["b", "a"]
    tried: list[dict[str, Any]] = []
    check_dedicated(study, runner(tried, lambda names: None))
    assert [one["data"]["modalities"] for one in tried] == [["b"], ["a"]]
    assert tried[0]["model"]["init_args"]["model"]["init_args"]["channels"] == {"b": 2}
    assert not list(study.out.rglob("*")), "a trial leaves nothing behind"
    step = study.out / "dedicated/b/seed0"
    assert not step.exists()


def test_failures_name_the_method_and_how_a_network_must_be_built(tmp_path: Path) -> None:
    study = read(tmp_path, methods={"mine": {"like": "dedicated", "combinations": ["a+b"]}}, out=str(tmp_path / "out"))

    def fail(error: Exception) -> Callable[[list[str]], None]:
        def raised(names: list[str]) -> None:
            raise error

        return raised

    for error, message in (
        (KeyError("c"), r"mine of a\+b: KeyError: 'c'; a dedicated network is built and called for the modalities of"),
        (RuntimeError("3 and 1"), r"mine of a\+b: RuntimeError: 3 and 1; a dedicated .* leave 'mine' out"),
        (LightningMMError("labels out of range"), r"mine of a\+b: labels out of range$"),
    ):
        with pytest.raises(LightningMMError, match=message):
            check_dedicated(study, runner([], fail(error)))
    with pytest.raises(DataNotFoundError, match=r"^no data$"):
        check_dedicated(study, runner([], fail(DataNotFoundError("no data"))))
    check_dedicated(study, runner([], fail(NotApplicableError("one modality only"))))


def test_lists_of_all_modalities_are_cut_too() -> None:
    config = {"names": ["b", "a", "c"], "pair": ["a", "b"], "words": [{"a": 1, "b": 2, "c": 3}], "sizes": [1, 2, 3]}
    assert cut(config, {"a", "b", "c"}, ["a", "b"]) == {**config, "names": ["b", "a"], "words": [{"a": 1, "b": 2}]}


@pytest.mark.slow
def test_a_network_of_the_user_that_reads_all_inputs(tmp_path: Path) -> None:
    def study(network: dict[str, Any]) -> Any:
        task = {"num_classes": 6, "model": network}
        base = {
            "data": {
                "dataset": {
                    "class_path": "lightning_mm.data.Scenes",
                    "init_args": {"size": 16, "train_length": 8, "val_length": 4},
                },
                "modalities": ["rgb", "depth", "thermal"],
                "batch_size": 4,
            },
            "model": {"class_path": "lightning_mm.tasks.SemanticSegmentationTask", "init_args": task},
        }
        (tmp_path / "base.yaml").write_text(json.dumps(base))
        content = {"methods": {"dedicated": {"combinations": ["depth"]}}, "out": str(tmp_path / "out")}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        return read_study(tmp_path / "study.yaml")

    message = (
        r"dedicated of depth: FixedReader raised KeyError: 'rgb' on inputs of depth \(torch.float32 .* a dedicated"
    )
    with pytest.raises(LightningMMError, match=message):
        check_dedicated(study({"class_path": f"{__name__}.FixedReader"}), run_lightning)
    names = {"names": ["rgb", "depth", "thermal"]}
    check_dedicated(study({"class_path": f"{__name__}.Reader", "init_args": names}), run_lightning)
    assert not (tmp_path / "out").exists()
