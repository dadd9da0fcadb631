"""A search for hyper-parameters, read from a YAML file; the words are those of W&B sweeps where they mean the same.

Example:
    .. code-block:: yaml

        config: [base.yaml, ssf.yaml]     # next to this file: what `lightning-mm fit` stacks
        method: random                    # or grid: every combination of values
        trials: 16                        # of a random search; more of them keep the earlier ones
        metric: {name: val/accuracy, goal: maximize}
        seeds: [0, 1]                     # every trial is trained with each
        parameters:
          model.init_args.optimizer.init_args.lr: {min: 0.001, max: 0.1, distribution: log_uniform_values}
          model.init_args.optimizer.init_args.weight_decay: {values: [0, 0.05]}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from lightning_mm.compare import checks
from lightning_mm.compare.recipes import Recipe
from lightning_mm.compare.study import Method, Study, modalities_of
from lightning_mm.compare.tuning.parameters import Parameter, parameter, plain
from lightning_mm.errors import LightningMMError, shown
from lightning_mm.modality_names import ModalityNames

CALLBACK = "callbacks."
"""Start of the name of a parameter that is an argument of a callback, whose place in a list has no dotted key."""
METHODS, GOALS = ("grid", "random"), ("maximize", "minimize")
TRIAL = Recipe("a trial of a search", start=None, swept=False, validated=True)
KEYS = ("name", "config", "method", "trials", "seed", "metric", "parameters", "settings", "seeds", "out")


@dataclass(frozen=True)
class Trial:
    """Settings that are tried.

    Args:
        number: Its place in the search, from 0.
        values: Dotted key to value.
    """

    number: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its folder, which depends on the values alone: a trial that a changed search still holds is not run again."""
        text = json.dumps(dict(self.values), sort_keys=True, default=str)
        return f"trial-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Tune:
    """A search.

    Args:
        name: Name of the search, by default that of its folder.
        configs: Stacked, what ``lightning-mm fit`` would train with.
        modalities: Modalities of the data.
        method: ``grid`` for every combination of values, or ``random``.
        metric: Name of a logged metric of the validation split, such as ``val/accuracy``.
        goal: ``maximize`` or ``minimize``.
        parameters: What is chosen.
        out: Folder of the runs and the table.
        count: Trials of a random search.
        seed: Of the draws of a random search.
        seeds: Every trial is trained with each.
        settings: Dotted key to value for every trial.
        content: The content of the file.
    """

    name: str
    configs: tuple[Path, ...]
    modalities: ModalityNames
    method: str
    metric: str
    goal: str
    parameters: tuple[Parameter, ...]
    out: Path
    count: int = 0
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    def trials(self) -> list[Trial]:
        """The trials in order, each once.

        The draws of trial k depend on the seed, k and the names of the parameters alone, so more trials keep the
        earlier ones.
        """
        if self.method == "grid":
            rows = [dict(zip(self._names(), values)) for values in product(*(one.values for one in self.parameters))]
        else:
            rows = [
                {one.name: one.draw(place(self.seed, number, one.name)) for one in self.parameters}
                for number in range(self.count)
            ]
        found: dict[str, Trial] = {}
        for number, values in enumerate(rows):
            trial = Trial(number, values)
            found.setdefault(trial.name, trial)
        return list(found.values())

    def extremes(self) -> list[Trial]:
        """A few trials that hold every value of every list, and both ends of every range."""
        count = max(len(one.ends) for one in self.parameters)
        return [
            Trial(number, {one.name: one.ends[number % len(one.ends)] for one in self.parameters})
            for number in range(count)
        ]

    def study(self, trials: Sequence[Trial]) -> Study:
        """The study whose methods are these trials."""
        return Study(
            name=self.name,
            configs=self.configs,
            modalities=self.modalities,
            seeds=self.seeds,
            methods=tuple(method_of(trial.values, trial.name) for trial in trials),
            out=self.out,
            results=self.out,
            settings=self.settings,
            content=self.content,
        )

    def _names(self) -> list[str]:
        return [one.name for one in self.parameters]


def method_of(values: Mapping[str, Any], name: str) -> Method:
    """The method that trains with some values.

    Args:
        values: Dotted key to value; ``callbacks.<class name>.<argument>`` is an argument of a callback.
        name: Its folder.
    """
    callbacks: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        if key.startswith(CALLBACK):
            _, callback, argument = key.split(".", 2)
            callbacks.setdefault(callback, {})[argument] = value
    settings = {key: value for key, value in values.items() if not key.startswith(CALLBACK)}
    return Method(name, TRIAL, settings=settings, callbacks=callbacks)


def place(seed: int, number: int, name: str) -> float:
    """A number from 0 to below 1 that is as good as random, the same on every machine.

    Example:
        >>> 0 <= place(0, 3, "lr") < 1, place(0, 3, "lr") == place(0, 3, "lr"), place(0, 3, "lr") == place(0, 4, "lr")
        (True, True, False)
    """
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def read_tune(path: str | Path) -> Tune:
    """Read a search; paths of its files are relative to it.

    Raises:
        DataNotFoundError: If a file is missing.
        LightningMMError: If it is not YAML or a key or value is wrong; the message names it.
    """
    path = Path(path)
    content = checks.read_yaml(path)
    checks.check_keys(f"{path}", content, KEYS)
    for key in ("config", "method", "metric", "parameters"):
        if content.get(key) is None:
            raise LightningMMError(f"{path}: {key}: a search needs it, such as {_EXAMPLES[key]}")
    name = content.get("name")
    name = checks.check_name(f"{path}: name", path.resolve().parent.name if name is None else name)
    configs = checks.files(path, "config", content["config"])
    if not configs:
        raise LightningMMError(f"{path}: config: a search needs it, such as {_EXAMPLES['config']}")
    parameters = _parameters(path, content["parameters"])
    settings = checks.settings(path, "settings", content.get("settings"))
    settings = {key: plain(value) for key, value in settings.items()}
    for one in parameters:
        if one.name in settings:
            raise LightningMMError(f"{path}: settings: {one.name} is among the parameters too; remove one of them")
    method = checks.typed(str(path), content, "method", str, None)
    if method not in METHODS:
        more = "; write a W&B sweep (--wandb_sweep) and change its method there" if method == "bayes" else ""
        raise LightningMMError(f"{path}: method: expected grid or random, got {shown(method)}{more}")
    metric, goal = _metric(path, content["metric"])
    out = checks.typed(str(path), content, "out", str, "")
    return Tune(
        name=name,
        configs=configs,
        modalities=ModalityNames(modalities_of(path, configs)),
        method=method,
        metric=metric,
        goal=goal,
        parameters=parameters,
        out=Path(out or Path("outputs") / name / "tune"),
        count=_count(path, method, content, parameters),
        seed=checks.typed(str(path), content, "seed", int, 0),
        seeds=checks.seeds(str(path), "seeds", content.get("seeds", [0])),
        settings=settings,
        content=content,
    )


_EXAMPLES = {
    "config": "[base.yaml, ssf.yaml]",
    "method": "grid or random",
    "metric": "{name: val/accuracy, goal: maximize}",
    "parameters": "{model.init_args.optimizer.init_args.lr: {values: [0.01, 0.03]}}",
}


def _parameters(path: Path, content: Any) -> tuple[Parameter, ...]:
    if not isinstance(content, Mapping) or not content:
        raise LightningMMError(f"{path}: parameters: expected {_EXAMPLES['parameters']}, got {shown(content)}")
    named = checks.settings(path, "parameters", content)
    for name in named:
        if name.startswith(CALLBACK) and name.count(".") < 2:
            raise LightningMMError(
                f"{path}: parameters: {name}: expected class and argument of a callback, such as "
                "callbacks.FrozenBackboneAdapter.adapter.init_args.rank"
            )
    return tuple(parameter(f"{path}: parameters", name, one) for name, one in named.items())


def _metric(path: Path, content: Any) -> tuple[str, str]:
    if not isinstance(content, Mapping) or set(content) != {"name", "goal"} or not isinstance(content["name"], str):
        raise LightningMMError(f"{path}: metric: expected {_EXAMPLES['metric']}, got {shown(content)}")
    if content["goal"] not in GOALS:
        raise LightningMMError(f"{path}: metric: goal: expected {' or '.join(GOALS)}, got {shown(content['goal'])}")
    name: str = content["name"]
    if name.startswith(("test/", "sweep/")):
        raise LightningMMError(
            f"{path}: metric: {name} is a figure of test data, which must not choose settings; take one of the "
            "validation split, such as val/loss"
        )
    if not name.startswith("val/"):
        raise LightningMMError(f"{path}: metric: expected one of the validation split, such as val/loss, got {name!r}")
    return name, str(content["goal"])


def _count(path: Path, method: str, content: Mapping[str, Any], parameters: Sequence[Parameter]) -> int:
    """The number of trials."""
    count = checks.typed(str(path), content, "trials", int, None)
    if method == "random":
        if count is None or count < 1:
            raise LightningMMError(f"{path}: trials: a random search needs a number of 1 or more, got {count}")
        return int(count)
    ranges = [one.name for one in parameters if not one.values]
    if ranges:
        raise LightningMMError(f"{path}: parameters: {ranges[0]}: a grid needs values; list some, or search at random")
    size = math.prod(len(one.values) for one in parameters)
    if count is not None:
        raise LightningMMError(f"{path}: trials: this grid has {size}, all of which are run; leave the key out")
    return size
