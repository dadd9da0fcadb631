"""Offline unless there is a login; the environment wins and is not changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.tracking import OfflineFirstWandbLogger
from lightning_mm.tracking.logger import wandb_mode

ENTRY = "machine {} login user password {}\n"


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No login anywhere; gives the place of a netrc file that does not exist yet."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_offline_without_a_login(nothing_set: Path) -> None:
    assert wandb_mode() == "offline"
    nothing_set.write_text(ENTRY.format("example.org", "x" * 40) + "default login someone password y\n")
    assert wandb_mode() == "offline"
    nothing_set.write_text("machine machine machine {{{")
    assert wandb_mode() == "offline"


def test_online_with_a_login(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_set.write_text(ENTRY.format("api.wandb.ai", "x" * 40))
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode() == "offline"
    nothing_set.write_text(ENTRY.format("wandb.example.org", "x" * 40))
    assert wandb_mode() == "online"


def test_online_with_a_key(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert wandb_mode() == "online"


@pytest.mark.parametrize(
    ("wish", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled"), ("online", "online")]
)
def test_the_environment_wins(nothing_set: Path, monkeypatch: pytest.MonkeyPatch, wish: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", wish)
    assert wandb_mode() == mode


def test_making_a_logger_starts_nothing_and_leaves_the_environment(nothing_set: Path, tmp_path: Path) -> None:
    before = dict(os.environ)
    logger = OfflineFirstWandbLogger(save_dir=str(tmp_path / "runs"), name="a run")
    assert dict(os.environ) == before
    assert logger.name == "lightning_mm"
    assert logger.save_dir == str(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_config_that_leaves_the_mode_out_is_offline_too(nothing_set: Path, tmp_path: Path) -> None:
    # jsonargparse hands over None for every argument of wandb.init that the config does not name
    logger = OfflineFirstWandbLogger(save_dir=str(tmp_path), mode=None, settings=None, resume=None)
    assert (logger._wandb_init["mode"], logger._wandb_init["resume"]) == ("offline", "allow")


def test_settings_are_merged(nothing_set: Path, tmp_path: Path) -> None:
    given = {"console": False, "x_disable_stats": True}  # YAML reads `off` as False
    settings = OfflineFirstWandbLogger(save_dir=str(tmp_path), settings=given, flush_seconds=2.0)._wandb_init[
        "settings"
    ]
    assert (settings.console, settings.x_disable_stats) == ("off", True)
    assert settings.x_transaction_log_flush_interval == 2.0
    again = OfflineFirstWandbLogger(save_dir=str(tmp_path), settings=settings, flush_seconds=3.0)._wandb_init[
        "settings"
    ]
    assert (again.x_disable_stats, again.x_transaction_log_flush_interval) == (True, 3.0)
    with pytest.raises(
        LightningMMError, match=r"settings: expected entries of wandb\.Settings .*got \{'consol': 'off'\}"
    ):
        OfflineFirstWandbLogger(save_dir=str(tmp_path), settings={"consol": "off"})


def test_defaults_fill_what_the_config_leaves_out(nothing_set: Path, tmp_path: Path) -> None:
    logger = OfflineFirstWandbLogger(save_dir=str(tmp_path), group="mine")
    logger.set_defaults(job_type="sweep", group="other")
    assert (logger._wandb_init["job_type"], logger._wandb_init["group"]) == ("sweep", "mine")


def test_a_command_with_a_secret_is_not_kept(
    nothing_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lightning-mm", "fit", "--model.init_args.api_key=abc"])
    assert OfflineFirstWandbLogger(save_dir=str(tmp_path))._wandb_init["settings"].x_disable_meta
    monkeypatch.setattr("sys.argv", ["lightning-mm", "fit"])
    assert OfflineFirstWandbLogger(save_dir=str(tmp_path))._wandb_init.get("settings") is None
