"""``lightning-mm data [NAME] [--check FOLDER]``: the data sets, what they need, whether a copy is whole."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError, UsageError


def run_data(args: list[str]) -> None:
    """List the data sets, print the page of one, or read all samples of a copy of it.

    Raises:
        UsageError: If the name or an option is not known.
        LightningMMError: If ``--check`` has found errors; they are printed first.
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
    found = data_sets()
    if options.name is None:
        _list(found, options.json)
    elif options.check is None:
        _page(find(options.name, found), options.json)
    else:
        _check(find(options.name, found), options)


def data_sets() -> list[Any]:
    """The exported data sets that a user has to fetch, by name: those with a page ``about``."""
    from lightning_mm import data

    # vars() does not load what is loaded when asked for.
    classes = (vars(data).get(name) for name in data.__all__)
    return sorted((one for one in classes if hasattr(one, "about")), key=lambda one: one.about.name)


def find(name: str, known: list[Any]) -> Any:
    """The data set of a name: that of its page or of its class, however written.

    Raises:
        UsageError: If there is none; close ones are named.
    """
    names = {_plain(alias): one for one in known for alias in (one.about.name, one.__name__)}
    if _plain(name) in names:
        return names[_plain(name)]
    close = get_close_matches(_plain(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {names[close[0]].about.name!r}?" if close else "see `lightning-mm data`"
    raise UsageError(f"expected a data set, one of {', '.join(one.about.name for one in known)}; got {name!r}; {hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _list(found: list[Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_facts(one) for one in found], indent=2))
        return
    width = max(len(one.about.name) for one in found)
    for one in found:
        print(f"{one.about.name:{width}}  {one.about.title}")
    print("\n`lightning-mm data NAME` shows where a set comes from and what its folder must hold.")


def _page(data_set: Any, as_json: bool) -> None:
    facts = _facts(data_set)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    about = data_set.about
    rows = {name: facts[name] for name in ("class", "source", "licence", "reference")}
    if facts["modalities"]:
        rows["modalities"] = ", ".join(facts["modalities"])
    if facts["classes"]:
        rows["classes"] = f"{len(facts['classes'])}: {', '.join(facts['classes'])}"
    rows["published"] = ", ".join(f"{split} {count}" for split, count in about.counts.items()) or "counts not known"
    if about.counts and about.recalled:
        rows["published"] += " (recalled, not read in a source)"
    rows["folder"] = f"$LIGHTNING_MM_DATA/{about.name}, or root"
    print(f"{about.name}: {about.title}\n")
    print("\n".join(f"{name:10}  {value}" for name, value in rows.items()))
    print(f"\nexpected files\n{_indented(about.tree)}")
    if about.notes:
        print(f"\nnotes\n{_indented(about.notes)}")
    print(f"\nis a copy whole?  lightning-mm data {about.name} --check FOLDER")


def _facts(data_set: Any) -> dict[str, Any]:
    from lightning_mm.data.about import modalities_of

    about = data_set.about
    return {
        "name": about.name,
        "title": about.title,
        "class": f"lightning_mm.data.{data_set.__name__}",
        "source": about.source,
        "licence": about.licence,
        "reference": about.reference,
        "modalities": modalities_of(data_set),
        "classes": list(getattr(data_set, "class_names", ())),
        "counts": dict(about.counts),
        "recalled": about.recalled,
        "tree": about.tree,
        "notes": about.notes,
    }


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())


def _check(data_set: Any, options: Any) -> None:
    from lightning_mm.data.check import check, describe

    reports = check(data_set, options.check, options.limit, _settings(options.set))
    if options.json:
        print(json.dumps({"name": data_set.about.name, "folder": str(options.check), "splits": reports}, indent=2))
    else:
        print(describe(data_set.about, reports))
    errors = sum(report["n_errors"] for report in reports)
    if errors:
        raise LightningMMError(
            f"{options.check} is not a whole copy of {data_set.about.name}: {errors} errors, the first are above; see "
            f"`lightning-mm data {data_set.about.name}` for the expected files"
        )


def _settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise UsageError(f"--set: expected KEY=VALUE, got {wrong[0]!r}")
    values = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    # Data sets take pairs such as a height and a width, and no lists.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
