"""A study as it was submitted: written to its folder with copies of its configs, and read again by every job.

What is written is a study's YAML, so that ``lightning-mm compare -c`` takes it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.recipes import RECIPES
from lightning_mm.compare.runner import with_copies
from lightning_mm.compare.study import Method, Study, read_study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.settings_files import read_settings

STUDY, CONTENT = "study.yaml", "content.yaml"
"""The study with all options applied, and the content of the file that a user wrote, which the results show."""


def freeze(study: Study, folder: Path) -> Study:
    """Write a study to a folder, and return it with copies of its config files.

    Args:
        study: With the options of the command line applied.
        folder: Inside the study's folder.
    """
    frozen = replace(with_copies(study), out=study.out.absolute(), results=study.results.absolute())
    content = {
        "name": frozen.name,
        "config": [str(path.absolute()) for path in frozen.configs],
        "seeds": list(frozen.seeds),
        "methods": {method.name: _method(frozen, method) for method in frozen.methods},
        "out": str(frozen.out),
        "results": str(frozen.results),
        "settings": dict(frozen.settings),
        "bootstrap": frozen.bootstrap,
        "metric": frozen.metric,
        "majority": frozen.majority,
        "validate": frozen.validate,
        "wandb": None if frozen.wandb is None else dict(frozen.wandb),
    }
    write_atomically(folder / CONTENT, yaml.safe_dump(dict(study.content), sort_keys=False))
    text = "# written by `lightning-mm submit`; what its jobs run\n" + yaml.safe_dump(content, sort_keys=False)
    write_atomically(folder / STUDY, text)
    return frozen


def thaw(folder: Path, out: Path) -> Study:
    """Read what :func:`freeze` wrote.

    Args:
        folder: Where it was written.
        out: The study's folder, which may have been moved since.

    Raises:
        DataNotFoundError: If there is none.
        LightningMMError: If a file is damaged.
    """
    study = read_study(folder / STUDY)
    return replace(study, out=out.absolute(), content=read_settings(folder / CONTENT))


def _method(study: Study, method: Method) -> dict[str, Any]:
    like = next((name for name, one in RECIPES.items() if replace(one, start=method.recipe.start) == method.recipe), "")
    if not like:
        raise LightningMMError(f"{method.name}: its recipe is none of {', '.join(RECIPES)}, which a file can name")
    content: dict[str, Any] = {"like": like}
    if method.recipe.start != RECIPES[like].start:
        content["start"] = method.recipe.start
    settings: Mapping[str, Any] = method.settings
    if not method.recipe.trains:  # those of the whole study or of the recipe: a method without training has no others
        settings = {}
    given = {
        "configs": [str(path.absolute()) for path in method.configs],
        "settings": dict(settings),
        "callbacks": dict(method.callbacks),
        "tune": {key: list(values) for key, values in method.tune.items()},
        "tune_seeds": None if method.tune_seeds is None else list(method.tune_seeds),
        "combinations": [one for one in method.combinations or () if one != study.modalities.full],
    }
    return content | {key: value for key, value in given.items() if value}
