"""``lightning-mm merge FOLDER... --out FOLDER``: the sweeps below some folders as one folder of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError

if TYPE_CHECKING:
    from lightning_mm.results.stored import Stored


def run_merge(args: list[str]) -> None:
    """Merge sweeps and write CSV, JSON, samples, Markdown and the heat map."""
    parser = Parser(
        "lightning-mm merge",
        description="Put sweeps together that were run apart: other methods, seeds or combinations of the same data. "
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
        help="folder for the merged sweep.csv, .json, .md, .png and sweep_samples.npz",
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="merge the sweeps of this split")
    settings = parser.parse_args(args)

    from lightning_mm.files import check_folder
    from lightning_mm.results.files import save
    from lightning_mm.results.merge import check_samples, merge
    from lightning_mm.results.stored import stored_sweeps

    check_folder(settings.out)
    sweeps = [(folder, one) for folder in settings.folders for one in stored_sweeps(folder, settings.split)]
    _check_no_repeats([(f"{folder}/{one.folder}".removesuffix("/."), one) for folder, one in sweeps])
    check_samples([one.result for _, one in sweeps])
    result = merge([one.result for _, one in sweeps])
    written = save(result, settings.out)
    seeds = len({row.seed for row in result.rows})
    counts = f"{_counted(len(sweeps), 'sweep')}: methods {', '.join(result.methods)}"
    print(f"{counts}; {_counted(len(result.combinations), 'combination')}; {_counted(seeds, 'seed')}")
    print("written: " + ", ".join(map(str, written.values())))


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
