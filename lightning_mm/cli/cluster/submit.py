"""``lightning-mm submit slurm|local [options] -- fit|sweep|compare ...``: run a command as a job."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError, UsageError

if TYPE_CHECKING:
    from lightning_mm.cluster.scheduler import Scheduler
    from lightning_mm.cluster.submission.run_job import RunJob
    from lightning_mm.schemas.job_settings import JobSettings

SCHEDULERS = {"slurm": "a cluster, with sbatch", "local": "this machine, in the background"}
VERBS = ("fit", "sweep", "compare")
FROM_RESOURCES = ("accelerator", "devices", "num_nodes")
"""Settings of the trainer that follow from what the job asks for."""
OTHER_SETTINGS = (
    "a submitted fit goes on from its own checkpoints only: remove it or give another --trainer.default_root_dir to "
    "start anew, and --model.init_args.base_ckpt to start from its weights"
)
USAGE = "lightning-mm submit slurm|local [options] -- fit|sweep|compare ARGUMENTS"


def run_submit(args: list[str]) -> None:
    """Submit a command."""
    options, words = parse(args)
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.settings_files import masked_words

    settings = settings_from(options)
    command = shlex.join(["lightning-mm", "submit", *masked_words(args)])
    scheduler = scheduler_of(options.scheduler)
    if words[0] == "compare":
        if options.array is not None or options.after:
            raise UsageError("--array and --after are for fit and sweep; the jobs of a study follow from the study")
        if any(word.partition("=")[0] == "--jobs" for word in words):
            how = "--jobs" if options.scheduler == "local" else "--array_limit"
            raise UsageError(
                f"--jobs: each network of a submitted study is a task of its own; give {how} before the -- to limit "
                "how many run at the same time"
            )
        from lightning_mm.cli.cluster.study import submit_compare

        _check_resources(scheduler, settings, True, options.dry_run)
        submit_compare(words[1:], options.scheduler, settings, command, options.dry_run)
        return
    _check_words(words, options)
    _check_resources(scheduler, settings, words[0] == "fit", options.dry_run)
    job = _looked_at(words, options, settings, command)
    if options.dry_run:
        print(job.script().text(), end="")
        merge = job.merge_script()
        if merge is not None:
            print(f"\n# {job.folder / 'merge.sh'}, after it:\n{merge.text()}", end="")
        return
    job.check_free(scheduler_of)
    if words[0] == "fit" and _has_finished(job):
        folder = _shown(job.run_folder)
        print(f"nothing was queued: this fit has finished; to train anew, empty {folder} or give another folder")
        return
    submitted = job.submit(scheduler, options.scheduler, options.after)
    log = job.script().log.name.replace("%j", submitted.id).replace("%A_%a", f"{submitted.id}_*")
    folder = _shown(job.folder)
    print(f"job {submitted.id}: {words[0]} {_resources(settings, job.shards)}")
    if submitted.merge is not None:
        print(f"job {submitted.merge}: merges the shards into {_shown(job.out)}, after it")
    ids = " ".join([submitted.id, *([submitted.merge] if submitted.merge else [])])
    cancel = f"scancel {ids}" if options.scheduler == "slurm" else f"lightning-mm cancel {_shown(job.run_folder)}"
    print(f"script: {folder / 'job.sh'}\nfollow: tail -F {folder / log}\ncancel: {cancel}")


def parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the options of a submission from the command, and parse them."""
    own, words = list(args), []
    if "--" in own:
        at = own.index("--")
        own, words = own[:at], own[at + 1 :]
    parser = Parser(
        "lightning-mm submit",
        usage=USAGE,
        description="Run a command as a job. Its config is looked at and frozen first, and one script is written to "
        "the folder of its run: what it shows is what runs. A training that a time limit or a preemption ends goes on "
        "where it was. Options may come from a profile, the command line wins.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "scheduler",
        choices=SCHEDULERS,
        metavar="slurm|local",
        help="where: " + ", or ".join(f"{name}, {what}" for name, what in SCHEDULERS.items()),
    )
    parser.add_argument(
        "--profile", help="a YAML file of these options, or its name in ~/.config/lightning_mm/profiles"
    )
    add_settings(parser)
    parser.add_argument("--array", type=int, metavar="K", help="split a sweep over K jobs, and merge them")
    parser.add_argument("--after", nargs="+", default=[], metavar="ID", help="start when these jobs have ended")
    parser.add_argument("--dry_run", action="store_true", help="print the script; nothing is written or queued")
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="only read the config, for a command that needs what an earlier job has yet to write",
    )
    options = parser.parse_args(own)
    if not words:
        raise UsageError(f"expected a command after --, such as `-- fit -c config.yaml`; usage: {USAGE}")
    if words[0] not in VERBS:
        close = get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(VERBS)}"
        raise UsageError(f"submit: expected a verb after --, got {words[0]!r}; {hint}")
    return options, words


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the keys of a profile as options; those that are not given are ``None``."""
    from lightning_mm.schemas.job_settings import OPTIONS, JobSettings

    for name in OPTIONS:
        field = JobSettings.model_fields[name]
        kind = str(field.annotation)
        default = "" if field.default is None else f" ({field.default})"
        parser.add_argument(
            f"--{name}",
            type=int if "int" in kind else str,
            choices=get_args(field.annotation) if "Literal" in kind else None,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description}{default}",
        )
    parser.add_argument(
        "--sbatch", nargs="+", default=[], metavar="KEY=VALUE", help="further options of sbatch, such as mail-type=END"
    )


def settings_from(options: argparse.Namespace) -> JobSettings:
    """What a job asks for: the profile, and the options of the command line over it."""
    from lightning_mm.cluster.submission.profile import find_profile, read_profile, settings_of
    from lightning_mm.schemas.job_settings import OPTIONS

    given: dict[str, Any] = {}
    if options.profile is not None:
        given |= read_profile(find_profile(options.profile))
    more: dict[str, str] = {}
    for text in options.sbatch:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--sbatch: expected KEY=VALUE, such as mail-type=END, got {text!r}")
        more[key] = value
    given |= {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    if more:
        given["sbatch"] = {**given.get("sbatch", {}), **more}
    return settings_of(given, "submit")


def _check_words(words: Sequence[str], options: argparse.Namespace) -> None:
    """Refuse what contradicts the job."""
    for word in words[1:]:
        name = word.partition("=")[0].removeprefix("--")
        if name in {f"trainer.{key}" for key in FROM_RESOURCES}:
            raise UsageError(
                f"--{name} follows from what the job asks for: leave it out, and give --nodes, --gpus_per_node "
                "or --tasks_per_node before the --"
            )
        if name == "ckpt_path" and words[0] == "fit":
            raise UsageError(
                "--ckpt_path: a submitted fit goes on from the newest checkpoint of its own folder (--ckpt_path auto); "
                "to start from the weights of another run, give --model.init_args.base_ckpt"
            )
        if name in ("shard", "print_config"):
            raise UsageError(
                f"--{name} is not for submit; " + ("give --array K" if name == "shard" else "leave it out")
            )
    if options.array is not None and words[0] != "sweep":
        raise UsageError("--array splits a sweep over jobs; a fit is split over --nodes and --gpus_per_node")
    if options.array is not None and options.array < 2:
        raise UsageError(f"--array: expected 2 or more jobs, got {options.array}")


def _check_resources(scheduler: Scheduler, settings: JobSettings, resumes: bool, dry_run: bool) -> None:
    """Ask the scheduler whether it takes such a job, before anything takes time."""
    from lightning_mm.cluster.script import Script

    name = settings.name or "lightning-mm"
    text = Script(name, ["fit"], Path(os.devnull), settings, Path.cwd(), resumes=resumes).text()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sh"
        path.write_text(text, encoding="utf-8")
        try:
            scheduler.check(path)
        except LightningMMError as error:
            if not dry_run:
                raise
            print(f"lightning-mm: {error}", file=sys.stderr)


def _looked_at(words: Sequence[str], options: argparse.Namespace, settings: JobSettings, command: str) -> RunJob:
    """The job of a command whose config is right."""
    from lightning_mm.cluster.script import trainer_settings
    from lightning_mm.cluster.submission.run_job import RunJob

    start = time.perf_counter()
    from lightning_mm.cli.cluster.look import look

    imported = time.perf_counter()
    chosen = {} if _leaves_devices(options, settings) else trainer_settings(settings)
    with redirect_stdout(sys.stderr):  # the output of --dry_run is the script
        facts = look([*words, *(f"--{key}={value}" for key, value in chosen.items())], options.unchecked)
    took = time.perf_counter() - imported
    what = "read" if options.unchecked else "looked at: network, data and trainer made, a few samples run"
    times = f"{took:.1f} s, after {imported - start:.1f} s to import PyTorch and Lightning"
    print(f"lightning-mm: the config was {what} ({times})", file=sys.stderr)
    job = RunJob(words[0], facts, settings, Path.cwd(), command, options.array)
    job.check()
    return job


def _has_finished(job: RunJob) -> bool:
    """Whether nothing of a fit is left to train; a folder that holds one with other settings is refused.

    Raises:
        UsageError: As the job would, hours later; the message names the settings.
    """
    from lightning_mm.cli.lightning.resume import Attempt

    config = job.plain()
    attempt = Attempt.of(config)
    state = attempt.state()
    if state is not None and state.finished:
        return True
    with redirect_stdout(sys.stderr):
        attempt.find(config, OTHER_SETTINGS)
    return False


def _leaves_devices(options: argparse.Namespace, settings: JobSettings) -> bool:
    """Whether the config says which devices are used: on this machine, unless options do."""
    return options.scheduler == "local" and not settings.gpus_per_node and settings.tasks_per_node is None


def _resources(settings: JobSettings, shards: int | None) -> str:
    """What a job asks for, in words."""
    number = settings.gpus_per_node
    each = f"{number} GPU{'s' if number > 1 else ''}" if number else f"{settings.tasks} CPU process"
    each += "es" if not number and settings.tasks > 1 else ""
    where = f"on {settings.nodes} node{'s' if settings.nodes > 1 else ''} with {each}"
    return f"{where}, in {shards} tasks" if shards else where


def _shown(path: Path) -> Path:
    """A path as a user writes it, relative to the working directory where it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
