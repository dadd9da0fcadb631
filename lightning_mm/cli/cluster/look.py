"""Looks at the config of a command before it is submitted: a mistake is found now, not when the job starts."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from lightning_mm.cli.lightning.checkpoint_files import check_places
from lightning_mm.cli.lightning.command_line import CommandLine
from lightning_mm.cli.lightning.parser import plain_config
from lightning_mm.cli.lightning.preflight import preflight
from lightning_mm.cli.lightning.run import run_lightning
from lightning_mm.cli.lightning.weights import check_weights
from lightning_mm.cli.references import masked
from lightning_mm.files import check_folder
from lightning_mm.modalities import Modalities

HERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Settings of the trainer while it is looked at: the machine that submits has other devices than the job."""


class Parsed(CommandLine):
    """Parses the config, and makes nothing.

    The facts are ``config``, the whole config of the verb as YAML, ``secrets``, whether it holds some, ``plain``, the
    config in plain types with what follows from other settings, and single settings of the trainer and the verb.
    """

    def _parse_ckpt_path(self) -> None:
        pass  # an earlier job may have yet to write it

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        config = self.config[subcommand]
        text = self._parser(subcommand).dump(config, skip_none=False)
        self.facts = {"config": text, "secrets": masked(text) != text}
        self.facts["plain"] = plain_config(self._parser(subcommand), config)
        for key in ("default_root_dir", "strategy", "devices", "num_nodes", "accelerator"):
            self.facts[key] = config["trainer"].get(key)
        for key in ("ckpt_path", "out", "split", "combinations"):
            self.facts[key] = config.get(key)
        self.facts["modalities"] = list(config["data"]["modalities"])


class Looked(Parsed):
    """Makes trainer, network and data as well, and runs a few samples through the network."""

    def _parse_ckpt_path(self) -> None:
        CommandLine._parse_ckpt_path(self)

    def instantiate_classes(self) -> None:
        CommandLine.instantiate_classes(self)

    def instantiate_trainer(self, **settings: Any) -> Trainer:
        return super().instantiate_trainer(**{**settings, **HERE})

    def _run_subcommand(self, subcommand: str) -> None:
        super()._run_subcommand(subcommand)
        self.datamodule.prepare_data()
        if subcommand == "fit":
            check_places(self.trainer)
            self.datamodule.setup("fit")
            batch = next(iter(self.datamodule.val_dataloader()))
        else:
            check_weights(self.trainer, self.model, self.facts["ckpt_path"], "sweep", "show")
            Modalities(self.facts["modalities"]).select(self.facts["combinations"])
            if self.facts["out"]:
                check_folder(self.facts["out"])
            test = self.facts["split"] == "test"
            self.datamodule.setup("test" if test else "validate")
            batch = next(iter(self.datamodule.test_dataloader() if test else self.datamodule.val_dataloader()))
        preflight(self.model, batch)


def look(words: list[str], parse_only: bool = False) -> dict[str, Any]:
    """Look at the config of ``fit`` or ``sweep``; nothing is written.

    Args:
        words: The words of the command, the verb first.
        parse_only: Whether to make nothing of it, for a command that needs what an earlier job writes.

    Returns:
        See :class:`Parsed`.

    Raises:
        LightningMMError: As the command would.
    """
    return run_lightning(words, command_line=Parsed if parse_only else Looked)
