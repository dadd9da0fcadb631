"""Changes files as accidents, editors and strangers do, and counts what a reader makes of them."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from lightning_mm.errors import LightningMMError

ABSURD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 2**63, 10**400, 0.5, -1.5, 1e308, float("nan"), float("inf"), "", " ", "x", "0",
    "\ud800", "a\0b", "é+ü", "../../etc/passwd", "/etc/passwd", "os.system", "no_such.Thing", "a" * 5000, [], {}, [[]],
    {"": None}, [1, 2, 3], ["x", "x"], {"class_path": "os.system", "init_args": {"command": "true"}}, "${nope}", "${",
    "${oc.env:NO_SUCH}", "${oc.env:HOME}", "${.}", "2024-13-45", "1e999",
]  # fmt: skip
"""Values that a field does not expect."""
BYTES = ("flip", "cut", "empty", "junk", "zeros", "not_utf8")
FILES = ("remove", "rename", "swap", "folder")
TREE = ("replace", "replace", "replace", "drop", "add", "twice", "rename_key", "deep")
DEEP: Any = "x"
for _ in range(300):
    DEEP = [DEEP]


@dataclass(frozen=True)
class Change:
    """One change of one file of a folder; places are shares of what there is."""

    kind: str
    file: float
    place: float
    value: Any

    def apply(self, folder: Path) -> None:
        """Change the folder."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = files[int(self.file * len(files))]
        if self.kind in FILES:
            self._files(path, files)
        elif self.kind in TREE and path.suffix in (".json", ".yaml"):
            path.write_bytes(self.changed_tree(path.read_bytes(), path.suffix == ".json"))
        else:
            path.write_bytes(self.changed_bytes(path.read_bytes()))

    def _files(self, path: Path, files: list[Path]) -> None:
        if self.kind == "rename":
            path.rename(path.with_name(path.name + "x"))
        elif self.kind == "swap":
            other = files[int(self.place * len(files))]
            one, two = path.read_bytes(), other.read_bytes()
            path.write_bytes(two)
            other.write_bytes(one)
        else:
            path.unlink()
            if self.kind == "folder":
                path.mkdir()

    def changed_bytes(self, content: bytes) -> bytes:
        """Other bytes."""
        kind = self.kind if self.kind in BYTES else "flip"
        at = int(self.place * len(content))
        if kind == "flip" and content:
            bit = 1 << int(self.file * 97) % 8
            return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        inserted = {"junk": b"\x00junk\n", "zeros": bytes(16), "not_utf8": b"\xff\xfe"}
        if kind in inserted:
            return content[:at] + inserted[kind] + content[at + (16 if kind == "zeros" else 0) :]
        return content[:at] if kind == "cut" else b""

    def changed_tree(self, content: bytes, as_json: bool) -> bytes:
        """Another value or key somewhere in JSON or YAML."""
        try:
            tree = json.loads(content) if as_json else yaml.safe_load(content)
        except (ValueError, RecursionError, yaml.YAMLError):
            return self.changed_bytes(content)
        places = list(_places(tree))
        if not places:
            return content
        holder, key = places[int(self.place * len(places))]
        if self.kind == "drop":
            del holder[key]
        elif self.kind == "replace":
            holder[key] = copy.deepcopy(self.value)
        elif self.kind == "deep":
            holder[key] = DEEP
        elif self.kind == "rename_key" and isinstance(holder, dict):
            holder[str(key) + "s"] = holder.pop(key)
        elif self.kind == "add" and isinstance(holder, dict):
            holder["added"] = copy.deepcopy(self.value)
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        text = json.dumps(tree, indent=1) if as_json else yaml.safe_dump(tree, sort_keys=False)
        if self.kind == "twice" and isinstance(holder, dict):
            text = _twice(text, str(key))
        return text.encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Any:
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _twice(text: str, key: str) -> str:
    """Write the first line with a key twice."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.lstrip(' -"').startswith(key) and not line.rstrip().endswith((":", "{", "[")):
            return "".join([*lines[: number + 1], line.replace("- ", "  ", 1), *lines[number + 1 :]])
    return text


def changes(*kinds: str) -> st.SearchStrategy[Change]:
    """Changes of these kinds, or of all."""
    # Hypothesis draws small and equal numbers more often than others; here every place is as likely.
    file, place = (st.integers(0, 2**32).map(lambda n, salt=salt: Random(f"{salt} {n}").random()) for salt in "fp")
    chosen = st.sampled_from(kinds or (*BYTES, *FILES, *TREE, *TREE))
    return st.builds(Change, chosen, file, place, st.sampled_from(ABSURD))


def examples(count: int) -> Any:
    """Settings of a test: the same examples in every run, no files, and no shrinking, as failures are only counted."""
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@dataclass
class Tally:
    """What became of all examples: right, refused by one message of ours, or a fault."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def of(self, action: Callable[[], bool], what: object) -> None:
        """Count one example; ``action`` says whether its outcome is right."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcome = "right" if action() else "wrong"
            except LightningMMError as error:
                outcome = "refused" if len(str(error)) < 3000 and "\n  File " not in str(error) else "too long"
            except Exception as error:
                outcome = f"traceback {type(error).__name__}: {str(error)[:300]}"
        self.counts[outcome.partition(" ")[0]] += 1
        if outcome not in ("right", "refused"):
            self.faults.append(f"{outcome} after {what!r:.400}")

    def __str__(self) -> str:
        tried = sum(self.counts.values())
        words = ("right", "refused", "wrong", "too", "traceback")
        return f"fuzz {self.name}: tried {tried}, " + ", ".join(f"{word} {self.counts[word]}" for word in words)


def copied(folder: Path, place: Path) -> Path:
    """A fresh copy of a folder."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))
