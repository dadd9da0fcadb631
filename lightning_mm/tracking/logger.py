"""A Weights & Biases logger that never asks for a login: without one, runs are offline."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger

DEFAULT_SERVER = "https://api.wandb.ai"


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger``, but without a login the run is written to disk instead of asking for one.

    ``WANDB_MODE`` wins; otherwise the run is online with ``WANDB_API_KEY`` or a login in the netrc file, which ``wandb
    login`` writes, and offline without. An offline run is sent later with ``wandb sync FOLDER``. An offline run that is
    resumed writes a second folder with the same id: sync both.

    Args:
        project: Project of the run.
        name: Name of the run; W&B makes one up by default.
        save_dir: Folder of ``wandb/``.
        id: Id of the run, to resume it.
        group: Name shared by related runs, e.g. the seeds of one setting.
        tags: Labels of the run.
        log_model: Whether checkpoints are uploaded, see Lightning; offline they are stored with the run.
        flush_seconds: How much of an offline run a kill can lose; W&B's own default is 15. Needs wandb 0.31.
        kwargs: For ``wandb.init``.
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
        if flush_seconds is not None:
            import wandb

            if kwargs.get("settings") is None:
                kwargs["settings"] = wandb.Settings(x_transaction_log_flush_interval=flush_seconds)
        # W&B writes to the system's temporary folder if this one is missing.
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        # `mode` rather than Lightning's `offline`, which changes the environment of the whole process; jsonargparse
        # fills in None for what a config leaves out.
        if kwargs.get("mode") is None:
            kwargs["mode"] = wandb_mode()
        super().__init__(
            project=project, name=name, save_dir=save_dir, id=id, log_model=log_model, group=group, tags=tags,
            **kwargs,
        )  # fmt: skip
        # Lightning passes None too, which makes W&B warn.
        if self._wandb_init.get("anonymous") is None:
            self._wandb_init.pop("anonymous", None)


def wandb_mode() -> Literal["online", "offline", "shared", "disabled"]:
    """The mode of a new run: ``WANDB_MODE`` if set, otherwise online if there is a login."""
    wish = os.environ.get("WANDB_MODE", "").lower()
    if wish in ("online", "offline", "shared", "disabled"):
        return wish  # type: ignore[return-value]
    if wish == "dryrun":
        return "offline"
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_login() else "offline"


def _has_netrc_login() -> bool:
    """Whether the netrc file, which ``wandb login`` writes, has the W&B server."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER).netloc
    chosen = os.environ.get("NETRC")
    places = [Path(chosen)] if chosen else [Path("~/.netrc"), Path("~/_netrc")]
    for place in places:
        try:
            # `hosts`, since authenticators() would answer any server with a `default` entry.
            if server in netrc.netrc(place.expanduser()).hosts:
                return True
        except (OSError, RuntimeError, netrc.NetrcParseError):
            continue
    return False
