"""Profiles: found by path or name, read as written, refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_mm.cluster.submission.profile import find_profile, profiles_folder, read_profile, settings_of
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.schemas.job_settings import OPTIONS, JobSettings

WHOLE = """
partition: booster          # comments stay out
account: abc
gpus_per_node: 4
cpus_per_task: 12
time: 24:00:00
qos:
modules: [CUDA/12, Stages/2026]
environment: {NCCL_SOCKET_IFNAME: ib0, OMP_NUM_THREADS: 012, NCCL_ASYNC_ERROR_HANDLING: yes}
srun: {container-image: image.sqsh}
sbatch: {mail-type: END, begin: 16:00:00}
setup:
- source ~/venv/bin/activate
signal: USR1
warn_before: 300
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "juwels.yaml"
    path.write_text(text)
    return path


def test_values_are_read_as_they_are_written(tmp_path: Path) -> None:
    settings = settings_of(read_profile(written(tmp_path, WHOLE)), "juwels.yaml")
    assert (settings.time, settings.gpus_per_node, settings.qos) == ("24:00:00", 4, None)
    assert settings.environment["OMP_NUM_THREADS"] == "012"
    assert settings.environment["NCCL_ASYNC_ERROR_HANDLING"] == "yes"
    assert settings.sbatch == {"mail-type": "END", "begin": "16:00:00"}
    assert (settings.ranks, settings.signal, settings.max_requeues) == (4, "USR1", 20)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion: gpu", "unknown key 'partion'; did you mean 'partition'?"),
        ("gpus-per-node: 4", "unknown key 'gpus-per-node'; did you mean 'gpus_per_node'?"),
        ("colour: red", "unknown key 'colour'; expected some of nodes, gpus_per_node,"),
        ("nodes: two", "nodes: expected a whole number, got 'two'"),
        ("nodes: 0", "nodes: expected at least 1, got '0'"),
        ("signal: HUP", "signal: expected 'USR1' or 'USR2', got 'HUP'"),
        ("modules: CUDA", "modules: expected a list, with - in front of each entry, got 'CUDA'"),
        ("setup: {a: b}", "setup: expected a list"),
        ("environment: [A]", "environment: expected keys and values"),
        ("environment: {A-B: c}", "environment.A-B: expected the name of a variable, such as NCCL_DEBUG, got 'A-B'"),
        ("sbatch: {--mail-type: END}", "expected the long name of an option without dashes in front"),
        ('setup: ["a\\nb"]', "setup.0: expected text of one line"),
        ('partition: ""', "partition: expected text of one line, with something in it"),
        ("partition: a\npartition: b", "the key 'partition' is there twice"),
        ("- a", "expected keys and values"),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LightningMMError) as caught:
        read_profile(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "lightning_mm" / "profiles"
    assert profiles_folder() == folder
    with pytest.raises(DataNotFoundError, match=r"no profile 'juwels' in .*; there is none yet; or give the path"):
        find_profile("juwels")
    folder.mkdir(parents=True)
    path = written(folder, "nodes: 2")
    assert find_profile("juwels") == path
    assert find_profile(str(path)) == path
    with pytest.raises(DataNotFoundError, match="did you mean"):
        find_profile("juwel")
    with pytest.raises(DataNotFoundError, match=r"there is no file other\.yaml"):
        find_profile("other.yaml")


def test_profiles_are_at_home_by_default(tmp_path: Path) -> None:
    assert profiles_folder({}) == Path.home() / ".config" / "lightning_mm" / "profiles"


def test_options_are_keys() -> None:
    assert set(OPTIONS) < set(JobSettings.model_fields)
    assert "partition" in OPTIONS
    assert "setup" not in OPTIONS
