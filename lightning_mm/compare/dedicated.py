"""Tries the networks of ``dedicated`` before a study starts: they are built and called for fewer modalities."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lightning_mm.compare.cell_config import Run, config_of
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.step_runner import finished, logged
from lightning_mm.compare.study import Method, Study
from lightning_mm.errors import DataNotFoundError, LightningMMError, NotApplicableError

OURS = "lightning_mm."
"""Networks of this package are built for the modalities that their config lists."""
HOW = (
    "a dedicated network is built and called for the modalities of its combination and no others: give the network "
    "an argument with an entry for each modality (a mapping such as channels: {{{example}: 3, ...}}, or the list of "
    "all modalities), which the study cuts to the combination, and read no other inputs in forward; or leave "
    "{method!r} out of the study"
)


def check_dedicated(study: Study, run: Run) -> None:
    """Train dedicated networks of the user on one batch each: for every modality the smallest one that lacks it.

    Args:
        study: Trainings that are finished are not tried again.
        run: Runs a command of the command line.

    Raises:
        DataNotFoundError: If the data are not found.
        LightningMMError: If such a network fails; the message says how it must be built.
    """
    plan, seed = Plan(study), study.seeds[0]
    for method in study.methods:
        if method.recipe.each != "dedicated":
            continue
        for combination in smallest_without_each(study, method):
            step = plan.fit(method, combination, seed, None if method.tuned is None else method.tuned[1][0])
            if finished(step) is not None:
                continue
            config = config_of(step.stack, step.overrides, step.patch, run)
            network = (config["model"].get("init_args") or {}).get("model")
            if not isinstance(network, dict) or str(network.get("class_path")).startswith(OURS):
                continue
            try:
                _try(config, run)
            except NotApplicableError:
                continue
            except DataNotFoundError:
                raise
            except Exception as error:
                ours, how = isinstance(error, LightningMMError), ""
                if not ours or isinstance(error.__cause__, KeyError):
                    how = "; " + HOW.format(example=combination.split("+")[0], method=method.name)
                what = str(error) if ours else f"{type(error).__name__}: {error}"
                raise LightningMMError(f"{method.name} of {combination}: {what}{how}") from error


def smallest_without_each(study: Study, method: Method) -> list[str]:
    """For every modality the smallest combination of a method that lacks it."""

    def found() -> Iterator[str]:
        combinations = sorted((str(one) for one in study.combinations_of(method)), key=lambda one: one.count("+"))
        for modality in study.modalities:
            lacking = (one for one in combinations if modality not in study.modalities.parse(one))
            yield from list(lacking)[:1]

    return list(dict.fromkeys(found()))


def _try(config: dict[str, object], run: Run) -> None:
    """Train with a config on one batch, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="lightning_mm-dedicated-") as folder:
        path = Path(folder) / "dedicated.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        settings: Sequence[str] = ("--trainer.fast_dev_run=1", f"--trainer.default_root_dir={folder}")
        with logged(Path(folder) / "fit.log"):
            run(["fit", "-c", str(path), *settings])
