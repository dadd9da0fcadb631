"""A Weights & Biases logger that never asks for a login."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger

from lightning_mm.settings_files import tell_secrets

DEFAULT_SERVER = "https://api.wandb.ai"


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger`` with offline runs if there is no login.

    ``WANDB_MODE`` takes precedence; otherwise the run is online with ``WANDB_API_KEY`` or a login in the netrc file,
    which ``wandb login`` writes, and else offline. ``wandb sync FOLDER`` uploads an offline run later. An offline run
    that is resumed writes a second folder with the same id: sync both.

    Args:
        project: Project of the run.
        name: Name of the run; default: W&B generates one.
        save_dir: Folder of ``wandb/``.
        id: Id of the run, to resume it.
        group: Name that related runs share, e.g. the seeds of one setting.
        tags: Labels of the run.
        log_model: Whether checkpoints are uploaded, see Lightning; offline, they are stored with the run.
        flush_seconds: The last seconds of an offline run that a kill may lose; the default of W&B is 15. Needs wandb
            0.31.
        kwargs: Passed to ``wandb.init``.
    """

    def __init__(
        self,
        project: str = "lightning_mm",
        name: str | None = None,
        save_dir: str = ".",
        id: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        log_model: Literal["all"] | bool = False,
        flush_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        settings: dict[str, Any] = {}
        if flush_seconds is not None:
            settings["x_transaction_log_flush_interval"] = flush_seconds
        if tell_secrets(sys.argv):  # W&B keeps the command
            settings["x_disable_meta"] = True
        if settings and kwargs.get("settings") is None:
            import wandb

            kwargs["settings"] = wandb.Settings(**settings)
        # W&B writes to the temporary folder of the system if this one is missing.
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        # `mode`, as Lightning's `offline` changes the environment of the whole process; jsonargparse passes None for
        # settings that a config leaves out.
        if kwargs.get("mode") is None:
            kwargs["mode"] = wandb_mode()
        super().__init__(
            project=project, name=name, save_dir=save_dir, id=id, log_model=log_model, group=group, tags=tags,
            **kwargs,
        )  # fmt: skip
        # Lightning passes None, which W&B warns of.
        if self._wandb_init.get("anonymous") is None:
            self._wandb_init.pop("anonymous", None)

    def set_defaults(self, **arguments: Any) -> None:
        """Set arguments of ``wandb.init`` that the config leaves out, such as ``job_type``; before the run opens."""
        for name, value in arguments.items():
            if self._wandb_init.get(name) is None:
                self._wandb_init[name] = value


def is_of_wandb(error: Exception) -> bool:
    """Whether W&B raised an error: no server, no login, a request or (by pydantic) a setting that is refused."""
    return type(error).__module__.partition(".")[0] in ("wandb", "pydantic_core")


def wandb_mode() -> Literal["online", "offline", "shared", "disabled"]:
    """Return the mode of a new run: ``WANDB_MODE`` if set, otherwise online if there is a login."""
    wish = os.environ.get("WANDB_MODE", "").lower()
    if wish in ("online", "offline", "shared", "disabled"):
        return wish  # type: ignore[return-value]
    if wish == "dryrun":
        return "offline"
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_login() else "offline"


def _has_netrc_login() -> bool:
    """Return whether the netrc file, which ``wandb login`` writes, has an entry for the W&B server."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).netloc
    chosen = os.environ.get("NETRC")
    places = [Path(chosen)] if chosen else [Path("~/.netrc"), Path("~/_netrc")]
    for place in places:
        try:
            # `hosts`, as authenticators() returns a `default` entry for any server
            if server in netrc.netrc(place.expanduser()).hosts:
                return True
        except (OSError, RuntimeError, netrc.NetrcParseError):
            continue
    return False
