"""Parses and saves the configs of LightningCLI's verbs."""

from __future__ import annotations

from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from lightning_mm.cli.lightning.config_errors import shorten
from lightning_mm.cli.references import References, masked
from lightning_mm.errors import UsageError
from lightning_mm.files import write_atomically


class Parser(LightningArgumentParser):
    """Says what is wrong with a config in one short message, and keeps references to the environment."""

    references = References("")
    """Of the command; :func:`~lightning_mm.cli.lightning.run.run_lightning` makes a subclass with its own."""

    def dump(self, *args: Any, skip_validation: bool = False, **kwargs: Any) -> str:
        # Whatever is dumped has been parsed, and so validated: doing it again takes a tenth of a small fit, each time.
        text: str = super().dump(*args, skip_validation=True, **kwargs)
        if "${" in text and skip_validation:  # jsonargparse dumps the stacked configs to resolve them
            self.references.note(yaml.safe_load(text))
            return text
        return self.references.kept(text)

    def save(self, cfg: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if "://" in str(path):
            super().save(cfg, path, *args, **kwargs)
        else:
            write_atomically(str(path), masked(self.dump(cfg, skip_none=False)))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)  # a parser inside another one: the outer one reports
        raise UsageError(shorten(message, self))


class SaveConfig(SaveConfigCallback):
    """Writes the whole config next to the results, named after the verb, and to the loggers.

    Not in ``setup``, as Lightning's does, but once the checkpoint is read: a command that fails before it has begun
    leaves the config of a finished run as it was.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)  # of a fit that trains nothing, as BatchNormRefit's

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self.already_saved:
            return
        self.already_saved = True
        folder = trainer.log_dir  # asked for on every rank: the first one tells the others
        if not trainer.is_global_zero:
            return
        if folder is not None:
            path = f"{folder}/{self.config_filename}"
            self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)
        for logger in trainer.loggers:
            config = plain_config(self.parser, self.config)
            # A table of runs has a column for each setting at the top.
            logger.log_hyperparams(config if isinstance(logger, WandbLogger) else {"config": config})


def plain_config(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """A parsed config in plain types, as it would be written to YAML, without secrets."""
    text = masked(parser.dump(config, skip_none=False, skip_link_targets=False))
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
