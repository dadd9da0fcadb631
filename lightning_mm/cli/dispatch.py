"""The command line: ``lightning-mm VERB ...``.

Verbs that need no training loop are dispatched before Lightning is imported; the others are LightningCLI's, see
:mod:`lightning_mm.cli.lightning`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from lightning_mm.cli.errors import explain
from lightning_mm.errors import UsageError
from lightning_mm.version import __version__

TRACEBACK = "LIGHTNING_MM_TRACEBACK"
"""Environment variable that shows the traceback of a user's mistake too."""

VERBS = {
    "fit": "train a network, or the adapters of a frozen one",
    "validate": "evaluate on the validation split",
    "test": "evaluate on the test split",
    "predict": "write predictions",
    "sweep": "evaluate every combination of available modalities in one pass",
    "export": "write the network of every combination as torch.export and ONNX programs",
    "mean_input": "write the mean training sample, for the fill MeanInput",
    "compare": "train and sweep all methods of a study with all seeds, in one table",
    "table": "put the results of several sweeps side by side in one table",
    "importance": "how much each modality of a sweep is worth, and which pairs work together",
    "data": "list data sets; the page of one; with --check whether a folder holds it whole",
    "demo": "train, adapt and sweep on generated data, in a few minutes",
}

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
        130 if stopped with Ctrl-C. Defects of ours are raised.
    """
    try:
        _dispatch(list(sys.argv[1:] if args is None else args))
    except SystemExit as stop:  # argparse ends --help and --print_config so
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("lightning-mm: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        explained = explain(error)
        if explained is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        message, code = explained
        print(f"lightning-mm: error: {message}", file=sys.stderr)
        return code
    return 0


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(USAGE.format(verbs="\n".join(f"  {verb:{width}}   {what}" for verb, what in VERBS.items())))
    elif args[0] in ("--version", "version"):
        print(f"lightning-mm {__version__}")
    elif args[0] not in VERBS:
        close = get_close_matches(args[0], VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `lightning-mm --help`"
        raise UsageError(f"expected a verb first, one of {', '.join(VERBS)}; got {args[0]!r}; {hint}")
    else:
        _runner(args[0])(args)


def _runner(verb: str) -> Callable[[list[str]], object]:
    # Imported only when needed: `table` needs no Lightning, `fit` no demo.
    if verb == "demo":
        from lightning_mm.cli.demo import run_demo

        return lambda args: run_demo(args[1:])
    if verb == "data":
        from lightning_mm.cli.data import run_data

        return lambda args: run_data(args[1:])
    if verb == "table":
        from lightning_mm.cli.table import run_table

        return lambda args: run_table(args[1:])
    if verb == "importance":
        from lightning_mm.cli.importance import run_importance

        return lambda args: run_importance(args[1:])
    if verb == "compare":
        from lightning_mm.cli.compare import run_compare

        return lambda args: run_compare(args[1:])
    from lightning_mm.cli.lightning.run import run_lightning

    return run_lightning
