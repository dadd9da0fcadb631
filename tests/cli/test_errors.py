"""One clear message per mistake; everything else keeps its traceback."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path

import pytest
import yaml
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_mm import __version__
from lightning_mm.cli.dispatch import VERBS, main
from lightning_mm.cli.errors import explain
from lightning_mm.cli.lightning.config_errors import arguments_of, shorten
from lightning_mm.errors import DataNotFoundError, LightningMMError, UsageError
from tests.support.repository import REPOSITORY

UNION = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning_mm.tasks.base.BaseTask'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lightning_mm.tasks.SemanticSegmentationTask':
        Parser key "model":
          Problem with given class_path 'lightning_mm.models.MultiEncoderSegmenter':
            {problem}
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'init_args': {{'model': {{'init_args': {{'chanels': 3}}}}}}}}"""


class Broken(Dataset[int]):
    """Fails in the worker that reads it, after another error led to it."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("truncated")
        except OSError as error:
            raise LightningMMError("file a.png is cut off\ndownload it again") from error


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    verb = argparse.ArgumentParser()
    for option in ("--trainer.max_epochs", "--data.batch_size", "--data.num_workers"):
        verb.add_argument(option)
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    commands.choices["fit"] = verb  # what jsonargparse's subcommands look like from here
    return parser


def test_mistakes_are_explained_and_defects_are_not() -> None:
    assert explain(UsageError("typo")) == ("typo", 2)
    assert explain(LightningMMError("wrong")) == ("wrong", 1)
    assert explain(DataNotFoundError("not at /x")) == ("not at /x", 1)
    assert explain(ValueError("ours")) is None
    assert explain(RuntimeError("ours")) is None


def test_what_cannot_be_written_is_explained() -> None:
    full = "No space left on device; make room there or give another folder, then run it again"
    assert explain(OSError(errno.ENOSPC, "No space left on device")) == (full, 1)
    assert explain(OSError(errno.ENOSPC, "No space left on device", "a.csv")) == (f"a.csv: {full}", 1)
    assert explain(OSError(errno.EROFS, "Read-only file system", "a.csv")) == ("a.csv: Read-only file system", 1)
    assert explain(FileExistsError(errno.EEXIST, "File exists", "a")) == ("a: File exists", 1)
    assert explain(OSError(errno.ECONNRESET, "ours")) is None
    written = "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
    assert (explain(RuntimeError(written)) or ("", 0))[0].startswith("a file could not be written, as on a full disk")
    told = explain(
        ValueError("loaded state dict contains a parameter group that doesn't match the size of optimizer's")
    )
    assert (told or ("", 0))[0].startswith("the checkpoint's optimizer does not fit the one of the settings")


def test_what_weights_and_biases_refuses_is_explained() -> None:
    from wandb.errors import CommError

    told = "Weights & Biases: no such host; log in with `wandb login`, or set WANDB_MODE=offline"
    assert explain(CommError("no such host")) == (told, 1)


def test_a_mistake_that_a_constructor_raised_is_found_inside_the_parsers_error() -> None:
    wrapped = ValueError("Does not validate against any of the Union subtypes\nGiven value: ...")
    wrapped.__cause__ = LightningMMError("num_classes must be at least 1, got 0")
    assert explain(wrapped) == ("num_classes must be at least 1, got 0", 1)
    wrapped.__cause__ = KeyError("ours")
    assert explain(wrapped) is None


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        Path("/nowhere/a.txt").read_text()
    assert explain(caught.value) == ("/nowhere/a.txt: No such file or directory", 1)


def test_an_error_of_a_worker_is_just_its_message() -> None:
    with pytest.raises(LightningMMError, match="Original Traceback") as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert explain(caught.value) == ("file a.png is cut off\ndownload it again", 1)


def test_a_checkpoint_of_another_network_is_a_few_keys() -> None:
    own = nn.Sequential(nn.Linear(2, 3), *[nn.Linear(3, 3) for _ in range(5)])
    other = nn.Sequential(nn.Linear(2, 4), nn.Linear(3, 3))
    with pytest.raises(RuntimeError) as caught:
        other.load_state_dict(own.state_dict())
    message, code = explain(caught.value) or ("", 0)
    assert code == 1
    assert "has unknown 2.weight, 2.bias, 3.weight and 5 more" in message
    assert "0.weight [3, 2] instead of [4, 2]" in message
    assert len(message) < 400
    with pytest.raises(RuntimeError) as caught:
        own.load_state_dict(other.state_dict())
    assert "lacks 2.weight, 2.bias, 3.weight and 5 more" in str(explain(caught.value))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'Parser key "data.dataset":\n  Type Callable[[str], Dataset] expects a function or a callable class: '
            "Expected 'mine.readings' to be a function that returns Dataset[Any].. Got value: mine.readings",
            "data.dataset: 'mine.readings' is a function without the annotation `-> Dataset`; write it, and return one"
            ", or give a class that is a Dataset",
        ),
        (
            "Subcommand 'fit' does not accept option 'trainer.max_epcohs'",
            "unknown key 'trainer.max_epcohs'; did you mean 'trainer.max_epochs'?",
        ),
        (
            "unrecognized arguments: --data.batch_sise 4",
            "unknown key '--data.batch_sise'; did you mean '--data.batch_size'?",
        ),
        (
            UNION.format(problem="Option 'chanels' is not accepted"),
            "model.model: unknown key 'chanels' of lightning_mm.models.MultiEncoderSegmenter; did you mean 'channels'?",
        ),
        (
            UNION.format(problem="Group 'distillation' does not accept option 'weigt'"),
            "model.model.distillation: unknown key 'weigt'; --help lists all keys, --print_config shows a config in "
            "full",
        ),
        (
            UNION.format(
                problem="Parser key \"decoder\":\n              Expected a typing.Literal['unet', 'fpn']. Got value: x"
            ),
            "model.model.decoder: Expected a typing.Literal['unet', 'fpn']. Got value: x",
        ),
        (
            "Parser key \"data.dataset\":\n  module 'lightning_mm.data' has no attribute 'Scens'",
            "data.dataset: 'lightning_mm.data' has no class 'Scens'; did you mean 'lightning_mm.data.Scenes'?",
        ),
        (
            "Parser key \"model\":\n  Problem with given class_path 'no_such.Model':\n    No module named 'no_such'",
            "model: cannot import 'no_such.Model': there is no module 'no_such'; modules are found in the folder "
            "in which the command runs, in the folders of PYTHONPATH, and where packages are installed",
        ),
    ],
)
def test_config_mistakes_name_the_key_and_the_nearest_one(
    message: str, expected: str, parser: argparse.ArgumentParser
) -> None:
    assert shorten(message, parser) == expected


def test_a_key_like_no_other_lists_what_can_be_given(parser: argparse.ArgumentParser) -> None:
    message = shorten("Subcommand 'fit' does not accept option 'zzz'", parser)
    assert "expected one of" in message
    assert "trainer.max_epochs" in message


def test_arguments_of_a_class_include_those_it_passes_on() -> None:
    assert arguments_of("torch.nn.Linear")[:2] == ["in_features", "out_features"]
    assert {"channels", "decoder"} <= set(arguments_of("lightning_mm.models.MultiEncoderSegmenter"))
    assert arguments_of("no_such.Thing") == []


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"lightning-mm {__version__}"
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n  {verb} " not in out] == []


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["fot"], 2, "got 'fot'; did you mean 'fit'?"),
        (["table"], 2, "the following arguments are required: SWEEP"),
        (["table", "--otu", "x", "y"], 2, "unrecognized arguments: --otu"),
        (["table", "/nowhere/sweep.csv"], 1, "no sweep at /nowhere/sweep.csv"),
        (["demo", "--quick"], 2, "unrecognized arguments: --quick"),
    ],
)
def test_mistakes_on_the_command_line(
    args: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(args) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lightning-mm: error: ")
    assert text in lines[0]
    monkeypatch.setenv("LIGHTNING_MM_TRACEBACK", "1")
    with pytest.raises(LightningMMError):
        main(args)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("lightning_mm.cli.dispatch._dispatch", defect)
    with pytest.raises(KeyError, match="ours"):
        main(["fit"])


@pytest.mark.parametrize("given", ["{} null", "{}=null", "{} x.pth {}=null"])
def test_null_means_null_for_a_setting_of_a_class_inside_of_a_class(
    given: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = tmp_path / "before.yaml"
    before.write_text("model: {init_args: {model: {init_args: {encoder_weights: imagenet}}}}")
    words = given.replace("{}", "--model.init_args.model.init_args.encoder_weights").split()
    config = ["-c", str(REPOSITORY / "experiments" / "scenes" / "base.yaml"), "-c", str(before)]
    assert main(["fit", *config, *words, "--print_config"]) == 0
    network = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["model"]["init_args"]
    assert network["encoder_weights"] is None
    assert list(network["channels"]) == ["rgb", "depth", "thermal"], "the rest of the network stays"
