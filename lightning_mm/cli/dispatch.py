"""The command line: ``lightning-mm VERB ...``.

Verbs that need no training loop are dispatched before Lightning is imported; the others are LightningCLI's, see
:mod:`lightning_mm.cli.lightning`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches

from lightning_mm.cli.errors import explain
from lightning_mm.cli.output import close_output, print_what_can_be_printed
from lightning_mm.cli.stopping import Stop
from lightning_mm.errors import UsageError
from lightning_mm.signals import WARNING
from lightning_mm.version import __version__

TRACEBACK = "LIGHTNING_MM_TRACEBACK"
"""Environment variable that shows the traceback of a user's mistake too."""

WHOLE = ("validate", "test", "predict", "sweep", "export", "check", "mean_input", "features")
"""Verbs of some length that keep nothing of what they have done when they are stopped."""

VERBS = {
    "fit": "train a network, or the adapters of a frozen one",
    "validate": "evaluate on the validation split",
    "test": "evaluate on the test split",
    "predict": "write predictions",
    "sweep": "evaluate every combination of available modalities in one pass",
    "export": "write the network of every combination as torch.export and ONNX programs",
    "check": "whether a network can be adapted, before anything is trained: one table of yes, no and why",
    "mean_input": "write the mean training sample, for the fill MeanInput",
    "features": "write the outputs of encoders on training data, for FeatureMean and other fills",
    "compare": "train and sweep all methods of a study with all seeds, in one table",
    "tune": "search for hyper-parameters over a grid or at random, on validation data",
    "submit": "run fit, sweep or compare as a job of a cluster (Slurm), or in the background of this machine",
    "table": "put the results of several sweeps side by side in one table",
    "merge": "put the sweeps below some folders (cells of studies, single sweeps) into one folder of results",
    "rescore": "compute other metrics of a finished sweep from the statistics of its samples, without the network",
    "importance": "how much each modality of a sweep is worth, and which pairs work together",
    "report": "one HTML page of finished sweeps: tables, charts, importance, samples that a method loses",
    "dashboard": "a workspace and a report of Weights & Biases over the runs of studies",
    "status": "what became of the cells of a study: finished, queued, failed and why",
    "resubmit": "queue again what is open in a submitted study, and what needs it",
    "cancel": "end the queued and running jobs of a submitted study",
    "data": "list data sets; the page of one; with --check whether a folder holds it whole",
    "demo": "train, adapt and sweep on generated data, in a few minutes",
}
HIDDEN = ("cell",)
"""Verbs that jobs call."""

USAGE = """usage: lightning-mm VERB [options]

{verbs}

  lightning-mm fit -c base.yaml                         settings come from one or more stacked YAML files,
  lightning-mm fit -c base.yaml -c ssf.yaml             later files win,
  lightning-mm fit -c base.yaml --trainer.max_epochs 3  and the command line wins over all.

  -h, --help     show this message; `lightning-mm VERB --help` lists the options of a verb
  --version      show the version"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: The words after ``lightning-mm``; by default those of the process.

    Returns:
        The exit code: 0 if all went well, 1 for a mistake in data or settings, 2 for one in the command or a config,
        128 plus the number of the signal that stopped it: 130 for Ctrl-C, 143 for SIGTERM. After SIGUSR2, a queue's
        warning that the time is nearly over, 75: run the same command again, it goes on; or 76 if that has been of no
        use twice. Defects of ours are raised.
    """
    if args is None:
        find_modules_here()
    print_what_can_be_printed()
    stop = Stop(of_process=args is None)
    try:
        with stop:
            code = _run(list(sys.argv[1:] if args is None else args), stop)
    except BaseException:
        if stop.received is None:
            raise
        code = stop.code  # an error while it stops is none of its own
    if stop.follows and (stop.received is not None or code == 128 + signal.SIGTERM):
        return 0  # or Lightning would kill the command that has started this rank
    if stop.received is None or (stop.received == WARNING and code == 0):  # it has ended in time
        return code
    if not stop.quiet:
        with suppress(OSError):
            print(f"lightning-mm: {stop.message()}", file=sys.stderr)
    return stop.code


def _run(args: list[str], stop: Stop) -> int:
    """Run one command; mistakes are printed."""
    try:
        _dispatch(args, stop)
        sys.stdout.flush()  # a full disk behind it is said here, not when the interpreter ends
    except SystemExit as end:  # argparse ends --help and --print_config so
        if type(end).__name__ == "SIGTERMException":  # Lightning's, under a handler of the caller's
            return 128 + signal.SIGTERM
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # under a handler of the caller's
        print("lightning-mm: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError):  # `| head` has read enough
            close_output()
            return 128 + 13
        explained = explain(error)
        if explained is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        message, code = explained
        print(f"lightning-mm: error: {message}", file=sys.stderr)
        if isinstance(error, OSError):
            close_output()
        return code
    return 0


def find_modules_here() -> None:
    """Let configs name classes in modules of the current folder, as ``python -m lightning_mm`` does by itself.

    Processes that this one starts find them too. Not if Python was told to look at no such folder (``-P``).
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been deleted
        return
    if not sys.flags.safe_path and not {"", here}.intersection(sys.path):
        sys.path.insert(0, here)


def _dispatch(args: list[str], stop: Stop) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(USAGE.format(verbs="\n".join(f"  {verb:{width}}   {what}" for verb, what in VERBS.items())))
    elif args[0] in ("--version", "version"):
        print(f"lightning-mm {__version__}")
    elif args[0] not in (*VERBS, *HIDDEN):
        close = get_close_matches(args[0], VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `lightning-mm --help`"
        raise UsageError(f"expected a verb first, one of {', '.join(VERBS)}; got {args[0]!r}; {hint}")
    else:
        stop.continues = args[0] not in WHOLE
        _runner(args[0], stop)(args)


def _runner(verb: str, stop: Stop) -> Callable[[list[str]], object]:
    # Imported only when needed: `table` needs no Lightning, `fit` no demo.
    if verb == "demo":
        from lightning_mm.cli.demo import run_demo

        return lambda args: run_demo(args[1:])
    if verb == "data":
        from lightning_mm.cli.data import run_data

        return lambda args: run_data(args[1:])
    if verb == "table":
        from lightning_mm.cli.results.table import run_table

        return lambda args: run_table(args[1:])
    if verb == "merge":
        from lightning_mm.cli.results.merge import run_merge

        return lambda args: run_merge(args[1:])
    if verb == "rescore":
        from lightning_mm.cli.results.rescore import run_rescore

        return lambda args: run_rescore(args[1:])
    if verb == "importance":
        from lightning_mm.cli.results.importance import run_importance

        return lambda args: run_importance(args[1:])
    if verb == "report":
        from lightning_mm.cli.report import run_report

        return lambda args: run_report(args[1:])
    if verb == "dashboard":
        from lightning_mm.cli.dashboard import run_dashboard

        return lambda args: run_dashboard(args[1:])
    if verb == "submit":
        from lightning_mm.cli.cluster.submit import run_submit

        return lambda args: run_submit(args[1:])
    if verb == "compare":
        from lightning_mm.cli.compare import run_compare

        return lambda args: run_compare(args[1:])
    if verb == "tune":
        from lightning_mm.cli.studies.tune import run_tune

        return lambda args: run_tune(args[1:])
    if verb == "status":
        from lightning_mm.cli.cluster.status import run_status

        return lambda args: run_status(args[1:])
    if verb == "resubmit":
        from lightning_mm.cli.cluster.resubmit import run_resubmit

        return lambda args: run_resubmit(args[1:])
    if verb == "cancel":
        from lightning_mm.cli.cluster.cancel import run_cancel

        return lambda args: run_cancel(args[1:])
    if verb == "cell":
        from lightning_mm.cli.cluster.cell import run_cell_task

        return lambda args: run_cell_task(args[1:], stop)
    from lightning_mm.cli.lightning.run import run_lightning

    return lambda args: run_lightning(args, stop)
