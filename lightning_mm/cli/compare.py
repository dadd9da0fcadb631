"""``lightning-mm compare -c study.yaml``: all methods, combinations and seeds of one data set in one table."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_mm.cli.errors import Parser
from lightning_mm.cli.output import print_what_can_be_printed
from lightning_mm.errors import LightningMMError, UsageError

if TYPE_CHECKING:
    from lightning_mm.compare.cell_config import Run
    from lightning_mm.compare.executor import Perform
    from lightning_mm.compare.plan import Step
    from lightning_mm.compare.step_runner import Facts
    from lightning_mm.compare.study import Study
    from lightning_mm.results.result import SweepResult

FAST = {
    "trainer.max_epochs": 1, "trainer.limit_train_batches": 2, "trainer.limit_val_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
}  # fmt: skip
"""Settings that only show that everything runs."""


def run_compare(args: list[str]) -> None:
    """Run a study; finished steps are not run again."""
    options = parse(args)
    if options.jobs < 1:
        raise UsageError(f"--jobs: expected 1 or more, got {options.jobs}")

    from lightning_mm.compare import read_study
    from lightning_mm.settings_files import masked_words

    study = narrowed(read_study(options.config), options)
    if options.dry_run:
        _list(study)
        return
    command = shlex.join(["lightning-mm", "compare", *masked_words(args)])
    compare(study, perform_step, options.jobs, options.again, command)


def parse(args: Sequence[str]) -> argparse.Namespace:
    """Parse the options of the verb."""
    parser = Parser(
        "lightning-mm compare",
        description="Train, adapt and sweep every method of a study, with every seed, and print one table. A stopped "
        "study continues where it was; a finished step is run again only if its settings change.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", type=Path, required=True, help="the study, a YAML file")
    parser.add_argument("--out", type=Path, help="folder of the runs, instead of the study's")
    parser.add_argument(
        "--results",
        type=Path,
        help="folder of the tables, instead of the study's; for a part of a study report/ in --out",
    )
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds only")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="these methods only")
    parser.add_argument("--combinations", nargs="+", help="networks for these combinations only")
    parser.add_argument("--fast", action="store_true", help="a few batches each, in a separate folder")
    parser.add_argument("--again", action="store_true", help="delete and repeat finished runs whose settings changed")
    parser.add_argument("--dry_run", action="store_true", help="list the steps and whether they are finished")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every run, such as data.num_workers=2"
    )
    return parser.parse_args(args)


def compare(study: Study, perform: Perform, jobs: int = 1, again: bool = False, command: str = "") -> SweepResult:
    """Run a study in worker processes; write its tables and report, log them if it says so, and print one table.

    Args:
        study: What to run.
        perform: Performs a step, in a worker.
        jobs: Worker processes.
        again: Whether finished runs whose settings have changed may be deleted and run again.
        command: How the study was started, for the report.
    """
    from lightning_mm.compare import processes, run_study
    from lightning_mm.compare.look import configs_to_look_at
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import finished

    check_places(study)
    steps = configs_to_look_at(study)
    with processes(perform, jobs) as executor:
        if any(finished(step) is None for step in Plan(study).steps({})):
            executor.call(look_in_worker, study, steps)
        facts, choices = run_study(study, executor, lambda line: print(line, flush=True), again)
    return finish(study, facts, choices, jobs, command)


def check_places(study: Study) -> None:
    """Refuse folders that cannot be written to, and a record that W&B would not take, before anything runs."""
    from lightning_mm.files import check_folder

    check_folder(study.out)
    check_folder(study.results)
    if study.wandb is not None:
        _check_wandb(study.wandb)


def finish(
    study: Study, facts: Mapping[Path, Facts], choices: Mapping[str, Any], jobs: int = 1, command: str = ""
) -> SweepResult:
    """Write tables and report of a study whose steps are finished, log them if it says so, and print one table.

    Args:
        study: The study.
        facts: Marker to facts of all steps.
        choices: Tuned method to the chosen value with the figures it was chosen by.
        jobs: How many of its runs shared a machine.
        command: How the study was started, for the report.
    """
    from lightning_mm.compare import collect, draw, write
    from lightning_mm.report import write_report
    from lightning_mm.results.terminal import print_table

    os.environ.setdefault("WANDB_SILENT", "true")
    result = collect(study, facts, choices)
    written = write(study, facts, choices, result, jobs, command)
    drawn = draw(study, facts, choices, result)
    print_table(result, study.metric)
    places = [*written.values(), *([drawn[0].path.parent] if drawn else [])]
    print("written: " + ", ".join(map(str, places)))
    page = write_report([study.results], study.results / "report.html", study.metric)
    print(f"report: {page['html']}")
    if study.wandb is not None:  # last: what happens to W&B loses nothing
        from lightning_mm.compare.record import record_study

        record_study(study, facts, choices, result, drawn)
    return result


def look_in_worker(study: Study, steps: Sequence[Step]) -> None:
    """Look at a study before it begins: its settings, metric and dedicated networks."""
    from lightning_mm.cli.lightning.run import run_lightning
    from lightning_mm.compare.dedicated import check_dedicated
    from lightning_mm.compare.look import look_at

    print_what_can_be_printed()
    try:
        look_at(study, steps, run_lightning)
        check_dedicated(study, run_lightning)
    except LightningMMError:
        raise
    except Exception as error:
        # What cannot be sent to another process, or is no mistake of the study's: the step itself will show it.
        print(f"lightning-mm: not looked at before: {type(error).__name__}: {error}", file=sys.stderr)


def perform_step(step: Step) -> dict[str, Any]:
    """Perform a step in a worker, which imports Lightning once."""
    from lightning_mm.cli.lightning.run import run_lightning

    return perform_with(step, run_lightning)


def perform_with(step: Step, run: Run) -> dict[str, Any]:
    """Perform a step in a worker.

    Args:
        step: The step.
        run: Runs a command of the command line.
    """
    from lightning_mm.compare.step_runner import perform

    print_what_can_be_printed()
    try:
        return perform(step, run)
    except LightningMMError:
        raise
    except Exception as error:
        # Not every exception can be sent to another process; the log has its traceback.
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def narrowed(study: Study, options: Any) -> Study:
    """Apply the options of the command line to a study."""
    from lightning_mm.compare.recipes import BASE

    given: dict[str, Any] = dict(map(setting_of, options.set))
    methods = study.methods
    if options.methods:
        names = [method.name for method in methods]
        unknown = [name for name in options.methods if name not in names]
        if unknown:
            raise UsageError(f"--methods: this study has {', '.join(names)}; got {unknown[0]!r}")
        needed = {BASE, *options.methods}
        for method in reversed(methods):  # each comes after the one that it starts from
            if method.name in needed and method.recipe.start:
                needed.add(method.recipe.start)
        methods = tuple(method for method in methods if method.name in needed)
    if options.combinations:
        chosen = study.modalities.select(options.combinations)
        methods = tuple(replace(method, combinations=chosen) if method.recipe.each else method for method in methods)
    for method in methods:
        if method.tuned is not None and method.tuned[0] in given:
            raise UsageError(f"{method.tuned[0]}: {method.name} tunes it; change the study")
    # stronger than the settings of the methods
    methods = tuple(replace(method, settings={**method.settings, **given}) for method in methods)
    settings = {**study.settings, **given}
    if options.fast:
        settings |= FAST
        # settings of a method itself stay: bn_refit trains no epoch
        methods = tuple(
            replace(
                method,
                settings={**method.settings, **{k: v for k, v in FAST.items() if k not in method.recipe.settings}},
            )
            for method in methods
        )
    out = options.out or (study.out.with_name(f"{study.out.name}_fast") if options.fast else study.out)
    # A part of a study, or a quick look at one, must not replace its tables.
    narrowed = options.fast or options.methods or options.seeds or options.combinations or options.set
    results = options.results or (out / "report" if narrowed else study.results)
    seeds = tuple(dict.fromkeys(options.seeds or study.seeds))
    for method in methods:
        if method.tune_seeds and not set(method.tune_seeds) <= set(seeds):
            raise UsageError(
                f"--seeds: {method.name} chooses its {method.tuned and method.tuned[0]} with seeds "
                f"{list(method.tune_seeds)}, which must be among them"
            )
    return replace(
        study,
        methods=methods,
        settings=settings,
        seeds=seeds,
        out=out,
        results=results,
    )


def setting_of(text: str) -> tuple[str, str]:
    """Key and value of an argument of ``--set``."""
    from lightning_mm.compare.checks import OWN

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set: expected KEY=VALUE, got {text!r}")
    if key == "data.modalities":
        raise UsageError("data.modalities: a study compares the modalities of its config; write them there")
    if key in OWN:
        raise UsageError(f"--set {key}: {OWN[key]}")
    return key, value


def _list(study: Study) -> None:
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import all_finished

    steps = Plan(study).steps({})
    facts = all_finished(steps)
    for step in steps:
        print(f"{'done' if step.marker in facts else 'open'}  {step.name}")
    tuned = [method.name for method in study.methods if method.tuned]
    print(
        f"{len(steps)} steps; test sweeps of {', '.join(tuned)} follow their choice" if tuned else f"{len(steps)} steps"
    )


def _check_wandb(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the W&B logger of the finished table would not take."""
    try:
        import wandb
    except ImportError as error:
        raise LightningMMError(
            "wandb: the study logs its table, but wandb is not installed: pip install wandb"
        ) from error
    from lightning_mm.tracking import OfflineFirstWandbLogger

    own, init = (list(inspect.signature(one).parameters) for one in (OfflineFirstWandbLogger.__init__, wandb.init))
    known = [name for name in dict.fromkeys(own + init) if name not in ("self", "kwargs")]
    for name in arguments:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected some of {', '.join(known)}"
            raise LightningMMError(f"wandb: unknown argument {name!r}; {hint}")
    modes = ("online", "offline", "shared", "disabled")
    if arguments.get("mode") is not None and arguments["mode"] not in modes:
        raise LightningMMError(f"wandb: mode must be one of {', '.join(modes)}, got {arguments['mode']!r}")
    for name in ("project", "name", "save_dir", "id", "group"):
        if not isinstance(arguments.get(name, ""), str):
            raise LightningMMError(f"wandb: {name}: expected text, got {arguments[name]!r}")
    tags = arguments.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(one, str) for one in tags)):
        raise LightningMMError(f"wandb: tags: expected a list of texts, got {tags!r}")
