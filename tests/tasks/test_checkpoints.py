"""Files that hold more than weights are refused with the way out, and that way works."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.checkpoints import read_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_network_is_refused_and_the_command_of_the_error_saves_its_weights(
    tmp_path: Path, zipped: bool
) -> None:
    network, path = nn.Sequential(nn.Linear(2, 3)), tmp_path / "whole.pt"
    torch.save(network, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        LightningMMError, match=r"holds an object of torch\.nn\.modules\.container\.Sequential"
    ) as found:
        read_checkpoint(path)
    command = re.search(r'python -c "(.*)"', str(found.value))
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    state = read_checkpoint(tmp_path / "weights.pt")
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def test_an_object_among_the_weights_is_named_and_no_code_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for value, name in ((argparse.Namespace(levels=5), r"argparse\.Namespace"), (Evil(), r"(posix|nt)\.system")):
        torch.save({"state_dict": {}, "settings": value}, tmp_path / "mixed.ckpt")
        with pytest.raises(LightningMMError, match=rf"mixed\.ckpt holds an object of {name} and not only tensors"):
            read_checkpoint(tmp_path / "mixed.ckpt")
    assert not (tmp_path / "ran").exists()
