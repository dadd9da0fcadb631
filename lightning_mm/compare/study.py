"""A study: one data set, several methods, several seeds; read from a YAML file.

Example:
    .. code-block:: yaml

        config: [base.yaml]               # beside this file: trains the base on complete data
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

import yaml

from lightning_mm.compare.recipes import BASE, RECIPES, Recipe
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.modalities import Modalities


@dataclass(frozen=True)
class Method:
    """One method of a study.

    Args:
        name: Its name in the table.
        recipe: What it does.
        configs: Files stacked on those of the study.
        settings: Dotted key to value, stronger than all files.
        callbacks: Class name of a callback to arguments of it that are changed.
        tune: At most one dotted key and the values to choose from on validation data.
        tune_seeds: Seeds that choose; all of the study by default.
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
    def tuned(self) -> tuple[str, Sequence[Any]] | None:
        """The key and its values, if there is anything to choose."""
        return next(((key, values) for key, values in self.tune.items()), None)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        name: Of the file, by default that of its folder.
        configs: Stacked, they train the base.
        modalities: Of the data.
        seeds: Every method is trained with each.
        methods: The base first.
        out: Folder of the runs.
        results: Folder of the tables.
        settings: Dotted key to value for every run.
        bootstrap: Replicates for intervals over samples, 0 for none (several seeds show their spread instead).
        metric: What the printed table shows; the task's primary metric by default.
        majority: Whether the table shows the share of the most frequent label too, as a method of that name.
        wandb: Arguments of the W&B logger that is given the finished table; nothing is logged without them.
        content: The file, for the results.
    """

    name: str
    configs: tuple[Path, ...]
    modalities: Modalities
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    out: Path
    results: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    bootstrap: int = 0
    metric: str | None = None
    majority: bool = False
    wandb: Mapping[str, Any] | None = None
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


KEYS = ("name", "config", "seeds", "methods", "out", "results", "settings", "bootstrap", "metric", "majority", "wandb")
METHOD_KEYS = ("like", "start", "configs", "settings", "callbacks", "tune", "tune_seeds", "combinations")


def read_study(path: str | Path) -> Study:
    """Read a study; files that it names lie beside it.

    Raises:
        DataNotFoundError: If a file is not there.
        LightningMMError: If it is no YAML or a key, method or value is wrong; the message names it.
    """
    path = Path(path)
    content = _read(path)
    _check_keys(f"{path}", content, KEYS)
    if not content.get("methods") or not isinstance(content["methods"], Mapping):
        raise LightningMMError(f"{path}: methods: expected names such as {list(RECIPES)[1:4]}, got none")
    name = str(content.get("name") or path.resolve().parent.name)
    configs = _files(path, "config", content.get("config") or ["base.yaml"])
    settings = _settings(path, "settings", content.get("settings"))
    seeds = content.get("seeds", [0])
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds):
        raise LightningMMError(f"{path}: seeds: expected a list of distinct whole numbers such as [0, 1], got {seeds}")
    methods = {key: _method(path, key, value or {}) for key, value in content["methods"].items()}
    methods = {BASE: Method(BASE, RECIPES[BASE]), **methods}
    for method in list(methods.values()):
        start = method.recipe.start
        if start is not None and start not in methods:
            if start not in RECIPES:
                raise LightningMMError(f"{path}: {method.name}: start: there is no method {start!r} in this study")
            methods[start] = Method(start, RECIPES[start])
        if start is not None and methods[start].recipe.each:
            raise LightningMMError(f"{path}: {method.name}: cannot start from {start!r}, which has several networks")
    return Study(
        name=name,
        configs=configs,
        modalities=Modalities(_modalities(path, configs, settings)),
        seeds=tuple(seeds),
        methods=tuple(_starts_first(path, methods)),
        out=Path(content.get("out") or Path("outputs") / name / "study"),
        results=Path(content.get("results") or Path("outputs") / name / "report"),
        settings=settings,
        bootstrap=int(content.get("bootstrap", 0)),
        metric=content.get("metric"),
        majority=bool(content.get("majority", False)),
        wandb=content.get("wandb"),
        content=content,
    )


def _method(path: Path, name: str, content: Any) -> Method:
    where = f"{path}: methods: {name}"
    if not isinstance(content, Mapping):
        raise LightningMMError(f"{where}: expected settings such as {{configs: [ssf.yaml]}}, got {content!r}")
    if not isinstance(name, str) or not name or any(mark in name for mark in "/+ "):
        raise LightningMMError(f"{where}: a method's name must be non-empty and without '/', '+' or blanks")
    _check_keys(where, content, METHOD_KEYS)
    like = content.get("like", name)
    if like not in RECIPES:
        close = get_close_matches(str(like), RECIPES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LightningMMError(
            f"{where}: there is no such method; {hint}expected one of {', '.join(RECIPES)}, or `like:` one of them"
        )
    recipe = RECIPES[like]
    if "start" in content:
        recipe = replace(recipe, start=content["start"])
    configs = _files(path, f"methods: {name}: configs", content.get("configs") or [])
    if recipe.overlay and not configs:
        raise LightningMMError(f"{where}: give configs: a file with its FrozenBackboneAdapter, e.g. [ssf.yaml]")
    tune = _settings(path, f"methods: {name}: tune", content.get("tune"))
    if len(tune) > 1 or not all(isinstance(values, list) and values for values in tune.values()):
        raise LightningMMError(f"{where}: tune: expected one key and a list of values, got {dict(tune)}")
    for key in ("tune_seeds", "combinations"):
        if content.get(key) is not None and (not isinstance(content[key], list) or not content[key]):
            raise LightningMMError(f"{where}: {key}: expected a list, got {content[key]!r}")
    return Method(
        name=name,
        recipe=recipe,
        configs=configs,
        settings={**recipe.settings, **_settings(path, f"methods: {name}: settings", content.get("settings"))},
        callbacks=_settings(path, f"methods: {name}: callbacks", content.get("callbacks")),
        tune=tune,
        tune_seeds=tuple(content["tune_seeds"]) if content.get("tune_seeds") else None,
        combinations=tuple(content["combinations"]) if content.get("combinations") else None,
    )


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


def _modalities(path: Path, configs: Sequence[Path], settings: Mapping[str, Any]) -> list[str]:
    found: Any = settings.get("data.modalities")
    for config in reversed(configs):
        found = found or ((_read(config).get("data") or {}).get("modalities"))
    if not isinstance(found, list):
        raise LightningMMError(f"{path}: none of its configs lists data.modalities")
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataNotFoundError(f"no file at {path}; give the YAML file of a study or of one of its configs")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LightningMMError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise LightningMMError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content


def _files(path: Path, key: str, names: Any) -> tuple[Path, ...]:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise LightningMMError(f"{path}: {key}: expected a list of files, got {names!r}")
    files = tuple(path.parent / name for name in listed)
    for file in files:
        if not file.is_file():
            raise DataNotFoundError(f"{path}: {key}: no file at {file}")
        _read(file)
    return files


def _settings(path: Path, key: str, settings: Any) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise LightningMMError(f"{path}: {key}: expected dotted keys and values, got {settings!r}")
    return dict(settings)


def _check_keys(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in content:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(known)}"
            raise LightningMMError(f"{where}: unknown key {key!r}; {hint}")
