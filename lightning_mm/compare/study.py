"""A study: one data set, several methods, several seeds; read from a YAML file.

Example:
    .. code-block:: yaml

        config: [base.yaml]               # next to this file: trains the base on complete data
        seeds: [0, 1, 2]
        methods:
          zero_fill:
          adapted:
            configs: [ssf.yaml]           # stacked on the base's
            tune: {model.init_args.optimizer.init_args.lr: [0.003, 0.01]}   # chosen on validation data
          adapted_onehot:
            like: adapted
            configs: [ssf.yaml]
            callbacks: {FrozenBackboneAdapter: {basis: {class_path: lightning_mm.adapters.OneHot}}}
          dedicated: {settings: {trainer.max_epochs: 20}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_mm.compare import checks
from lightning_mm.compare.recipes import BASE, RECIPES, Recipe
from lightning_mm.errors import LightningMMError, shown
from lightning_mm.modality_names import ModalityNames


@dataclass(frozen=True)
class Method:
    """One method of a study.

    Args:
        name: Its name in the table.
        recipe: What it does.
        configs: Files stacked on those of the study.
        settings: Dotted key to value, stronger than all files.
        callbacks: Class name of a callback to its changed arguments.
        tune: At most one dotted key and the values to choose from on validation data.
        tune_seeds: Seeds that the choice is made with; all seeds of the study by default.
        combinations: For methods with a network per combination: which; all incomplete ones by default.
    """

    name: str
    recipe: Recipe
    configs: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Mapping[str, Any] = field(default_factory=dict)
    tune: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tune_seeds: tuple[int, ...] | None = None
    combinations: tuple[str, ...] | None = None

    @property
    def swept(self) -> bool:
        """Whether the method is a row of the table; the base is not, which `zero_fill` shows."""
        return self.recipe.swept and self.name != BASE

    @property
    def arguments(self) -> dict[str, Any]:
        """Class name of a callback to its changed arguments, those of the study over those of the recipe."""
        of_recipe = self.recipe.arguments
        return {
            name: {**of_recipe.get(name, {}), **self.callbacks.get(name, {})}
            for name in {**of_recipe, **self.callbacks}
        }

    @property
    def tuned(self) -> tuple[str, Sequence[Any]] | None:
        """The key and its values, if there is a choice."""
        return next(((key, values) for key, values in self.tune.items()), None)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        name: Name of the study, by default that of its folder.
        configs: Stacked, they train the base.
        modalities: Modalities of the data.
        seeds: Every method is trained with each.
        methods: The base first.
        out: Folder of the runs.
        results: Folder of the tables.
        settings: Dotted key to value for every run.
        bootstrap: Replicates for intervals over samples, 0 for none (several seeds show their spread instead).
        metric: What the printed table shows; the task's primary metric by default.
        validate: Whether every method with one network for all combinations is swept on the validation split too, to
            choose one by it.
        corruptions: Modality to corruptions of it, each a class_path with init_args; every method with one network for
            all combinations is then also swept with one damaged modality at a time.
        severities: How severely, 1 to 5; all of them if empty.
        majority: Whether the table shows the share of the most frequent label too, as a method of that name.
        wandb: Arguments of the W&B logger of the finished table; without them nothing is logged.
        policies: Policies of missingness that every method with one network for all combinations is evaluated under,
            name to ``class_path`` and ``init_args``; see ``policies.csv`` in the results.
        content: The content of the file, for the results.
    """

    name: str
    configs: tuple[Path, ...]
    modalities: ModalityNames
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    out: Path
    results: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    bootstrap: int = 0
    metric: str | None = None
    majority: bool = False
    validate: bool = False
    corruptions: Mapping[str, Any] = field(default_factory=dict)
    severities: tuple[int, ...] = ()
    wandb: Mapping[str, Any] | None = None
    policies: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)

    def combinations_of(self, method: Method) -> tuple[str | None, ...]:
        """One entry per network of a method and seed: its combination, or ``None`` for one network for all."""
        if not method.recipe.each:
            return (None,)
        return tuple(
            name
            for name in self.modalities.select(method.combinations or self.modalities.incomplete())
            if name != self.modalities.full
        )


KEYS = (
    "name", "config", "seeds", "methods", "out", "results", "settings", "bootstrap", "metric", "majority", "validate",
    "corruptions", "severities", "policies", "wandb",
)  # fmt: skip
METHOD_KEYS = ("like", "start", "configs", "settings", "callbacks", "tune", "tune_seeds", "combinations")


def read_study(path: str | Path) -> Study:
    """Read a study; paths of its files are relative to it.

    Raises:
        DataNotFoundError: If a file is missing.
        LightningMMError: If it is not YAML or a key, method or value is wrong; the message names it.
    """
    path = Path(path)
    content = checks.read_yaml(path)
    checks.check_keys(f"{path}", content, KEYS)
    if not content.get("methods") or not isinstance(content["methods"], Mapping):
        raise LightningMMError(f"{path}: methods: expected names such as {list(RECIPES)[1:4]}, got none")
    name = checks.check_name(
        f"{path}: name", path.resolve().parent.name if content.get("name") is None else content["name"]
    )
    configs = checks.files(path, "config", ["base.yaml"] if content.get("config") is None else content["config"])
    settings = checks.settings(path, "settings", content.get("settings"))
    modalities = ModalityNames(modalities_of(path, configs))
    seeds = checks.seeds(str(path), "seeds", content.get("seeds", [0]))
    methods = {
        key: _method(path, key, {} if value is None else value, modalities, seeds)
        for key, value in content["methods"].items()
    }
    if BASE in methods and methods[BASE].tune:
        raise LightningMMError(f"{path}: {BASE}: the base cannot be tuned here, all methods start from it")
    methods = {BASE: Method(BASE, RECIPES[BASE]), **methods}
    bootstrap = checks.typed(str(path), content, "bootstrap", int, 0)
    if bootstrap < 0:
        raise LightningMMError(f"{path}: bootstrap: expected 0 or more replicates, got {bootstrap}")
    return Study(
        name=name,
        configs=configs,
        modalities=modalities,
        seeds=seeds,
        methods=tuple(_starts_first(path, _with_starts(path, methods))),
        out=Path(checks.typed(str(path), content, "out", str, "") or Path("outputs") / name / "study"),
        results=Path(checks.typed(str(path), content, "results", str, "") or Path("outputs") / name / "report"),
        settings=settings,
        bootstrap=bootstrap,
        metric=checks.typed(str(path), content, "metric", str, None),
        majority=checks.typed(str(path), content, "majority", bool, False),
        validate=checks.typed(str(path), content, "validate", bool, False),
        corruptions=checks.corruptions(path, content.get("corruptions"), modalities),
        severities=checks.severities(path, content.get("severities")),
        wandb=checks.typed(str(path), content, "wandb", dict, None),
        policies=checks.typed(str(path), content, "policies", dict, {}),
        content=content,
    )


def _method(path: Path, name: Any, content: Any, modalities: ModalityNames, seeds: Sequence[int]) -> Method:
    where = f"{path}: methods: {name}"
    if not isinstance(content, Mapping):
        raise LightningMMError(f"{where}: expected settings such as {{configs: [ssf.yaml]}}, got {shown(content)}")
    checks.check_name(where, name)
    checks.check_keys(where, content, METHOD_KEYS)
    like = checks.typed(where, content, "like", str, name)
    if like not in RECIPES:
        close = get_close_matches(like, RECIPES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LightningMMError(
            f"{where}: there is no such method; {hint}expected one of {', '.join(RECIPES)}, or `like:` one of them"
        )
    recipe = RECIPES[like]
    if "start" in content:
        if recipe.start is None or not isinstance(content["start"], str):
            raise LightningMMError(
                f"{where}: start: expected the name of a method of this study, for a method that starts from another "
                f"one; got {shown(content['start'])} for one like {like!r}"
            )
        recipe = replace(recipe, start=content["start"])
    configs = checks.files(
        path, f"methods: {name}: configs", [] if content.get("configs") is None else content["configs"]
    )
    if recipe.overlay and not configs:
        what = "its FrozenBackboneAdapter, e.g. [ssf.yaml]"
        if like.startswith("single_branch"):
            what = "its SingleBranchTask, e.g. [single_branch.yaml]"
        raise LightningMMError(f"{where}: give configs: a file with {what}")
    tune = checks.tuning(where, path, content.get("tune"))
    tune_seeds = None if content.get("tune_seeds") is None else checks.seeds(where, "tune_seeds", content["tune_seeds"])
    if tune_seeds is not None and not set(tune_seeds) <= set(seeds):
        raise LightningMMError(
            f"{where}: tune_seeds: expected some of the study's seeds {list(seeds)}, got {tune_seeds}"
        )
    if not recipe.trains and (tune or content.get("settings")):
        raise LightningMMError(f"{where}: nothing is trained, so there is nothing to set or to tune")
    return Method(
        name=name,
        recipe=recipe,
        configs=configs,
        settings={**recipe.settings, **checks.settings(path, f"methods: {name}: settings", content.get("settings"))},
        callbacks=checks.mapping(path, f"methods: {name}: callbacks", content.get("callbacks")),
        tune=tune,
        tune_seeds=tune_seeds,
        combinations=_combinations(where, content.get("combinations"), recipe, modalities),
    )


def _combinations(where: str, value: Any, recipe: Recipe, modalities: ModalityNames) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise LightningMMError(f"{where}: combinations: expected a list such as [{modalities[0]}], got {shown(value)}")
    if not recipe.each:
        raise LightningMMError(f"{where}: combinations: this method has one network for all; leave them out")
    chosen = modalities.select(value)
    if modalities.full in chosen:
        raise LightningMMError(f"{where}: combinations: {modalities.full!r} is the base's own; name incomplete ones")
    return chosen


def _with_starts(path: Path, methods: dict[str, Method]) -> dict[str, Method]:
    """The methods and those that they start from, down to the base."""
    open_ones = list(methods.values())
    while open_ones:
        method = open_ones.pop()
        start = method.recipe.start
        if start is None:
            continue
        if start not in methods:
            if start not in RECIPES or RECIPES[start].overlay:
                raise LightningMMError(f"{path}: {method.name}: start: there is no method {start!r} in this study")
            methods[start] = Method(start, RECIPES[start], settings=RECIPES[start].settings)
            open_ones.append(methods[start])
        other = methods[start]
        reasons = {
            "which has several networks": other.recipe.each,
            "which trains nothing": not other.recipe.trains,
            "which is tuned; start from one with fixed settings": other.tune,
            "whose checkpoint is that of an adapter": other.recipe.overlay or not other.recipe.gradient,
        }
        for reason, holds in reasons.items():
            if holds:
                raise LightningMMError(f"{path}: {method.name}: cannot start from {start!r}, {reason}")
    return methods


def _starts_first(path: Path, methods: Mapping[str, Method]) -> list[Method]:
    """The methods as the file orders them, each after the one that it starts from."""
    ordered: dict[str, Method] = {}

    def add(method: Method, above: tuple[str, ...]) -> None:
        if method.name in above:
            raise LightningMMError(f"{path}: methods start from each other: {' -> '.join([*above, method.name])}")
        if method.recipe.start is not None:
            add(methods[method.recipe.start], (*above, method.name))
        ordered.setdefault(method.name, method)

    for method in methods.values():
        add(method, ())
    return list(ordered.values())


def modalities_of(path: Path, configs: Sequence[Path]) -> list[str]:
    """The modalities that the last config with such a list names.

    Args:
        path: The file that names the configs, for messages.
        configs: Config files.
    """
    found: Any = None
    for config in reversed(configs):
        data = checks.read_yaml(config).get("data")
        found = found or (data.get("modalities") if isinstance(data, Mapping) else None)
    if not isinstance(found, list):
        raise LightningMMError(f"{path}: none of its configs lists data.modalities")
    return found
