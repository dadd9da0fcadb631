"""Runs one of LightningCLI's verbs in this process."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from jsonargparse import set_parsing_settings

from lightning_mm import data
from lightning_mm.cli.allocator import keep_freed_memory
from lightning_mm.cli.check import quiet_trainer
from lightning_mm.cli.lightning.arguments import check_configs
from lightning_mm.cli.lightning.command_line import CommandLine
from lightning_mm.cli.lightning.parser import Parser, SaveConfig
from lightning_mm.cli.lightning.trainer import SweepingTrainer
from lightning_mm.cli.references import References
from lightning_mm.cli.slurm_tasks import settle
from lightning_mm.cli.stopping import Stop
from lightning_mm.tasks import BaseTask
from lightning_mm.tracking.folders import staging_kept, sync_command
from lightning_mm.tracking.logger import finish_run

NOT_FOR_USERS = (
    # Lightning 2.6 asks torch's pytree in a way that newer releases have deprecated.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # W&B and the saved config write into that folder before Lightning looks.
    r"Checkpoint directory .* exists and is not empty",
    # Generated and cached samples are faster without worker processes; `data.num_workers` is there for the others.
    r"The '.*_dataloader' does not have many workers",
    # Our data module is resumed after the batch at which a run was stopped.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # Lightning 2.6 says so wherever Slurm is installed, as on any login node.
    r"The `srun` command is available on your system but is not used",
    # The summary shows the size of the network in float32, which is right.
    r"Precision bf16-mixed is not supported by the model summary",
)
"""Warnings that a user of the command line can do nothing about."""


def run_lightning(
    args: list[str], stop: Stop | None = None, command_line: type[CommandLine] = CommandLine
) -> dict[str, Any]:
    """Run one of the verbs ``fit validate test predict sweep export check mean_input features``.

    Args:
        args: The words of the command, the verb first.
        stop: Handles signals; with it a training ends in order.
        command_line: What does the work; another one may only look at the config.

    Returns:
        For ``fit``: the ``seconds`` and ``cpu_seconds`` that training took, worker processes of a loader left out, and
        the number of ``trained`` parameters.
    """
    check_configs(args)
    settle()
    keep_freed_memory()
    # jsonargparse lists in --help, and finds by its name alone, every class that has been imported.
    for name in data.__all__:
        getattr(data, name)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_tip)
    # We say ourselves what stopped a command.
    logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").setLevel(logging.WARNING)
    # `${trainer.default_root_dir}` then means the same at the top of a file and under a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = {"parser_mode": "omegaconf+", "allow_abbrev": False}
    verb = args[0]
    # Only the verb that is run: building the parsers of all of them takes longer than a small training run.
    one = {"subcommands": staticmethod(lambda: {verb: command_line.subcommands()[verb]}), "stop": stop}
    noting = type("Parser", (Parser,), {"references": References(verb)})
    with own_wandb_run(), quiet_trainer() if verb == "check" else nullcontext():
        ran = type("CommandLine", (command_line,), one)(
            BaseTask,
            data.ModalityDropoutDataModule,
            trainer_class=SweepingTrainer,
            subclass_mode_model=True,
            parser_class=noting,
            parser_kwargs={"prog": "lightning-mm", **parser, verb: dict(parser)},
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=args,
        )
    return ran.facts


def is_no_tip(record: logging.LogRecord) -> bool:
    """Whether a line of Lightning's log is something else than an advertisement."""
    return "Tip: For seamless cloud" not in record.getMessage()


@contextmanager
def own_wandb_run() -> Iterator[None]:
    """Finish the W&B run that was opened inside, so that the next command of this process opens another."""
    before = _current_wandb_run()
    failed = 1
    with staging_kept():
        try:
            yield
            failed = 0
        finally:
            run = _current_wandb_run()
            if run is not None and run is not before:
                command = sync_command(run)
                finish_run(run, exit_code=failed)
                if command is not None:
                    print(f"Weights & Biases: upload this run with\n{command}", flush=True)


def _current_wandb_run() -> Any:
    wandb = sys.modules.get("wandb")  # not imported here: commands without a W&B logger need not wait for it
    return wandb and wandb.run
