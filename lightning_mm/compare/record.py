"""The runs of a study in Weights & Biases: one per method and seed, those of the base, and one of the whole study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.plan import CHECKPOINT, CONFIG, Plan, Step
from lightning_mm.compare.recipes import BASE
from lightning_mm.compare.step_runner import Facts
from lightning_mm.compare.study import Method, Study
from lightning_mm.files import sha256
from lightning_mm.json_files import read_json
from lightning_mm.results.pictures import Picture
from lightning_mm.results.result import SweepResult
from lightning_mm.tracking.record import AdapterFiles, BaseFiles, PlannedRun, SweepRecord, write_runs
from lightning_mm.tracking.record.runs import JobType
from lightning_mm.tracking.sweep import adapter_files

NONE = "none"
"""Kind, basis and placement of a method without an adapter."""
ADAPTER_CONFIG = "adapter_config.json"


def record_study(
    study: Study,
    facts: Mapping[Path, Facts],
    choices: Mapping[str, Any],
    result: SweepResult,
    pictures: Sequence[Picture] = (),
) -> dict[str, str]:
    """Record a finished study, whose tables are on the disk; runs that are recorded already are not written again.

    Args:
        study: The study; its ``wandb`` says where.
        facts: Marker to facts of all steps.
        choices: Tuned method to the chosen value.
        result: The merged result.
        pictures: Files of the predictions.

    Returns:
        Key of the run, such as ``adapted/seed0``, to its id.

    Raises:
        LightningMMError: If W&B fails; the message says how to complete the record.
    """
    settings = {"project": "lightning-mm", "save_dir": str(study.out), **(study.wandb or {})}
    heat_map = study.results / "sweep.png"
    planned = list(_planned(study, facts, choices, result, bool(settings.get("log_model"))))
    whole = SweepRecord(result, pictures=pictures, heat_map=heat_map if heat_map.is_file() else None)
    name = settings.get("name") or f"compare-{study.name}"
    config = {"study": study.name, "seeds": list(study.seeds), "sweep": result.config}
    planned.append(PlannedRun("study", "report", whole, config, ["study"], name=name))
    return write_runs(planned, study.results, study.name, {**settings, "name": name})


def _planned(
    study: Study, facts: Mapping[Path, Facts], choices: Mapping[str, Any], result: SweepResult, upload: bool
) -> Iterator[PlannedRun]:
    plan = Plan(study)
    values = {method.name: (choices.get(method.name) or {}).get("value") for method in study.methods}
    cells = [
        (method, seed, plan.sweeps(method, seed, values[method.name], "test"))
        for method in study.methods
        for seed in study.seeds
        if method.swept and method.name in result.methods
    ]
    bases = _bases(study, [steps for *_, steps in cells], facts, upload)
    for seed in study.seeds:  # the bases first: what is made of them comes after
        step = plan.fit(study.method(BASE), None, seed, None)
        if step.folder in bases:
            yield _base_run(study, step, bases[step.folder], facts)
    for method, seed, steps in cells:
        yield _run(study, method, seed, values[method.name], steps, facts, result, bases)


def _bases(
    study: Study, cells: Sequence[Sequence[Step]], facts: Mapping[Path, Facts], upload: bool
) -> dict[Path, BaseFiles]:
    """Folder to the network that methods start from; its fingerprint is that of an adapter, or else of the file."""
    starts: dict[Path, Step] = {}
    fingerprints: dict[Path, str] = {}
    for steps in cells:
        start = _start(steps)
        if start is not None:
            starts[start.folder] = start
            for folder in _adapters(steps):
                config = read_json(folder / ADAPTER_CONFIG, "run the sweep again")
                fingerprints[start.folder] = str(config["base_fingerprint"])
    found = {}
    for folder, start in starts.items():
        checkpoint = start.folder / CHECKPOINT
        there = checkpoint if checkpoint.is_file() else None
        fingerprint = fingerprints.get(folder) or (sha256(there) if there else start.key)
        told = {"study": study.name, "method": start.method, "seed": start.overrides["seed_everything"]}
        told["parameters"] = facts.get(start.marker, {}).get("trained")
        found[folder] = BaseFiles(fingerprint, told, there, upload)
    return found


def _start(steps: Sequence[Step]) -> Step | None:
    """The training that the networks of a method start from."""
    return next((need for need in steps[0].needs[0].needs if need.stage == "fit"), None)


def _adapters(steps: Sequence[Step]) -> list[Path]:
    """The folders of the adapters that sweeps have saved."""
    folders = [step.folder / "sweep" / "adapter" for step in steps]
    return [folder for folder in folders if (folder / ADAPTER_CONFIG).is_file()]


def _base_run(study: Study, step: Step, base: BaseFiles, facts: Mapping[Path, Facts]) -> PlannedRun:
    found, seed = facts.get(step.marker, {}), step.overrides["seed_everything"]
    summary = {"summary/parameters": found.get("trained"), "summary/seconds": _seconds(found)}
    config = {"study": study.name, "method": BASE, "seed": seed, **_adapter_settings({}), "cell": _cell(step)}
    return PlannedRun(
        f"{BASE}/seed{seed}", "fit", None, config, [BASE, f"seed{seed}"],
        {key: value for key, value in summary.items() if value is not None}, base=base,
    )  # fmt: skip


def _run(
    study: Study,
    method: Method,
    seed: int,
    value: Any,
    steps: Sequence[Step],
    facts: Mapping[Path, Facts],
    result: SweepResult,
    bases: Mapping[Path, BaseFiles],
) -> PlannedRun:
    """The run of a method and seed."""
    fits = [step.needs[0] for step in steps]
    cell = _cell(fits[0])
    settings = _adapter_settings(cell)
    config = {"study": study.name, "method": method.name, "seed": seed, "recipe": method.recipe.what, **settings}
    config |= {"chosen": {method.tuned[0]: value} if method.tuned else {}, "cell": cell}
    start = _start(steps)
    base = None if start is None else bases[start.folder]
    folders, adapters = _adapters(steps), list[AdapterFiles]()
    for number, folder in enumerate(folders):
        name = f"adapter-{study.name}-{method.name}-seed{seed}" + (f"-{number}" if len(folders) > 1 else "")
        adapters.append(adapter_files(folder, name, base, study=study.name, method=method.name, seed=seed))
    own = [facts.get(fit.marker, {}) for fit in fits]
    seconds = [_seconds(one) for one in own]
    summary = {"summary/seconds": sum(known)} if (known := [one for one in seconds if one is not None]) else {}
    job_type: JobType = "adapt" if method.recipe.trains else "sweep"
    record = SweepRecord(result, [method.name], seed, charts=False)
    tags = [method.name, f"seed{seed}", *([settings["kind"]] if settings["kind"] != NONE else [])]
    return PlannedRun(
        f"{method.name}/seed{seed}", job_type, record, config, tags, summary, adapters=adapters, base=base
    )


def _cell(step: Step) -> dict[str, Any]:
    """The config of a training, whose references to the environment are not resolved."""
    path = step.folder / CONFIG
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return dict(content) if isinstance(content, Mapping) else {}


def _adapter_settings(cell: Mapping[str, Any]) -> dict[str, str]:
    """Kind, basis and placement of the adapter in a config, as short words."""
    callbacks = (cell.get("trainer") or {}).get("callbacks") or []
    callbacks = [callbacks] if isinstance(callbacks, Mapping) else callbacks  # a single one without a list
    found = [one for one in callbacks if str(one.get("class_path", "")).endswith("FrozenBackboneAdapter")]
    if not found:
        return {"kind": NONE, "basis": NONE, "placement": NONE}
    given = found[0].get("init_args") or {}
    placement, targets = given.get("placement"), given.get("targets")
    where = str(placement.get("budget", "chosen")) if isinstance(placement, Mapping) else "all"
    if where == "all" and targets:
        where = ", ".join(map(str, targets))[:60]
    return {
        "kind": _class_name(given.get("adapter"), "SSF"),
        "basis": _class_name(given.get("basis"), "OneHot"),
        "placement": where,
    }


def _class_name(setting: Any, default: str) -> str:
    path = setting.get("class_path") if isinstance(setting, Mapping) else setting
    return str(path).rpartition(".")[2] if path else default


def _seconds(facts: Facts) -> float | None:
    found = facts.get("cpu_seconds", facts.get("seconds"))
    return None if found is None else float(found)
