"""The steps of a study: each trains or sweeps one network, in a separate folder.

``<out>/<method>/[<combination>/][<tuned value>/]seed<k>`` holds ``cell.yaml``, a complete config for training and
sweeping the network by hand, its checkpoints, its sweeps, and a marker for every finished stage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from lightning_mm.compare.recipes import FillFile
from lightning_mm.compare.study import Method, Study
from lightning_mm.version import __version__

Stage = Literal["means", "features", "fit", "val", "test"]
CONFIG, CHECKPOINT = "cell.yaml", "best.ckpt"
FILES = {"mean_input": "mean_input.safetensors", "features": "features.safetensors"}
"""The files of fills, by the verb that writes them."""


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        folder: Its folder.
        stage: ``means`` computes the mean sample, ``features`` the outputs of encoders, ``fit`` trains, ``val`` and
            ``test`` sweep; ``val`` of a trial of a search validates.
        method: Its method.
        stack: Config files, later ones win.
        overrides: Dotted key to value, stronger than the files.
        patch: What the recipe changes in the resolved config, see :func:`lightning_mm.compare.cell_config.patched`.
        command: What is run with the finished ``cell.yaml``; empty if there is nothing to train.
        needs: Steps that must be finished first.
        key: Hash of everything that determines the outcome.
    """

    folder: Path
    stage: Stage
    method: str
    stack: tuple[Path, ...]
    overrides: Mapping[str, Any]
    patch: Mapping[str, Any]
    command: tuple[str, ...]
    needs: tuple[Step, ...]
    key: str

    @property
    def marker(self) -> Path:
        """The file that marks the step as finished; holds its facts."""
        return self.folder / f"{self.stage}.done.json"

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.folder}: {self.stage}"


class Plan:
    """Lists the steps of a study; called again after each choice between tuned values."""

    def __init__(self, study: Study) -> None:
        self.study = study
        files = {*study.configs, *(path for method in study.methods for path in method.configs)}
        # comments do not count
        self._read = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
        self._fits: dict[Path, Step] = {}

    def steps(self, chosen: Mapping[str, Any]) -> list[Step]:
        """List all steps that are known, each after those that it needs.

        Args:
            chosen: Tuned method to the value chosen for it; the test sweeps of the others are not known yet.
        """
        found: dict[tuple[Path, Stage], Step] = {}
        for step in self._all(chosen):
            for one in (*self._before(step), step):
                found.setdefault((one.folder, one.stage), one)
        return list(found.values())

    def _all(self, chosen: Mapping[str, Any]) -> Iterator[Step]:
        for method in self.study.methods:
            for seed in self.study.seeds:
                yield from self.validation(method, seed)
            if method.tuned is None or method.name in chosen:
                yield from self.tests(method, chosen.get(method.name))

    def validation(self, method: Method, seed: int) -> list[Step]:
        """Sweeps of the validation split: those that choose a tuned value.

        If the study validates, also those of all methods with one network for all combinations. A trial of a search
        has one evaluation of that split instead.
        """
        if method.recipe.validated:
            return [self.validated(method, seed)]
        if method.tuned is None:
            checked = self.study.validate and method.swept and not method.recipe.each
            return self.sweeps(method, seed, None, "val") if checked else []
        if seed not in (method.tune_seeds or self.study.seeds):
            return []
        return [step for value in method.tuned[1] for step in self.sweeps(method, seed, value, "val")]

    def validated(self, method: Method, seed: int) -> Step:
        """The metrics of the validation split, of the checkpoint that a training keeps."""
        fit = self.fit(method, None, seed, None)
        command = ("validate", "-c", str(fit.folder / CONFIG), "--ckpt_path", str(fit.folder / CHECKPOINT))
        return self._step(fit.folder, "val", method, fit.overrides, fit.patch, command, (fit,))

    def tests(self, method: Method, value: Any) -> list[Step]:
        """Sweeps of the test split, for all seeds."""
        if not method.swept:
            return [self.fit(method, None, seed, None) for seed in self.study.seeds]
        return [step for seed in self.study.seeds for step in self.sweeps(method, seed, value, "test")]

    def sweeps(self, method: Method, seed: int, value: Any, stage: Literal["val", "test"]) -> list[Step]:
        """The sweep of every network of a method."""
        steps = []
        policies = json.dumps(self.study.policies) if self.study.policies else ""
        for combination in self.study.combinations_of(method):
            fit = self.fit(method, combination, seed, value)
            options = {"--method": "dedicated" if method.recipe.each == "dedicated" else method.name, "--split": stage}
            if method.recipe.each:
                options["--combinations"] = f"[{combination}]"
            elif policies and stage == "test":
                options["--policies"] = policies
            options["--bootstrap"] = str(self.study.bootstrap if stage == "test" else 0)
            options["--out"] = str(fit.folder / ("sweep" if stage == "test" else "sweep_val"))
            options["--baseline"] = "false"
            if stage == "test" and self.study.corruptions and not method.recipe.each:
                options["--corruptions"] = json.dumps(self.study.corruptions)
                if self.study.severities:
                    options["--severities"] = json.dumps(self.study.severities)
            trained = fit.folder if method.recipe.trains else fit.needs[0].folder
            arguments = [part for option in options.items() for part in option]
            command = ("sweep", "-c", str(fit.folder / CONFIG), "--ckpt_path", str(trained / CHECKPOINT), *arguments)
            steps.append(self._step(fit.folder, stage, method, fit.overrides, fit.patch, command, (fit,)))
        return steps

    def fit(self, method: Method, combination: str | None, seed: int, value: Any) -> Step:
        """The training of one network; a method that trains nothing only writes its config."""
        study, recipe = self.study, method.recipe
        folder = self.folder(method, combination, seed, value)
        if folder in self._fits:
            return self._fits[folder]
        needs: list[Step] = []
        overrides: dict[str, Any] = {
            "seed_everything": seed,
            "trainer.default_root_dir": str(folder),
            "trainer.logger": False,
            "trainer.enable_progress_bar": False,
            "trainer.enable_model_summary": False,
            **study.settings,
            **method.settings,
        }
        if method.tuned is not None:
            overrides[method.tuned[0]] = value
        if recipe.start is not None:
            start = study.method(recipe.start)
            needs.append(self.fit(start, None, seed, None))
            if recipe.trains:
                overrides["model.init_args.base_ckpt"] = str(needs[0].folder / CHECKPOINT)
        patch: dict[str, Any] = {"callbacks": list(recipe.callbacks), "init_args": method.arguments}
        for key in ("train_policy", "val_policy"):
            if any(f"{name}.".startswith(f"data.{key}.") for name in method.settings):
                continue  # that of the study
            if getattr(recipe, key) is not None:
                patch[key] = getattr(recipe, key)
            elif recipe.each == "finetune":
                fixed = {"class_path": "lightning_mm.missing.FixedCombination"}
                patch[key] = {**fixed, "init_args": {"combination": combination}}
        if recipe.each == "dedicated":
            patch["only"] = list(study.modalities.parse(str(combination)))
        if recipe.classes is not None:
            patch["classes"] = dict(recipe.classes)
        if recipe.fill is not None:
            patch["fill"] = {"class_path": f"lightning_mm.missing.{recipe.fill}"}
        if recipe.fill_file is not None:
            needs.append(self.fill_file(needs[0], recipe.fill_file))
            patch["fill"]["init_args"] = {"path": str(needs[-1].folder / FILES[recipe.fill_file])}
        command = ("fit", "-c", str(folder / CONFIG)) if recipe.trains else ()
        self._fits[folder] = self._step(folder, "fit", method, overrides, patch, command, tuple(needs))
        return self._fits[folder]

    def fill_file(self, start: Step, verb: FillFile) -> Step:
        """The file of a fill, computed with the config of a network and, where they matter, its weights."""
        folder = start.folder
        command: tuple[str, ...] = (verb, "-c", str(folder / CONFIG), "--out", str(folder / FILES[verb]))
        stage: Stage = "means"
        if verb == "features":
            command, stage = (*command, "--ckpt_path", str(folder / CHECKPOINT)), "features"
        return self._step(folder, stage, self.study.method(start.method), {}, {}, command, (start,))

    def folder(self, method: Method, combination: str | None, seed: int, value: Any) -> Path:
        """The folder of one network."""
        folder = self.study.out / method.name
        if combination is not None:
            folder /= combination
        if method.tuned is not None:
            folder /= f"{method.tuned[0].rpartition('.')[2]}={short(value)}"
        return folder / f"seed{seed}"

    def _step(
        self,
        folder: Path,
        stage: Stage,
        method: Method,
        overrides: Mapping[str, Any],
        patch: Mapping[str, Any],
        command: tuple[str, ...],
        needs: tuple[Step, ...],
    ) -> Step:
        stack = (*self.study.configs, *method.configs)
        made_of = {
            "version": __version__,
            "stack": [self._read[path] for path in stack],
            "overrides": overrides,
            "patch": patch,
            "command": command,
            "needs": [need.key for need in needs],
        }
        text = json.dumps(_without(made_of, str(self.study.out)), sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Step(folder, stage, method.name, stack, overrides, patch, command, needs, key)

    def _before(self, step: Step) -> Iterator[Step]:
        for need in step.needs:
            yield from self._before(need)
            yield need


def short(value: Any) -> str:
    """Write a tuned value as a part of a folder's name."""
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_+-][\w.+-]{0,39}", text):
        return text
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _without(value: Any, folder: str) -> Any:
    """Make paths inside a folder relative to it: moving a study changes no outcome."""
    if isinstance(value, Mapping):
        return {key: _without(leaf, folder) for key, leaf in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without(leaf, folder) for leaf in value]
    inside = isinstance(value, str) and (value == folder or value.startswith(f"{folder}/"))
    return value.removeprefix(folder) if inside else value
