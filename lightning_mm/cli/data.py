"""``lightning-mm data [NAME] [--check FOLDER]``: lists data sets, shows the page of one, checks a copy of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_mm.cli.errors import Parser
from lightning_mm.data.about import About
from lightning_mm.data.pages import PAGES
from lightning_mm.errors import LightningMMError, UsageError


def run_data(args: list[str]) -> None:
    """List the data sets, print the page of one, or read all samples of a copy of it.

    Raises:
        UsageError: If the name or an option is unknown.
        LightningMMError: If ``--check`` found errors; they are printed first.
    """
    parser = Parser(
        "lightning-mm data",
        description="List the data sets; with NAME show source, licence and expected files of one; with --check read a "
        "copy of it sample by sample and say what is there, what is missing and what is broken (exit code 1).",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a data set, such as mfnet")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="the folder of the data set, to be read")
    parser.add_argument("--limit", type=int, metavar="N", help="read N samples of each split, evenly spread")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the data set, such as val_fraction=0.2; with allow_missing=true missing files of a modality "
        "are counted and no errors",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)
    if options.check is None and (options.limit is not None or options.set):
        raise UsageError("--limit and --set belong to --check FOLDER")
    if options.check is not None and options.name is None:
        raise UsageError("--check: say which data set the folder holds: lightning-mm data NAME --check FOLDER")
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit: expected 1 or more, got {options.limit}")
    if options.name is None:
        _list(PAGES, options.json)
    elif options.check is None:
        _page(find(options.name, PAGES), options.json)
    else:
        _check(find(options.name, PAGES), options)


def find(name: str, pages: Sequence[About]) -> About:
    """The page of a data set by its name or that of its class, however written.

    Raises:
        UsageError: If no data set has it; close names are listed.
    """
    names = {_plain(alias): page for page in pages for alias in (page.name, page.data_set)}
    if _plain(name) in names:
        return names[_plain(name)]
    close = get_close_matches(_plain(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {names[close[0]].name!r}?" if close else "see `lightning-mm data`"
    raise UsageError(f"expected a data set, one of {', '.join(page.name for page in pages)}; got {name!r}; {hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _list(pages: Sequence[About], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_facts(page) for page in pages], indent=2))
        return
    width = max(len(page.name) for page in pages)
    for page in pages:
        print(f"{page.name:{width}}  {page.title}")
    print("\n`lightning-mm data NAME` shows where a set comes from and what its folder must hold.")


def _page(page: About, as_json: bool) -> None:
    facts = _facts(page)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    rows = {name: facts[name] for name in ("class", "source", "licence", "reference")}
    if page.modalities:
        rows["modalities"] = ", ".join(page.modalities)
    if page.class_names:
        rows["classes"] = f"{len(page.class_names)}: {', '.join(page.class_names)}"
    rows["published"] = ", ".join(f"{split} {count}" for split, count in page.counts.items()) or "counts not known"
    if page.counts and page.recalled:
        rows["published"] += " (recalled, not read in a source)"
    rows["folder"] = f"$LIGHTNING_MM_DATA/{page.name}, or root"
    print(f"{page.name}: {page.title}\n")
    print("\n".join(f"{name:10}  {value}" for name, value in rows.items()))
    print(f"\nexpected files\n{_indented(page.tree)}")
    if page.notes:
        print(f"\nnotes\n{_indented(page.notes)}")
    print(f"\nis a copy whole?  lightning-mm data {page.name} --check FOLDER")


def _facts(page: About) -> dict[str, Any]:
    return {
        "name": page.name,
        "title": page.title,
        "class": f"lightning_mm.data.{page.data_set}",
        "source": page.source,
        "licence": page.licence,
        "reference": page.reference,
        "modalities": list(page.modalities),
        "classes": list(page.class_names),
        "counts": dict(page.counts),
        "recalled": page.recalled,
        "tree": page.tree,
        "notes": page.notes,
    }


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())


def _check(page: About, options: Any) -> None:
    # Imported when asked for: reading samples needs torch, which takes seconds.
    from lightning_mm import data
    from lightning_mm.data.check import check, describe

    reports = check(getattr(data, page.data_set), options.check, options.limit, _settings(options.set))
    if options.json:
        print(json.dumps({"name": page.name, "folder": str(options.check), "splits": reports}, indent=2))
    else:
        print(describe(page, reports))
    errors = sum(report["n_errors"] for report in reports)
    if errors:
        raise LightningMMError(
            f"{options.check} is not a whole copy of {page.name}: {errors} errors, the first are above; see "
            f"`lightning-mm data {page.name}` for the expected files"
        )


def _settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise UsageError(f"--set: expected KEY=VALUE, got {wrong[0]!r}")
    values = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    # Data sets take pairs such as a height and a width, and no lists.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
