"""Tells a user's mistakes from defects of ours and shortens their messages: one message, no traceback."""

from __future__ import annotations

import argparse
import re
import sys
from typing import NoReturn

from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.files import CLOSED, FULL, MAKE_ROOM

SHOWN = 3
"""How many keys of a checkpoint a message names."""

PLACES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Errors of a path that a user has given."""

_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|inline_container\.cc:\d+\] \. unexpected pos")
_OTHER_TASKS = re.compile(r"You set `(devices|num_nodes)=(\d+)` in Lightning, but .* SLURM `--[a-z-]+=(\d+)`")
_QUOTED = re.compile(r'"([^"]+)"')
_MISMATCH = re.compile(r"size mismatch for ([\w.]+): .*?torch\.Size\((\[[\d, ]*\])\).*?torch\.Size\((\[[\d, ]*\])\)")


class Parser(argparse.ArgumentParser):
    """Options of the verbs that are not LightningCLI's; mistakes are raised, not printed with the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return message and exit code of a user's mistake; ``None`` for everything else, which is a defect of ours."""
    # jsonargparse wraps what a constructor raises into a ValueError that lists all types that were tried.
    while type(error) is ValueError and error.__cause__ is not None:
        error = error.__cause__
    text = from_worker(str(error))
    if isinstance(error, UsageError):
        return text, 2
    if _is_reference(error):
        return wrong_reference(error), 2
    if isinstance(error, LightningMMError) or _is_misconfiguration(error):
        return text, 1
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{'' if error.filename is None else f'{error.filename}: '}{error.strerror}; {MAKE_ROOM}", 1
    if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text):
        return f"a file could not be written, as on a full disk ({text.splitlines()[0]}); {MAKE_ROOM}", 1
    if isinstance(error, OSError) and (isinstance(error, PLACES) or error.errno in CLOSED):
        return text if error.filename is None else f"{error.filename}: {error.strerror}", 1
    if type(error).__module__.partition(".")[0] == "wandb":
        said = text.strip() or type(error).__name__
        return f"Weights & Biases: {said}; log in with `wandb login`, or set WANDB_MODE=offline", 1
    if type(error) is ValueError and text.startswith("loaded state dict "):
        return f"the checkpoint's optimizer does not fit the one of the settings ({text}); give those of its run", 1
    unlike = _OTHER_TASKS.match(text) if type(error) is ValueError else None
    if unlike:
        what = "tasks on each node" if unlike[1] == "devices" else "nodes"
        message = f"srun has started {unlike[3]} {what}, but the trainer has {unlike[1]}={unlike[2]}"
        return f"{message}; give --trainer.{unlike[1]} {unlike[3]}", 1
    if isinstance(error, RuntimeError) and text.startswith("Error(s) in loading state_dict"):
        return another_network(text), 1
    return None


def from_worker(text: str) -> str:
    """Extract the message from the text of an error in a DataLoader's worker.

    Example:
        >>> from_worker("Caught ValueError in DataLoader worker process 0.\\nOriginal Traceback ...\\nValueError: no")
        'no'
    """
    caught = re.match(r"Caught (\w+) in \w+ worker process", text)
    if not caught:
        return text
    # The last line that starts with the error's name: earlier ones belong to errors that led to it.
    starts = list(re.finditer(rf"^(?:[\w.]+\.)?{caught[1]}: ", text, re.MULTILINE))
    return text[starts[-1].end() :].rstrip() if starts else text


def another_network(text: str) -> str:
    """Shorten PyTorch's list of keys that do not fit, which can be hundreds of lines."""
    name = re.match(r"Error\(s\) in loading state_dict for (\w+)", text)
    findings = []
    for what, heading in (("lacks", "Missing"), ("has unknown", "Unexpected")):
        keys = re.search(rf"{heading} key\(s\) in state_dict: (.*)", text)
        if keys:
            findings.append(f"{what} {_some(_QUOTED.findall(keys[1]))}")
    shapes = [f"{key} {came} instead of {wanted}" for key, came, wanted in _MISMATCH.findall(text)]
    if shapes:
        findings.append(f"has other shapes: {_some(shapes)}")
    return (
        f"the checkpoint holds another network than the settings ask for ({name[1] if name else 'model'}): it "
        + "; ".join(findings or ["does not fit"])
        + "; give the configs of the run that wrote it"
    )


def wrong_reference(error: BaseException) -> str:
    """Shorten OmegaConf's message about a ``${...}`` that cannot be resolved."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    place = getattr(error, "full_key", None)
    if "is not an int" in reason:
        # references are kept relative to their place, which is another one in the list that += makes of a single value
        setting = str(place).partition("[")[0].rpartition("trainer.")[2]
        return (
            f"{place}: cannot resolve a reference ${{...}} in a setting that += has made a list of; write it as a list "
            f"in the config file, with - before its class_path, and then add to it with --trainer.{setting}+="
        )
    return (
        f"{f'{place}: ' if place else ''}cannot resolve a reference ${{...}}: {reason}; write the full path of another "
        "setting, such as ${data.batch_size}, or ${oc.env:NAME} for a variable of the environment"
    )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _is_reference(error: BaseException) -> bool:
    module = sys.modules.get("omegaconf.errors")
    return module is not None and isinstance(error, (module.OmegaConfBaseException, module.GrammarParseError))


def _is_misconfiguration(error: BaseException) -> bool:
    # Not imported: code that raises it has done so, and an error of `table` need not wait for Lightning.
    module = sys.modules.get("lightning.fabric.utilities.exceptions")
    return module is not None and isinstance(error, module.MisconfigurationException)
