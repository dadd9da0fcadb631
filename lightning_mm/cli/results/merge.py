"""``lightning-mm merge FOLDER... --out FOLDER``: the sweeps below some folders as one folder of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError

if TYPE_CHECKING:
    from lightning_mm.results.pictures import Picture
    from lightning_mm.results.result import SweepResult
    from lightning_mm.results.stored import Stored

ADAPTER = "adapter"
"""Folder of the adapter in that of a sweep."""


def run_merge(args: list[str]) -> None:
    """Merge sweeps and write CSV, JSON, samples, Markdown and the heat map."""
    parser = Parser(
        "lightning-mm merge",
        description="Put sweeps together that were run apart: other methods, seeds or combinations of the same data, "
        "or the shards of one sweep, whose W&B run is written now if its config has such a logger. "
        "They are read from any folder: of one sweep, of a study (every cell, also of one that is not finished), or of "
        "several. Results of other data sets, splits, samples or labels are refused, and so are two values of one "
        "figure, and a sweep that adds nothing to the others.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="where the sweeps are, however deep")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the merged sweep.csv, .json, .md, .png, sweep_samples.npz and pictures/",
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="merge the sweeps of this split")
    settings = parser.parse_args(args)

    from lightning_mm.files import check_folder
    from lightning_mm.results.files import save
    from lightning_mm.results.merge import check_samples, merge
    from lightning_mm.results.pictures import FOLDER
    from lightning_mm.results.stored import stored_sweeps

    check_folder(settings.out)
    sweeps = [(folder, one) for folder in settings.folders for one in stored_sweeps(folder, settings.split)]
    _check_no_repeats([(f"{folder}/{one.folder}".removesuffix("/."), one) for folder, one in sweeps])
    check_samples([one.result for _, one in sweeps])
    result = merge([one.result for _, one in sweeps])
    written = save(result, settings.out)
    drawn = _draw(result, [(folder / one.folder, one) for folder, one in sweeps], settings.out)
    seeds = len({row.seed for row in result.rows})
    counts = f"{_counted(len(sweeps), 'sweep')}: methods {', '.join(result.methods)}"
    print(f"{counts}; {_counted(len(result.combinations), 'combination')}; {_counted(seeds, 'seed')}")
    print("written: " + ", ".join(map(str, [*written.values(), *([settings.out / FOLDER] if drawn else [])])))
    logger = _logger_in(result.config) if all(one.result.shard is not None for _, one in sweeps) else None
    if logger is not None:  # last: what happens to W&B loses nothing
        from lightning_mm.cli.results.merged_record import log_shards

        adapter = next((path for folder, one in sweeps if (path := folder / one.folder / ADAPTER).is_dir()), None)
        log_shards(result, logger, drawn, written["png"], adapter)


def _logger_in(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of our logger for Weights & Biases in the configuration of a sweep, if it has one."""
    given = (config.get("trainer") or {}).get("logger")
    for one in [given] if isinstance(given, Mapping) else given if isinstance(given, list) else []:
        if isinstance(one, Mapping) and str(one.get("class_path")).endswith(".OfflineFirstWandbLogger"):
            return one.get("init_args") or {}
    return None


def _draw(result: SweepResult, sweeps: Sequence[tuple[Path, Stored]], out: Path) -> list[Picture]:
    """Draw the predictions as a sweep does; samples are those of the first seed."""
    from lightning_mm.results.pictures import merge_examples, read_examples, write_examples, write_pictures

    if result.config.get("pictures") is False:
        return []
    seed = min(row.seed for row in result.rows)
    own = [folder for folder, one in sweeps if any(row.seed == seed for row in one.result.rows)]
    examples = merge_examples([one for one in map(read_examples, own) if one is not None])
    order = {(row.method, row.combination): place for place, row in enumerate(result.rows)}
    shown = sorted(examples.predictions, key=lambda key: order.get(key, len(order)))
    examples = replace(examples, predictions={key: examples.predictions[key] for key in shown})
    if examples.predictions or examples.class_names:
        write_examples(examples, out)
    return write_pictures(result, out, examples)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _check_no_repeats(sweeps: Sequence[tuple[str, Stored]]) -> None:
    """Raise a LightningMMError if all figures of a sweep are in another one too: it was given twice."""
    figures = [
        {(row.method, "+".join(sorted(row.combination.split("+"))), row.metric, row.seed) for row in one.result.rows}
        for _, one in sweeps
    ]
    for place, own in enumerate(figures):
        for other, theirs in enumerate(figures):
            if place != other and own <= theirs and (own < theirs or place > other):
                raise LightningMMError(
                    f"{sweeps[place][0]} and {sweeps[other][0]} are two sweeps of the same methods, combinations and "
                    "seeds: every figure of the first is in the second one too; leave one of them out, or give it "
                    "another --method or --seed"
                )
