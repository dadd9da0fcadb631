"""The verbs that run a trainer: LightningCLI with ``fit validate test predict sweep export``."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_mm.callbacks import FrozenBackboneAdapter, PredictionWriter
from lightning_mm.cli.arguments import with_nested_nulls
from lightning_mm.cli.config_errors import shorten
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.missing import FixedCombination
from lightning_mm.sweep import ADAPTED, DEDICATED, ZERO_FILL, SweepResult, sweep
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.checkpoints import load_weights
from lightning_mm.tracking import log_sweep
from lightning_mm.tree import take_rows

NOT_FOR_USERS = (
    # Lightning 2.6 asks torch's pytree in a way that newer releases have deprecated.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # W&B and the saved config write into that folder before Lightning looks.
    r"Checkpoint directory .* exists and is not empty",
    # Generated and cached samples are faster without worker processes; `data.num_workers` is there for the others.
    r"The '.*_dataloader' does not have many workers",
    # The size of the network in the summary is that of float32, which is what it is.
    r"Precision bf16-mixed is not supported by the model summary",
)
"""Warnings that say nothing a user of the command line could act on."""

CHECKPOINT_WORDS = ("best", "last", "hpc")
"""Values of ``--ckpt_path`` that Lightning resolves itself."""


def run_lightning(args: list[str]) -> dict[str, Any]:
    """Run one of the verbs ``fit validate test predict sweep export mean_input``; ``args`` starts with the verb.

    Returns:
        Where the verb is ``fit``: the ``seconds`` and ``cpu_seconds`` that training took, those of worker processes of
        a loader left out, and the number of ``trained`` parameters.
    """
    check_configs(args)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_tip)
    # `${trainer.default_root_dir}` then means the same at the top of a file and under a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    parser = {"parser_mode": "omegaconf+", "allow_abbrev": False}
    verb = args[0]
    # Only the verb that is run: building the parsers of all of them takes longer than a small training run.
    one = {"subcommands": staticmethod(lambda: {verb: CommandLine.subcommands()[verb]})}
    with _own_wandb_run():
        ran = type("CommandLine", (CommandLine,), one)(
            BaseTask,
            ModalityDropoutDataModule,
            trainer_class=SweepingTrainer,
            subclass_mode_model=True,
            parser_class=Parser,
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


class SweepingTrainer(Trainer):
    """A trainer with more verbs."""

    def sweep(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        ckpt_path: str | None = None,
        combinations: list[str] | None = None,
        split: Literal["test", "val"] = "test",
        method: str | None = None,
        also: dict[str, str] | None = None,
        out: str | None = None,
        bootstrap: int = 1000,
        seed: int | None = None,
        baseline: bool = True,
        config: dict[str, Any] | None = None,
    ) -> SweepResult:
        """Evaluate every combination of available modalities in one pass over a split.

        Args:
            model: The task.
            datamodule: The data.
            ckpt_path: Its weights; those of an adapter if the config has a FrozenBackboneAdapter.
            combinations: Which combinations, e.g. [rgb, rgb+depth]; all by default.
            split: The split; choose settings on val, report test.
            method: Name of the network in the table; by default zero_fill without an adapter, and zero_fill and adapted
                with one. A network named dedicated is run on the combination of all of its modalities only; on that of
                train_policy where this is a FixedCombination, and else on combinations where these are given.
            also: Further methods of the same network: name in the table to checkpoint.
            out: Folder for sweep.csv, .json, .md, .png and sweep_samples.npz; by default sweep/ in default_root_dir, or
                sweep_val/ for the validation split.
            bootstrap: Replicates for intervals over samples; 0 for none.
            seed: Seed of the training run, written to every row of the table; by default that of seed_everything.
            baseline: Whether a network with an adapter is swept with it switched off too, as zero_fill.
            config: The configuration of the run, kept in sweep.json.
        """
        folder = Path(out or Path(self.default_root_dir) / ("sweep" if split == "test" else f"sweep_{split}"))
        with_adapter = any(isinstance(one, FrozenBackboneAdapter) for one in self.callbacks)  # type: ignore[attr-defined]
        if ckpt_path is None and (with_adapter or getattr(model, "base_ckpt", None) is None):
            whose = "the adapter" if with_adapter else "the network"
            raise LightningMMError(
                f"sweep needs the weights of {whose}, or it would show those of the start: give --ckpt_path, the "
                "checkpoint of an earlier fit"
            )
        # Copies are taken before the adapter comes in: further methods are the plain network.
        others = {name: deepcopy(model) for name in also or {}}
        for name, path in (also or {}).items():
            load_weights(others[name], path)
        adapters = [one for one in self.callbacks if isinstance(one, FrozenBackboneAdapter)]  # type: ignore[attr-defined]
        for callback in adapters:
            callback.attach(model, _first_batch(datamodule, split), "test", datamodule)
        if ckpt_path is not None:
            load_weights(model, ckpt_path)
        methods: Any = model
        if method == DEDICATED:
            methods = {method: [model]}
        elif method is not None or others:
            methods = {method or (ADAPTED if hasattr(model, "adapter") else ZERO_FILL): model}
        result = sweep(
            {**methods, **others} if others else methods,
            datamodule,
            combinations=combinations,
            split=split,
            trainer=self,
            bootstrap=bootstrap,
            seed=int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed,
            baseline=baseline,
            dedicated_to=_trained_for(datamodule, combinations) if method == DEDICATED else None,
            config=config,
        )
        if self.is_global_zero:
            # The files first: what happens to W&B or to the terminal after this loses nothing.
            written = result.save(folder)
            for logger in self.loggers:
                log_sweep(logger, result)
            result.print()
            print("written: " + ", ".join(map(str, written.values())))
        return result

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        out: str,
        ckpt_path: str | None = None,
        combinations: list[str] | None = None,
        formats: list[Literal["torch", "onnx"]] | None = None,
        mixed: bool = True,
        dynamic: dict[str, dict[int, str]] | None = None,
        tolerance: float = 1e-4,
        split: Literal["test", "val"] = "test",
    ) -> None:
        """Write the network of every combination, its adapter folded in, as torch.export and ONNX programs.

        Args:
            model: The task.
            datamodule: The data; one batch of it shows the shapes.
            out: The folder, which lightning_mm.export.Runtime reads.
            ckpt_path: The weights; those of an adapter if the config has a FrozenBackboneAdapter.
            combinations: Which combinations, e.g. [rgb, rgb+depth]; all by default.
            formats: [torch], [onnx] or both, the default.
            mixed: Whether there is a program for all combinations too, any, which takes available.
            dynamic: Axes beside the batch's whose size may change, e.g. {text.values: {1: steps}}.
            tolerance: How far a program may be from the network, on outputs of magnitude one or less.
            split: The split that the batch is of.
        """
        from lightning_mm.cli.export import export_task

        batch = _first_batch(datamodule, split)
        options = {"combinations": combinations, "mixed": mixed, "dynamic": dynamic, "tolerance": tolerance}
        export_task(self, model, datamodule, batch, out, ckpt_path, formats=formats or ["torch", "onnx"], **options)

    def mean_input(self, model: LightningModule, datamodule: LightningDataModule, out: str, limit: int = 5000) -> None:
        """Write the mean training sample of every modality, for the fill MeanInput.

        Args:
            model: Not used.
            datamodule: The data; augmentation and policies play no role.
            out: The file, .safetensors.
            limit: Samples that are averaged at most.
        """
        from lightning_mm.missing import mean_inputs, save_mean_inputs

        dataset = datamodule.dataset("train")  # type: ignore[attr-defined]
        samples = (dataset[index] for index in range(len(dataset)))
        save_mean_inputs(mean_inputs(samples, datamodule.modalities, limit), out)  # type: ignore[attr-defined]
        print(f"written: {out}")


class Parser(LightningArgumentParser):
    """Says what is wrong with a config in one short message."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)  # a parser inside another one: the outer one reports
        raise UsageError(shorten(message, self))


class SaveConfig(SaveConfigCallback):
    """Writes the whole config beside the results, named after the verb, and to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": plain_config(self.parser, self.config)})


class CommandLine(LightningCLI):
    """Our verbs, one list of modalities for data and task, and checkpoints that never change settings."""

    _started = 0.0, 0.0

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        given = {"model", "datamodule"}
        return {**LightningCLI.subcommands(), "sweep": {*given, "config"}, "export": given, "mean_input": given}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.modalities", "model.init_args.modalities")
        # one seed for the network's start, the order of the data, augmentation and masks
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.facts: dict[str, Any] = {}
        # Without Lightning's warning about arguments from Python: ours always come from `main`.
        self.config = parser.parse_args(with_nested_nulls(args))

    def _parse_ckpt_path(self) -> None:
        # Lightning 2.6 lets the settings in a checkpoint win over those on the command line. Here the configs say what
        # the network is; a checkpoint of another one is an error when its weights are loaded.
        verb = self.config[self.config.subcommand]
        for name, path in {"ckpt_path": verb.get("ckpt_path"), **(verb.get("also") or {})}.items():
            if path and path not in CHECKPOINT_WORDS and "://" not in path:
                check_checkpoint(name, path)

    def before_instantiate_classes(self) -> None:
        # Named after the verb: `fit` and `sweep` share a folder, and W&B owns the name config.yaml.
        self.save_config_kwargs = {"config_filename": f"{self.subcommand}.yaml", "overwrite": True}

    def before_fit(self) -> None:
        """Look at one batch before anything is written: a mistake in data or settings then leaves nothing behind."""
        self.datamodule.setup("fit")
        batch = next(iter(self.datamodule.val_dataloader()))
        preflight(self.model, batch)
        self._started = time.perf_counter(), time.process_time()

    def after_fit(self) -> None:
        trained = (one.numel() for one in self.model.parameters() if one.requires_grad)
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self.facts = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "trained": sum(trained)}

    def before_test(self) -> None:
        self.datamodule.setup("test")
        preflight(self.model, next(iter(self.datamodule.test_dataloader())))

    def before_predict(self) -> None:
        folder = Path(self.trainer.default_root_dir) / "predictions"
        self.trainer.callbacks.append(PredictionWriter(folder))  # type: ignore[attr-defined]

    def sweep(self, **settings: Any) -> None:
        """Run the trainer's sweep with the whole config, which it keeps with the results."""
        config = self.config[str(self.subcommand)]
        settings["config"] = plain_config(self._parser(self.subcommand), config)
        self.trainer.sweep(**settings)  # type: ignore[attr-defined]


@torch.no_grad()
def preflight(task: BaseTask, batch: dict[str, Any]) -> None:
    """Run the network on a few samples, check the targets, and ask for a loss.

    Raises:
        LightningMMError: If inputs, targets and network do not fit each other.
    """
    training = task.training
    size = len(batch["available"])
    few = take_rows({key: batch[key] for key in ("inputs", "available", "target")}, torch.arange(min(size, 2)), size)
    with torch.random.fork_rng():
        outputs = task.eval()(few["inputs"], few["available"])
    task.check_target(batch["target"])
    task.loss(outputs, few["target"])
    task.train(training)


def check_configs(args: list[str]) -> None:
    """Refuse config files that are no YAML: jsonargparse's message does not say which one it is.

    Raises:
        UsageError: The message names file, line and column.
    """
    separate = [value for flag, value in pairwise(args) if flag in ("-c", "--config")]
    for path in [*separate, *(one.removeprefix("--config=") for one in args if one.startswith("--config="))]:
        if not Path(path).is_file():
            continue  # jsonargparse names it; it may also be a URL or the YAML itself
        try:
            yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            raise UsageError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error


def plain_config(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed config in plain types, as it would be written to YAML."""
    loaded: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_none=False, skip_link_targets=False))
    return loaded


def check_checkpoint(name: str, path: str) -> None:
    """Refuse a path that is not there or not written by ``torch.save``, before data and network are made.

    Raises:
        UsageError: The message names the setting and the path.
    """
    if not Path(path).is_file():
        raise UsageError(f"{name}: no file at {path!r}; give the .ckpt file that a `fit` wrote")
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{name}: {path!r} is not a checkpoint (not written by torch.save, or cut off)")


def _first_batch(datamodule: LightningDataModule, split: str) -> Any:
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    loader = datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()
    return next(iter(loader))


def _trained_for(datamodule: LightningDataModule, given: list[str] | None) -> list[str] | None:
    """The combinations that a dedicated network is for, where it may have inputs for more modalities than these."""
    policy = getattr(datamodule, "policies", {}).get("train")
    return [policy.combination] if isinstance(policy, FixedCombination) else given


@contextmanager
def _own_wandb_run() -> Iterator[None]:
    """Close the W&B run that was opened inside, so that the next command of this process has one of its own."""
    before = _current_wandb_run()
    failed = 1
    try:
        yield
        failed = 0
    finally:
        run = _current_wandb_run()
        if run is not None and run is not before:
            run.finish(exit_code=failed)


def _current_wandb_run() -> Any:
    wandb = sys.modules.get("wandb")  # not imported here: without a W&B logger nobody waits for it
    return wandb and wandb.run
