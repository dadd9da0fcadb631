"""The verb ``sweep``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.adapters.saving.folder import save_adapter
from lightning_mm.callbacks.checkpoints import saver_of
from lightning_mm.cli.lightning.preflight import batches_of, first_batch
from lightning_mm.cli.lightning.weights import adapters_of, attach_and_load, check_weights
from lightning_mm.data.corrupt.base import SEVERITIES, Corruption
from lightning_mm.errors import LightningMMError
from lightning_mm.files import check_folder
from lightning_mm.missing import FixedCombination, MissingnessPolicy
from lightning_mm.results.corruption import remove_corruption, save_corruption
from lightning_mm.results.files import save
from lightning_mm.results.pictures import FOLDER, Examples, Picture, write_examples, write_pictures
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import ADAPTED, DEDICATED, ZERO_FILL
from lightning_mm.results.shards.shard import Shard
from lightning_mm.results.terminal import print_table
from lightning_mm.sweep.corruption.run import check_corruptions, corruption_sweep
from lightning_mm.sweep.examples import collect_examples
from lightning_mm.sweep.fills import Row, rows_of
from lightning_mm.sweep.run import sweep
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.checkpoints import load_weights
from lightning_mm.tasks.training.strategies import has_whole_network
from lightning_mm.tracking import log_result

ADAPTER = "adapter"
"""Folder of the adapter in that of a sweep."""


def sweep_task(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    ckpt_path: str | None = None,
    combinations: list[str] | None = None,
    split: Literal["test", "val"] = "test",
    method: str | None = None,
    also: dict[str, str] | None = None,
    rows: list[Row] | None = None,
    out: str | None = None,
    bootstrap: int = 1000,
    seed: int | None = None,
    baseline: bool = True,
    pictures: bool = True,
    config: dict[str, Any] | None = None,
    reuse: bool = True,
    shard: str | None = None,
    policies: dict[str, MissingnessPolicy] | None = None,
    corruptions: dict[str, list[Corruption]] | None = None,
    severities: list[int] | None = None,
) -> SweepResult:
    """Evaluate every combination of available modalities in one pass over a split.

    Args:
        trainer: Its callbacks say whether there is an adapter.
        model: The task.
        datamodule: The data.
        ckpt_path: Its weights; those of an adapter if the config has a FrozenBackboneAdapter.
        combinations: Which combinations, e.g. [rgb, rgb+depth]; all by default.
        split: The split; choose settings on val, report test.
        method: Name of the network in the table; by default zero_fill without an adapter, and zero_fill and adapted
            with one. A network named dedicated is run on the combination of all of its modalities only; on that of
            train_policy where this is a FixedCombination, and else on combinations where these are given.
        also: Further methods of the same network: name in the table to checkpoint.
        rows: Further methods that need no training, of the network without an adapter, e.g. [feature_mean, mean_fill];
            what they take from the training split is written next to the table.
        out: Folder for sweep.csv, .json, .md, .png, sweep_samples.npz and pictures/; by default sweep/ in
            default_root_dir, or sweep_val/ for the validation split. An adapter is saved in adapter/.
        bootstrap: Replicates for intervals over samples; 0 for none.
        seed: Seed of the training run, written to every row of the table; by default that of seed_everything.
        baseline: Whether a network with an adapter is swept with it switched off too, as zero_fill.
        pictures: Whether predictions are drawn: one picture per combination, in pictures/.
        config: The configuration of the run, kept in sweep.json.
        reuse: Whether modules with the same input in several combinations, such as encoders, run once per batch for
            these; sweep.json names them, or says why there is none.
        shard: Which part of the sweep to run, e.g. 2/4 for every fourth combination from the second one on, as a task
            of a job array does; out is then sweep_shards/2of4/ by default. `lightning-mm merge` puts all parts
            together, and the result is that of one process; it also writes the W&B run.
        policies: Policies of missingness to evaluate under beside the combinations, name to policy; policies.csv and
            policies.md hold the primary metric of every method under each.
        corruptions: Modality to corruptions of it, e.g. {image: [{class_path: GaussianNoise}]}: one modality at a time
            is damaged, which adds corruption.csv, .md and .png, with a comparison to the modality declared absent.
        severities: How severely, 1 to 5; all of them by default.
    """
    if corruptions and shard is not None:
        raise LightningMMError("corruptions: not with a shard; give them to a sweep in one process")
    if severities and not corruptions:
        raise LightningMMError(
            "severities: there are no corruptions; add e.g. --corruptions '{rgb: [{class_path: GaussianNoise}]}'"
        )
    part = None if shard is None else Shard.parse(shard)
    if part is not None:
        trainer.loggers = []  # the run of a sweep is written when its parts are merged
    name = "sweep" if split == "test" else f"sweep_{split}"
    own = Path(name) if part is None else Path(f"{name}_shards") / f"{part.number}of{part.of}"
    folder = Path(out or Path(trainer.default_root_dir) / own)
    check_folder(folder)
    check_weights(trainer, model, ckpt_path, "sweep", "show")
    # Copies are taken before the adapter comes in: further methods are the plain network.
    others = {name: deepcopy(model) for name in also or {}}
    for name, path in (also or {}).items():
        load_weights(others[name], path)
    if rows:
        others |= _rows(trainer, deepcopy(model), datamodule, rows, folder, ckpt_path)
    attach_and_load(trainer, model, datamodule, first_batch(datamodule, split), ckpt_path)
    methods: Any = model
    if method == DEDICATED:
        methods = {method: [model]}
    elif method is not None or others:
        methods = {method or (ADAPTED if hasattr(model, "adapter") else ZERO_FILL): model}
    methods = {**methods, **others} if others else methods
    if corruptions:  # a mistake is found before the first pass
        check_corruptions(methods, datamodule, corruptions, severities or SEVERITIES)
    trained_with = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
    result = sweep(
        methods,
        datamodule,
        combinations=combinations,
        split=split,
        trainer=trainer,
        bootstrap=bootstrap,
        seed=trained_with,
        baseline=baseline,
        dedicated_to=_trained_for(datamodule, combinations) if method == DEDICATED else None,
        config=config,
        reuse=reuse,
        shard=shard,
        policies=policies,
    )
    written = save(result, folder) if trainer.is_global_zero else {}
    if trainer.is_global_zero:
        remove_corruption(folder)
    if corruptions:
        shared: dict[str, Any] = {"split": split, "trainer": trainer, "bootstrap": bootstrap, "seed": trained_with}
        damaged = corruption_sweep(
            methods, datamodule, corruptions, severities or SEVERITIES, baseline=baseline, **shared
        )
        if trainer.is_global_zero:
            written |= save_corruption(damaged, folder)
    if trainer.is_global_zero:
        # W&B last: what happens to it loses nothing.
        drawn = _draw(trainer, model, others, datamodule, split, result, folder) if pictures else []
        adapter = _save_adapter(model, folder)
        print_table(result)
        if "policies" in written:
            print((folder / "policies.md").read_text(encoding="utf-8"))
        print("written: " + ", ".join(map(str, [*written.values(), *([folder / FOLDER] if drawn else [])])))
        if part is not None:
            whole = Path(trainer.default_root_dir) / name
            print(f"shard {part.text}; all together: lightning-mm merge {folder.parent} --out {whole}")
        if trainer.loggers:
            log_result(trainer.loggers, result, drawn, written["png"], adapter)
    return result


def _rows(
    trainer: Trainer,
    plain: LightningModule,
    datamodule: LightningDataModule,
    rows: list[Row],
    folder: Path,
    ckpt_path: str | None,
) -> dict[str, Any]:
    """The rows of a network without an adapter; with one, it has the weights of its ``base_ckpt``."""
    if ckpt_path is not None and not adapters_of(trainer):
        load_weights(plain, ckpt_path)
    if not isinstance(plain, BaseTask):
        raise LightningMMError(f"rows: expected a task of lightning_mm.tasks, got a {type(plain).__name__}")
    if adapters_of(trainer) and plain.base_ckpt is None:
        raise LightningMMError("rows: give the task its base_ckpt; the checkpoint of an adapter does not hold the base")
    datamodule.prepare_data()
    return dict(rows_of(plain, rows, datamodule, folder))


def _draw(
    trainer: Trainer,
    model: LightningModule,
    others: Mapping[str, LightningModule],
    datamodule: LightningDataModule,
    split: str,
    result: SweepResult,
    folder: Path,
) -> list[Picture]:
    """Draw the predictions of a sweep; samples of a network that is split over processes are left out."""
    examples = Examples()
    if has_whole_network(trainer.strategy):
        methods = {name: others.get(name, model) for name in result.methods}
        examples = collect_examples(methods, batches_of(datamodule, split), result, precision=trainer.precision_plugin)
    if examples.predictions or examples.class_names:
        write_examples(examples, folder)
    return write_pictures(result, folder, examples)


def _save_adapter(model: LightningModule, folder: Path) -> Path | None:
    """Save the adapter that was swept next to its figures, unless the trainer has converted its base."""
    saver = saver_of(model)
    if saver is None or fingerprint(saver.network) != saver.base_fingerprint:
        return None
    save_adapter(saver.adapter, saver.network, folder / ADAPTER)
    return folder / ADAPTER


def _trained_for(datamodule: LightningDataModule, given: list[str] | None) -> list[str] | None:
    """The combinations that a dedicated network is for, which may have inputs for more modalities than these."""
    policy = getattr(datamodule, "policies", {}).get("train")
    return [policy.combination] if isinstance(policy, FixedCombination) else given
