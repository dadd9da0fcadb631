"""The tables and figures of docs/which_method_when.md, read from the result files.

Marks of docs/which_method_when.in.md, one a line unless said otherwise:

- ``<!-- guide: mean -->``: a method per row, the mean over incomplete combinations per data set; also ``full`` and
  ``costs``; ``paired SET``: the same by the share of paired training data; ``vqa``; ``explained``; ``chosen``;
  ``study FOLDER``: the summary of a study, a method per row.
- ``{{SET METHOD FIGURE}}``, anywhere: a figure such as ``mean``, ``full``, ``worst`` or a combination, in percent.
- ``<!-- holds: SET METHOD FIGURE > METHOD FIGURE [by POINTS] -->``: nothing on the page, an error if it does not hold.
- ``<!-- if: FOLDER -->`` ... ``<!-- end -->``: left out while there are no results of that name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lightning_mm.compare.recipes import RECIPES
from lightning_mm.errors import LightningMMError
from lightning_mm.results import Figure, SweepResult, read, summary_markdown
from lightning_mm.results.texts import NOTHING, best_positions, duration, number, short_count, with_spread

RESULTS = Path(__file__).resolve().parent / "results"
SETS = {
    "RavdessFeatures": ("ravdess_prediction", "ravdess_single_branch", "ravdess"),
    "AVDigits": ("av_digits_prediction", "av_digits"),
    "UtdMhad": ("utd_mhad_prediction", "utd_mhad", "utd_mhad_fills"),
    "EasyVqa": ("easy_vqa",),
}
"""Data set to the folders of its results on complete training data; the first that has a method counts."""
METHODS = (
    "zero_fill", "feature_mean", "regression_fill", "modality_dropout", "adapted", "adapted_on_auxiliary", "late_drop",
    "unimodal", "embedding_prediction", "embedding_prediction_concat", "single_branch", "single_branch_on_auxiliary",
    "dedicated",
)  # fmt: skip
ON_TABLE = (
    "zero_fill", "feature_mean", "regression_fill", "adapted", "base_on_table", "modality_dropout", "late_drop",
    "unimodal", "embedding_prediction", "single_branch", "dedicated",
)  # fmt: skip
SHARES = (100, 30, 10)
FIGURE = re.compile(r"\{\{(\w+) (\w+) ([\w+]+)\}\}")
HOLDS = re.compile(r"^<!-- holds: (\w+) (\w+) ([\w+]+) > (\w+) ([\w+]+)(?: by ([\d.]+))? -->\n", re.MULTILINE)
ONLY = re.compile(r"^<!-- if: (\w+) -->\n(.*?)^<!-- end -->\n", re.MULTILINE | re.DOTALL)
GUIDE = re.compile(r"^<!-- guide: (\w+)(?: (\w+))? -->$", re.MULTILINE)


def filled(text: str) -> str:
    """The page with its tables and figures.

    Raises:
        LightningMMError: If a statement does not hold, or a result that a figure needs is not there.
    """
    text = ONLY.sub(lambda found: found[2] if _result(found[1]) else "", text)
    for found in HOLDS.finditer(text):
        where, more, its, less, theirs, points = found.groups()
        high, low = figure(where, more, its).value, figure(where, less, theirs).value
        if not 100 * (high - low) > float(points or 0):
            raise LightningMMError(
                f"{found[0].strip()}: it is {high:.4f} against {low:.4f}; rewrite what depends on it"
            )
    text = HOLDS.sub("", text)
    text = FIGURE.sub(lambda found: number(_found(found[1], found[2], found[3]).value, True), text)
    return GUIDE.sub(lambda found: _table(found[1], found[2]), text)


def figure(where: str, method: str, name: str) -> Figure:
    """A figure of a method on a data set of :data:`SETS`, or in the results of a study."""
    for folder in SETS.get(where, (where,)):
        result = _result(folder)
        if result is not None and method in result.methods:
            found = result.figures(method)
            return getattr(found, name)() if name in ("mean", "full", "worst", "drop") else found.of(name)
    return Figure(math.nan, math.nan, None, ())


def _found(where: str, method: str, name: str) -> Figure:
    found = figure(where, method, name)
    if not math.isfinite(found.value):
        raise LightningMMError(f"{{{{{where} {method} {name}}}}}: there is no such figure in {RESULTS}")
    return found


@cache
def _result(folder: str) -> SweepResult | None:
    path = RESULTS / folder / "sweep.csv"
    return read(path) if path.is_file() else None


@cache
def _json(folder: str, name: str) -> dict[str, Any]:
    path = RESULTS / folder / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _table(name: str, where: str | None) -> str:
    if name in ("mean", "full"):
        return _grid(METHODS, {label: label for label in SETS}, name)
    if name == "paired":
        return paired(str(where))
    if name == "study":
        result = _result(str(where))
        return "*Not run completely yet.*" if result is None else summary_markdown(result).split("\n", 2)[2]
    return {"costs": costs, "vqa": vqa, "explained": explained, "chosen": chosen}[name]()


def _grid(methods: Sequence[str], columns: dict[str, str], name: str) -> str:
    """Methods down, places across; the best of each column in bold, methods without any figure left out."""
    cells = {place: [figure(place, method, name) for method in methods] for place in columns.values()}
    cells = {place: own for place, own in cells.items() if any(math.isfinite(one.value) for one in own)}
    best = {place: best_positions([one.value for one in own], "max") for place, own in cells.items()}
    heads = [label for label, place in columns.items() if place in cells]
    rows = [["method", *heads], ["---", *["--:"] * len(heads)]]
    for position, method in enumerate(methods):
        texts = [with_spread(own[position], True) for own in cells.values()]
        texts = [f"**{one}**" if position in at else one for one, at in zip(texts, best.values())]
        if set(texts) - {NOTHING}:
            rows.append([f"`{method}`", *texts])
    return _lines(rows)


def paired(where: str) -> str:
    """Two tables: mean over incomplete combinations, and with everything present, by the share of paired clips."""
    places = {f"{share} %": where if share == SHARES[0] else _paired(where, share) for share in SHARES}
    titles = {"mean": "Mean over incomplete combinations:", "full": "Everything present:"}
    return "\n\n".join(f"{title}\n\n{_grid(ON_TABLE, places, figure)}" for figure, title in titles.items())


def _paired(where: str, share: int) -> str:
    return f"{SETS[where][0].removesuffix('_prediction')}_paired_{share}"


def costs() -> str:
    """What a method trains, and the CPU seconds of that, with those of the network that it starts from."""
    sets = [where for where, folders in SETS.items() if any(map(_result, folders))]
    rows = [["method", *sets], ["---", *["--:"] * len(sets)], ["the base", *map(_base_cost, sets)]]
    for method in ("base_auxiliary", "modality_dropout", *METHODS[4:]):
        texts = [_cost(label, method) for label in sets]
        if set(texts) - {NOTHING}:
            rows.append([f"`{method}`", *texts])
    return _lines(rows)


def _base_cost(where: str) -> str:
    for folder in SETS[where]:
        result, seconds = _result(folder), _json(folder, "study.json").get("base_seconds")
        if result is not None and seconds is not None:
            count = next((own["base"] for own in result.parameters.values() if "base" in own), None)
            return duration(seconds) if count is None else f"{duration(seconds)}, {short_count(count)}"
    return NOTHING


def _cost(where: str, method: str) -> str:
    for folder in SETS[where]:
        result = _result(folder)
        if result is None or method not in result.methods:
            continue
        count, recipe = result.parameters.get(method, {}).get("trained", 0), RECIPES[_like(folder, method)]
        if not recipe.trains:
            return f"0 s after `{recipe.start}`"
        text = f"{duration(result.seconds.get(method, math.nan))}, {short_count(count)}"
        start = _start(folder, method)
        return text if start in (None, "base") else f"{text} after `{start}`"
    return NOTHING


def _like(folder: str, method: str) -> str:
    return str(_asked(folder, method).get("like", method))


def _start(folder: str, method: str) -> str | None:
    return _asked(folder, method).get("start", RECIPES[_like(folder, method)].start)


def _asked(folder: str, method: str) -> dict[str, Any]:
    """What the study says of a method."""
    result = _result(folder)
    config: dict[str, Any] = {} if result is None else result.config
    return config.get("study", {}).get("methods", {}).get(method) or {}


def vqa() -> str:
    """How much of what an image adds to a question is left, and what is left without one of them."""
    result = _result("easy_vqa")
    if result is None:
        return "*Not run completely yet.*"
    question, both = (_found("easy_vqa", *one).value for one in (("dedicated", "question"), ("zero_fill", "full")))
    rows = [["method", "question alone", "image alone", "both", "left of both - question"], ["---", *["--:"] * 4]]
    for method in (one for one in result.methods if one != "majority"):
        own = [figure("easy_vqa", method, name) for name in ("question", "image", "full")]
        share = (own[2].value - question) / (both - question)
        rows.append([f"`{method}`", *[with_spread(one, True) for one in own], number(share, True, " %")])
    note = (
        "left of both - question: (both of the method - question alone of `dedicated`) / (both of the base - the same)"
    )
    return f"{_lines(rows)}\n\n{note}."


def explained() -> str:
    """Explained variance of predicted embeddings on validation data, by data set and share of paired clips."""
    rows = [["data", "heads", "explained variance", "spread", "by pair"], ["---", "---", "--:", "--:", "---"]]
    for where, folders in SETS.items():
        for share in SHARES:
            folder = folders[0] if share == SHARES[0] else _paired(where, share)
            for method, own in _json(folder, "logged.json").items():
                if not method.startswith("embedding_prediction") or method not in METHODS:
                    continue
                pairs = {
                    key.rpartition("/")[2]: _mean(own[key]) for key in own if key.startswith("val/explained_variance/")
                }
                listed = ", ".join(f"{key.replace('_to_', ' → ')} {value:.2f}" for key, value in pairs.items())
                figures = [f"{_mean(own[f'val/{name}']):.2f}" for name in ("explained_variance", "predicted_std")]
                combined = method.removeprefix("embedding_prediction").strip("_") or "mean"
                rows.append([f"{where}, {share} % paired", combined, *figures, listed])
    return _lines(rows) if len(rows) > 2 else "*Not measured yet.*"


def chosen() -> str:
    """The method that validation data choose on each data set, and what it has on test data."""
    sentences = []
    for where, folders in SETS.items():
        means: dict[str, float] = {}
        for folder in folders:
            means = {**_json(folder, "study.json").get("validation_means", {}), **means}
        # the means of some seeds alone say nothing next to those of all
        some = {method for folder in folders for method in METHODS if "tune_seeds" in _asked(folder, method)}
        means = {method: value for method, value in means.items() if method in METHODS and method not in some}
        if means:
            best = max(means, key=lambda method: means[method])
            sentences.append(
                f"- {where}: `{best}` ({100 * means[best]:.1f} on validation data, "
                f"{with_spread(figure(where, best, 'mean'), True)} on test data)"
            )
    return "\n".join(sentences)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
