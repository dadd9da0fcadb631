"""LightningCLI with our verbs and rules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_mm.callbacks import FrozenBackboneAdapter, PredictionWriter, ResumeCheckpoint
from lightning_mm.callbacks.resuming.slurm import leave_requeueing_to_us
from lightning_mm.cli.check import with_json_flag, without_training
from lightning_mm.cli.lightning.arguments import check_checkpoint, with_nested_nulls
from lightning_mm.cli.lightning.checkpoint_files import check_content, check_places, use_whole_checkpoints
from lightning_mm.cli.lightning.parser import plain_config
from lightning_mm.cli.lightning.preflight import facts_of, preflight
from lightning_mm.cli.lightning.resume import AUTO, HOPELESS, USELESS, Attempt
from lightning_mm.cli.slurm_tasks import check_processes
from lightning_mm.cli.stopping import Stop
from lightning_mm.errors import Stopped, UsageError, shown
from lightning_mm.files import check_folder
from lightning_mm.signals import WARNING
from lightning_mm.tracking import OfflineFirstWandbLogger, log_fit
from lightning_mm.tracking.follow import follow_fit, link_sweep

CHECKPOINT_WORDS = ("last", "hpc")
"""Values of ``--ckpt_path`` that Lightning resolves itself; ``best`` it knows in the process that trained alone."""
READING = ("fit", "validate", "test", "predict")
"""Verbs that let Lightning read the checkpoint."""


class CommandLine(LightningCLI):
    """Our verbs, one list of modalities for data and task, and checkpoints that never change settings."""

    stop: Stop | None = None
    _attempt: Attempt | None = None
    _found: Path | None = None
    _started = 0.0, 0.0

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        given = {"model", "datamodule"}
        own = {
            "sweep": {*given, "config"},
            **dict.fromkeys(("export", "check", "mean_input", "features", "look"), given),
        }
        return {**LightningCLI.subcommands(), **own}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.modalities", "model.init_args.modalities")
        # one seed for the network's start, the order of the data, augmentation and masks
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.facts: dict[str, Any] = {}
        # Without Lightning's warning about arguments from Python: ours always come from `main`.
        given = with_json_flag(args) if args[0] == "check" else args
        self.config = parser.parse_args(with_nested_nulls(given))
        self._asked_for = self.config[self.config.subcommand].get("ckpt_path")
        for name in ("trainer", "data"):
            value = self.config[self.config.subcommand].get(name)
            if not isinstance(value, Namespace):  # jsonargparse takes anything for a group of settings
                raise UsageError(f"{name}: expected keys and values, got {shown(value)}")

    def _parse_ckpt_path(self) -> None:
        # Lightning 2.6 lets the settings in a checkpoint win over those on the command line. Here the configs say what
        # the network is; a checkpoint of another one is an error when its weights are loaded.
        verb = self.config[self.config.subcommand]
        if self.config.subcommand == "fit":
            self._begin(verb)
        for name, path in {"ckpt_path": verb.get("ckpt_path"), **(verb.get("also") or {})}.items():
            word = path in CHECKPOINT_WORDS and self.config.subcommand in READING
            if path and not word and not (path == AUTO and self.config.subcommand == "fit"):
                check_checkpoint(name, path)
                if self.config.subcommand in READING:
                    check_content(name, path, resumed=self.config.subcommand == "fit")

    def _begin(self, verb: Namespace) -> None:
        """Look for the checkpoint of ``--ckpt_path auto``, before data and network are made."""
        config = plain_config(self._parser("fit"), verb)
        if "://" in str(config["trainer"].get("default_root_dir")):
            if verb.get("ckpt_path") == AUTO:
                raise UsageError(f"ckpt_path {AUTO} needs a trainer.default_root_dir on this machine, not a URL")
            return
        self._attempt = Attempt.of(config)
        # `config` is what is saved, in which a folder named by the environment stays a reference
        self._attempt.folder = Path(verb["trainer"].get("default_root_dir") or ".")
        if verb.get("ckpt_path") != AUTO:
            return
        self._found = self._attempt.find(config)
        self._attempt.begin(self._found)

    def before_instantiate_classes(self) -> None:
        # Named after the verb: `fit` and `sweep` share a folder, and W&B owns the name config.yaml.
        self.save_config_kwargs = {"config_filename": f"{self.subcommand}.yaml", "overwrite": True}
        if self.subcommand == "check":
            without_training(self.config[self.subcommand])

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        folder = self._get(self.config_init, "trainer", default={}).get("default_root_dir") or "."
        if "://" not in str(folder):
            check_folder(folder)
        trainer = super().instantiate_trainer(**settings)
        use_whole_checkpoints(trainer)
        leave_requeueing_to_us(trainer)
        return trainer

    def before_fit(self) -> None:
        check_processes(self.trainer.world_size)
        check_places(self.trainer)
        adapts = any(isinstance(one, FrozenBackboneAdapter) for one in self.trainer.callbacks)  # type: ignore[attr-defined]
        self._set_job_type("adapt" if adapts else "fit")
        self._resuming = self._resume_checkpoint()
        if self._get(self.config, "ckpt_path") == AUTO:
            self.config_init["fit"]["ckpt_path"] = self._found and str(self._found)
        self._follow_fit()
        self.datamodule.setup("fit")
        preflight(self.model, next(iter(self.datamodule.val_dataloader())))
        self._started = time.perf_counter(), time.process_time()

    def _resume_checkpoint(self) -> ResumeCheckpoint:
        """The callback of the config, or one that is added; without ``stop`` it leaves signals to the caller."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        found = next((one for one in callbacks if isinstance(one, ResumeCheckpoint)), None)
        if found is None:
            found = ResumeCheckpoint()
            callbacks.append(found)
        found.signals = self.stop
        found.listens = self.stop is not None
        found.settings = None if self._attempt is None else self._attempt.settings
        found.has_older = self._attempt is not None and self._attempt.has_resume
        return found

    def fit(self, **settings: Any) -> None:
        """Train; a warning that has come twice before a step was made is not answered by a wish to be requeued."""
        attempt = self._attempt
        if attempt is not None and self._get(self.config, "ckpt_path") != AUTO and attempt.state() is not None:
            attempt.write()  # it starts anew
        try:
            self.trainer.fit(**settings)
        except Stopped:
            warned = self.stop is not None and self.stop.received == WARNING
            if self.stop is not None and warned and attempt is not None and not self._resuming.progressed:
                self.stop.gave_up = attempt.useless() >= USELESS
                self.stop.note = HOPELESS if self.stop.gave_up else self.stop.note
            raise

    def after_fit(self) -> None:
        timed = self._get(self.config, "trainer").get("max_time") is not None
        if self._attempt is not None and not timed and not getattr(self.trainer, "fast_dev_run", False):
            self._attempt.write(step=self.trainer.global_step, finished=True)
        trained = (one.numel() for one in self.model.parameters() if one.requires_grad)
        wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self.facts = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "trained": sum(trained)}
        log_fit(self.trainer.loggers, self.facts)

    def after_validate(self) -> None:
        self.facts = {"metrics": {name: float(value) for name, value in self.trainer.callback_metrics.items()}}

    def before_test(self) -> None:
        self.datamodule.setup("test")
        preflight(self.model, next(iter(self.datamodule.test_dataloader())))

    def before_predict(self) -> None:
        folder = Path(self.trainer.default_root_dir) / "predictions"
        self.trainer.callbacks.append(PredictionWriter(folder))  # type: ignore[attr-defined]

    def sweep(self, **settings: Any) -> None:
        """Run the trainer's sweep with the whole config, which it keeps with the results."""
        self._set_job_type("sweep")
        link_sweep(self.trainer.loggers, settings.get("ckpt_path"))
        config = self.config[str(self.subcommand)]
        settings["config"] = plain_config(self._parser(self.subcommand), config)
        self.trainer.sweep(**settings)  # type: ignore[attr-defined]

    def _follow_fit(self) -> None:
        follow_fit(
            self.trainer,
            lambda: plain_config(self._parser(self.subcommand), self.config[str(self.subcommand)]),
            self._get(self.config_init, "ckpt_path"),
            again=self._asked_for == "auto",
            base=getattr(self.model, "base_ckpt", None),
        )

    def _set_job_type(self, job_type: str) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, OfflineFirstWandbLogger):
                logger.set_defaults(job_type=job_type)

    def after_look(self) -> None:
        self.facts = facts_of(self.model, self.datamodule)
