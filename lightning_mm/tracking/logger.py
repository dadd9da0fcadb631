"""A Weights & Biases logger that never asks for a login, and whose failures never end a training."""

from __future__ import annotations

import netrc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _add_prefix
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from lightning_mm.errors import LightningMMError, shown
from lightning_mm.settings_files import tell_secrets
from lightning_mm.tracking.folders import remove_staged, stage_in_run, unsent_parts, written_step
from lightning_mm.tracking.history import History
from lightning_mm.tracking.identity import FitRun, slurm_job

DEFAULT_SERVER = "https://api.wandb.ai"
NOTED_EVERY = 15.0
"""Seconds between two notes of how far a fit has got."""


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger`` with offline runs if there is no login.

    ``WANDB_MODE`` takes precedence; otherwise the run is online with ``WANDB_API_KEY`` or a login in the netrc file,
    which ``wandb login`` writes, and else offline. ``wandb sync FOLDER`` uploads an offline run later, from any machine
    that sees its folder at the same place.

    A ``fit`` of the command line that resumes a checkpoint continues its run; offline, in a second folder with the same
    id: sync both, the older one first, as the command at the end of the fit does. The training then makes one line per
    step, each once, however often it is resumed.

    Files of artifacts (tables among them) wait in the folder of the run until they are uploaded, or where
    ``WANDB_DATA_DIR`` says. If W&B fails within a command, as when its process is ended, the command goes on
    without it.

    Args:
        project: Project of the run.
        name: Name of the run; default: W&B generates one.
        save_dir: Folder of ``wandb/``.
        id: Id of the run, to resume it.
        group: Name that related runs share, e.g. the seeds of one setting.
        tags: Labels of the run.
        log_model: Whether checkpoints are uploaded, see Lightning; offline, copies wait in the folder of the run.
        flush_seconds: The last seconds of an offline run that a kill may lose; the default of W&B is 15. A resume of
            the fit writes them again. Needs wandb 0.31.
        settings: Entries of ``wandb.Settings`` by name, or such an object.
        anonymous: Without effect in newer versions of W&B.
        kwargs: Passed to ``wandb.init``.

    Raises:
        LightningMMError: If ``settings`` has an unknown name or a wrong value.
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
        settings: Any = None,
        anonymous: bool | None = None,
        **kwargs: Any,
    ) -> None:
        own: dict[str, Any] = {}
        if flush_seconds is not None:
            own["x_transaction_log_flush_interval"] = flush_seconds
        if tell_secrets(sys.argv):  # W&B keeps the command
            own["x_disable_meta"] = True
        # W&B writes to the temporary folder of the system if this one is missing.
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        # `mode`, as Lightning's `offline` changes the environment of the whole process; jsonargparse passes None for
        # settings that a config leaves out.
        if kwargs.get("mode") is None:
            kwargs["mode"] = wandb_mode()
        if kwargs.get("resume") is None:  # or a run of this id would be overwritten
            kwargs["resume"] = "allow"
        super().__init__(
            project=project, name=name, save_dir=save_dir, id=id, log_model=log_model, group=group, tags=tags,
            settings=_merged(settings, own), anonymous=anonymous, **kwargs,
        )  # fmt: skip
        # Lightning passes None, which W&B warns of.
        if self._wandb_init.get("anonymous") is None:
            self._wandb_init.pop("anonymous", None)
        self.failure: str | None = None
        """What W&B said when it failed; nothing is logged after that."""
        self.fit_run: FitRun | None = None
        """The run of the fit that is followed; ``None`` before it is open, and for other verbs."""
        self._history: History | None = None
        self._now: Callable[[], int] = int  # returns the step that the training is in
        self._plan: tuple[Path, str, FitRun | None] | None = None
        self._noted = 0.0

    def set_defaults(self, config: Mapping[str, Any] | None = None, **arguments: Any) -> None:
        """Set arguments of ``wandb.init`` that the config leaves out, such as ``job_type``; before the run opens.

        Args:
            config: Entries for the config of the run, besides those of the user.
            arguments: Further arguments.
        """
        for name, value in arguments.items():
            if self._wandb_init.get(name) is None:
                self._wandb_init[name] = value
        if config:
            self._wandb_init["config"] = {**config, **(self._wandb_init.get("config") or {})}

    def follow_fit(self, folder: Path, key: str, before: FitRun | None, now: Callable[[], int]) -> None:
        """Write the lines of a fit each once, and note its run in ``wandb_run.json``; before the run opens.

        Args:
            folder: Of the fit.
            key: Of its config, see :func:`lightning_mm.tracking.identity.config_key`.
            before: The run that it continues; a new one by default.
            now: Returns the step that the training is in, from 0.
        """
        self._plan, self._now = (folder, key, before), now
        if before is not None and "WANDB_RUN_ID" not in os.environ:
            self.set_defaults(id=before.id, group=before.group)
            self._id = self._wandb_init["id"]

    @property
    def disabled(self) -> bool:
        """Whether runs record nothing, as ``WANDB_MODE=disabled`` asks."""
        return self._wandb_init["mode"] == "disabled"

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, opened when it is first asked for; see Lightning."""
        if self._experiment is None:
            self._opened(self._open())
        return self._experiment

    def _open(self) -> Any:
        before = self._plan[2] if self._plan else None
        if self._wandb_init["mode"] == "offline":
            self._wandb_init["resume"] = None  # W&B would warn that it takes this for a new run, until it is synced
        if before is None or self._wandb_init["mode"] != "online":
            return super().experiment
        if unsent_parts(Path(self.save_dir or "."), before.id):
            why = "earlier parts of this run are offline and not uploaded yet"
        else:
            try:
                return super().experiment
            except Exception as error:
                if not failed(error):
                    raise
                why = reason(error)
        rank_zero_info(f"Weights & Biases: {why}; this part of the run is offline too, `wandb sync` uploads it later")
        self._wandb_init.update(mode="offline", resume=None)
        return super().experiment

    def _opened(self, run: Any) -> None:
        if getattr(run, "disabled", False):
            return
        stage_in_run(run)
        job = slurm_job()
        if job:
            run.config.update({"slurm": job}, allow_val_change=True)
        if self._plan is None:
            return
        folder, key, before = self._plan
        if before is None or before.id != run.id:
            before, known = FitRun(run.id, key), -1
        else:
            written = written_step(Path(self.save_dir or "."), run.id) if run.offline else run.starting_step - 1
            known = before.step if written is None else max(written - before.ahead, -1)
        self._history = History(self._write, known, before.ahead)
        self._history.bring_back(before.lines)
        place = {"project": run.project, "entity": run.entity or None, "group": run.group or None}
        self.fit_run = replace(before, **place, url=run.url or None, step=known, finished=False, lines=())
        self.fit_run.write(folder)

    def _write(self, values: dict[str, Any], step: int) -> int:
        with self.guarded() as works:
            if works:
                run: Any = self._experiment
                # Lines that were logged without a step may have taken this one, and W&B drops what comes late.
                place = max(step, int(run.step))
                run.log(values, step=place, commit=True)
                return place
        return step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values; those of one step of a followed fit make one line. See Lightning."""
        _ = self.experiment
        if self._history is None or step is None or step != self._now():
            with self.guarded() as works:
                if works:
                    super().log_metrics(metrics, step)
            return
        named = _add_prefix(dict(metrics), self._prefix, self.LOGGER_JOIN_CHAR)
        self._history.add(step, {**named, "trainer/global_step": step})
        if time.monotonic() - self._noted > NOTED_EVERY:
            self._note()

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add settings to the config of the run, see Lightning."""
        _ = self.experiment
        with self.guarded() as works:
            if works:
                super().log_hyperparams(params)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Upload a checkpoint, if ``log_model`` asks for it; see Lightning."""
        with self.guarded() as works:
            if works:
                super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is still open; see Lightning."""
        if self._history is not None:
            self._history.end(finished=status == "success")
            self._note(finished=status == "success")
        with self.guarded() as works:
            if works:
                super().finalize(status)

    def step_began(self) -> None:
        """Write the line of the step before."""
        if self._history is not None:
            self._history.close(before=self._now())

    def for_checkpoint(self, step: int, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The entry that names the run in a checkpoint; ``None`` if no fit is followed.

        Args:
            step: A step of the training, from 0.
            values: What is still logged in this step, and not by a resume from the checkpoint.
        """
        if self._history is None or self.fit_run is None:
            return None
        added = {**values, "trainer/global_step": step} if values else {}
        lines = self._history.keep(step, added)
        self._note()
        return replace(self.fit_run, lines=lines).entry()

    def _note(self, finished: bool = False) -> None:
        if self._plan is None or self._history is None or self.fit_run is None:
            return
        self._noted = time.monotonic()
        self.fit_run = replace(self.fit_run, step=self._history.step, ahead=self._history.ahead, finished=finished)
        with suppress(LightningMMError):  # a full disk: the training says so when it writes its checkpoint
            self.fit_run.write(self._plan[0])

    @contextmanager
    def guarded(self) -> Iterator[bool]:
        """A block that goes on without W&B when it fails; yields False if it has failed before."""
        if self.failure is not None:
            yield False
            return
        try:
            yield True
        except Exception as error:
            if not failed(error):
                raise
            self.failure = reason(error)
            if self._history is not None:
                self._history.lost_since = time.monotonic()
            rank_zero_warn(
                f"Weights & Biases: {self.failure}; the command goes on without it, and a resume of a fit logs again "
                "what is missing"
            )


def _merged(given: Any, own: Mapping[str, Any]) -> Any:
    """Settings of the user with those of the logger; ``None`` if there are none."""
    if given is None and not own:
        return None
    import wandb

    values = dict(given) if isinstance(given, Mapping) else {}
    if values.get("console") is False:  # YAML reads `off` so
        values["console"] = "off"
    # the user's come first, but for the command line with its secrets
    values = {**own, **values, **({"x_disable_meta": True} if own.get("x_disable_meta") else {})}
    try:
        if given is None or isinstance(given, Mapping):
            return wandb.Settings(**values)
        return given.model_copy(update=values)
    except (ValueError, AttributeError) as error:
        raise LightningMMError(
            f"settings: expected entries of wandb.Settings such as {{console: 'off'}}, got {shown(given)}: "
            f"{reason(error)}"
        ) from error


def finish_run(run: Any, exit_code: int) -> None:
    """Finish a run; a failure of W&B is said, and costs nothing else.

    Args:
        run: An open run.
        exit_code: 0 if the command did what it should.
    """
    try:
        run.finish(exit_code=exit_code)
        remove_staged(run)
    except Exception as error:
        if not failed(error):
            raise
        rank_zero_warn(f"Weights & Biases: {reason(error)}; the end of the run is not recorded")
        import wandb

        with suppress(Exception):  # or it would print a traceback when Python ends
            wandb.teardown()


def is_of_wandb(error: Exception) -> bool:
    """Whether W&B raised an error: no server, no login, a request or (by pydantic) a setting that is refused."""
    return type(error).__module__.partition(".")[0] in ("wandb", "pydantic_core")


def failed(error: Exception) -> bool:
    """Whether an error says that W&B does not work any more, rather than that it was used wrongly."""
    return is_of_wandb(error) or isinstance(error, (ConnectionError, TimeoutError))


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


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
