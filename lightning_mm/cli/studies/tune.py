"""``lightning-mm tune -c tune.yaml``: a search for hyper-parameters on validation data."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_mm.cli.compare import FAST, setting_of
from lightning_mm.cli.errors import Parser
from lightning_mm.cli.output import print_what_can_be_printed
from lightning_mm.errors import DivergedError, LightningMMError, NotApplicableError, UsageError

if TYPE_CHECKING:
    from lightning_mm.compare.executor import Perform
    from lightning_mm.compare.plan import Step
    from lightning_mm.compare.step_runner import Facts
    from lightning_mm.compare.tuning import Outcome, Tune


def run_tune(args: list[str]) -> None:
    """Run a search; finished trials are not run again."""
    options = parse(args)
    if options.jobs < 1:
        raise UsageError(f"--jobs: expected 1 or more, got {options.jobs}")
    if options.trials is not None and options.trials < 1:
        raise UsageError(f"--trials: expected 1 or more, got {options.trials}")

    from lightning_mm.compare.tuning import read_tune
    from lightning_mm.settings_files import masked_words

    tune = changed(read_tune(options.config), options)
    if options.dry_run:
        show(tune)
    elif options.wandb_sweep is not None:
        write_wandb_sweep(tune, options.wandb_sweep)
    else:
        command = shlex.join(["lightning-mm", "tune", *masked_words(args)])
        search(tune, perform_trial, options.jobs, options.again, command)


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the verb."""
    parser = Parser(
        "lightning-mm tune",
        description="Train with settings of a grid or drawn at random, and print the trials sorted by a metric of the "
        "validation split; best.yaml holds the settings of the best. A stopped search continues where it was; a "
        "finished trial is never run again, also if trials, values or seeds are added.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the search, a YAML file")
    parser.add_argument("--out", type=Path, help="folder of trials and table, instead of the file's")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (%(default)s)")
    parser.add_argument("--trials", type=int, help="trials of a random search, instead of the file's")
    parser.add_argument("--fast", action="store_true", help="a few batches each, in a separate folder")
    parser.add_argument("--again", action="store_true", help="delete and repeat finished trials whose settings changed")
    parser.add_argument("--dry_run", action="store_true", help="list the trials and whether they are finished")
    parser.add_argument("--wandb_sweep", type=Path, metavar="FILE", help="write the same search as a W&B sweep instead")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every run, such as data.num_workers=2"
    )
    return parser.parse_args(args)


def changed(tune: Tune, options: argparse.Namespace) -> Tune:
    """Apply the options of the command line to a search."""
    import yaml

    from lightning_mm.compare.tuning.parameters import plain

    names = [one.name for one in tune.parameters]
    given = {}
    for key, value in map(setting_of, options.set):
        try:
            given[key] = plain(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError) as error:  # a date may be none, too
            raise UsageError(f"--set {key}: {value!r} is not YAML; put it in quotes") from error
    for key in given:
        if key in names:
            raise UsageError(f"--set {key}: the search chooses it; change the file")
    if options.trials is not None and tune.method != "random":
        raise UsageError(f"--trials: this grid has {tune.count}, all of which are run")
    fast = {key: value for key, value in FAST.items() if key not in names} if options.fast else {}
    out = tune.out.with_name(f"{tune.out.name}_fast") if options.fast else tune.out
    return replace(
        tune,
        settings={**tune.settings, **given, **fast},
        count=options.trials or tune.count,
        out=options.out or out,
    )


def search(tune: Tune, perform: Perform, jobs: int = 1, again: bool = False, command: str = "") -> list[Outcome]:
    """Run a search in worker processes, write its table and the best settings, and print the table.

    Args:
        tune: What to run.
        perform: Performs a step, in a worker.
        jobs: Worker processes.
        again: Whether finished trials whose settings have changed may be deleted and run again.
        command: How the search was started, for the record.
    """
    from lightning_mm.compare import processes, run_study
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import finished
    from lightning_mm.compare.tuning import outcomes, write_outcomes
    from lightning_mm.files import check_folder

    check_folder(tune.out)
    study = tune.study(tune.trials())
    with processes(perform, jobs) as executor:
        if any(finished(step) is None for step in Plan(study).steps({})):
            executor.call(look_in_worker, tune)
        facts, _ = run_study(study, executor, lambda line: print(line, flush=True), again)
    found = outcomes(tune, facts)
    written = write_outcomes(tune, found, command)
    print_trials(tune, found)
    print("written: " + ", ".join(map(str, written.values())))
    stack = " ".join(f"-c {path}" for path in (*tune.configs, written["best"]))
    print(f"train with the best: lightning-mm fit {stack}")
    return found


def look_in_worker(tune: Tune) -> None:
    """Look at a search before it begins: its parameters, settings and metric."""
    from lightning_mm.cli.lightning.run import run_lightning
    from lightning_mm.compare.tuning import look_at_trials

    print_what_can_be_printed()
    try:
        look_at_trials(tune, run_lightning)
    except LightningMMError:
        raise
    except Exception as error:
        # What cannot be sent to another process, or is no mistake of the file's: the trial itself will show it.
        print(f"lightning-mm: not looked at before: {type(error).__name__}: {error}", file=sys.stderr)


def perform_trial(step: Step) -> Facts:
    """Perform a step in a worker; a training that diverges is a trial without a figure, and no end of the search."""
    from lightning_mm.cli.compare import perform_with
    from lightning_mm.cli.lightning.run import run_lightning

    def run(command: list[str]) -> dict[str, Any]:
        try:
            return run_lightning(command)
        except DivergedError as error:
            raise NotApplicableError(str(error)) from error

    return perform_with(step, run)


def show(tune: Tune) -> None:
    """Print the trials, those that are finished with their figure."""
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import all_finished
    from lightning_mm.compare.tuning import outcomes
    from lightning_mm.compare.tuning.outcome import cell

    trials = tune.trials()
    done = {one.trial.name: one for one in outcomes(tune, all_finished(Plan(tune.study(trials)).steps({})))}
    for trial in trials:
        found = done.get(trial.name)
        figure = "" if found is None else f"  {tune.metric} {found.mean:.6g}"
        values = ", ".join(f"{key}={cell(value)}" for key, value in trial.values.items())
        print(f"{'done' if found else 'open'}  {trial.number}  {tune.out / trial.name}: {values}{figure}")
    twice = f", {tune.count - len(trials)} of {tune.count} drawn twice" if len(trials) < tune.count else ""
    print(f"{len(trials)} trials{twice}; {len(trials) * len(tune.seeds)} trainings")


def print_trials(tune: Tune, found: Sequence[Outcome]) -> None:
    """Print the trials, the best first."""
    from rich.console import Console
    from rich.table import Table

    from lightning_mm.compare.tuning.outcome import cell

    names = [one.name for one in tune.parameters]
    last = [name.rpartition(".")[2] for name in names]
    short = [end if last.count(end) == 1 else name for name, end in zip(names, last)]
    drawn = Table(title=f"{tune.name}: {tune.metric}, {tune.goal}", caption=", ".join(f"seed {k}" for k in tune.seeds))
    for heading in ("", "trial", *short, tune.metric, "trained", "s"):
        drawn.add_column(heading, justify="right", overflow="fold")
    for rank, one in enumerate(found, 1):
        figure = f"{one.mean:.4g}" + ("" if one.spread is None else f" ± {one.spread:.2g}")
        figure = figure if math.isfinite(one.mean) else "diverged"
        values = [cell(one.trial.values[name]) for name in names]
        drawn.add_row(str(rank), str(one.trial.number), *values, figure, f"{one.parameters:,}", f"{one.seconds:.0f}")
    Console().print(drawn)
    for one in found:
        if one.note:
            print(f"trial {one.trial.number}: {one.note}")


def write_wandb_sweep(tune: Tune, path: Path) -> None:
    """Write a search as a W&B sweep, after a look at it."""
    from lightning_mm.cli.lightning.run import run_lightning
    from lightning_mm.compare.tuning import look_at_trials, wandb_sweep
    from lightning_mm.files import write_atomically

    look_at_trials(tune, run_lightning)
    write_atomically(path, wandb_sweep(tune, run_lightning))
    print(f"written: {path}; start it with `wandb sweep {path}`")
