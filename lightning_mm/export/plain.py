"""Says whether a ``torch.export`` program is plain data, so that opening it runs nothing but operators of torch.

A ``.pt2`` file is an archive of weights, of a graph in JSON, and of pickles. Opening it unpickles them, evaluates the
sizes that the graph writes as text, runs the guards on sizes as Python, and looks up the operators by name: a file
from somebody else could run any code. Here, every one of these parts is compared with what an export of a network
holds; whatever else there is needs the user's trust.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_mm.json_files import parse_json

_MEMBER = re.compile(
    r"models/model\.json|data/(weights|constants)/[\w.]+|data/sample_inputs/model\.pt|archive_format|archive_version|"
    r"byteorder|version|\.data/\w+|serialized_\w+\.(json|pt)"
)
"""Files of an archive, as torch 2.6 and later write them; compiled programs and opaque objects have other names."""
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|torchvision)\.(?!from_file\b)[a-zA-Z0-9_]+(\.[a-zA-Z]\w*)?|"
    r"torch\.(_?sym_[a-z]+)|math\.[a-z]+|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_TEXT = re.compile(r"[\w.,:>+ \-/]*")
"""Names and text arguments: nothing that could end a name in generated code."""
_SIZES = frozenset(
    re.findall(
        r"\w+",
        "Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs Eq Ne Lt Le Gt Ge And Or Not Equality Unequality "
        "StrictLessThan LessThan StrictGreaterThan GreaterThan FloorDiv CeilDiv CleanDiv PythonMod "
        "ModularIndexing Where CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat "
        "FloatPow PowByNatural IntTrueDiv FloatTrueDiv Identity true false oo int_oo positive integer "
        "nonnegative real",
    )
)
"""Functions of sizes that torch writes, and their assumptions."""
_PARTS_OF_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)
_EXPRESSION = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.BoolOp,
    ast.Compare, ast.Subscript, ast.Attribute, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context,
)  # fmt: skip


def found_in(path: Path) -> str | None:
    """Say what makes a program more than plain data; None if it is plain.

    Raises:
        ValueError, zipfile.BadZipFile and others: If it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            return "a file twice"
        modern = any(name.endswith("/archive_format") for name in names)
        for full in names:
            name = full.partition("/")[2] if modern else full
            if not _MEMBER.fullmatch(name):
                return f"a file {full!r}"
            content = archive.read(full)
            if name.endswith(".json"):
                problem = _in_json(name, parse_json(content))
            elif name.endswith(".pt"):
                problem = _in_pickle(name, content)
            else:
                problem = None  # raw numbers and words
            if problem is not None:
                return problem
    return None


def _in_pickle(name: str, content: bytes) -> str | None:
    if not content:
        return None
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        return f"a pickle {name!r} that asks for {asked[1] if asked else 'more than tensors'}"
    return None


def _in_json(name: str, content: Any) -> str | None:
    if name.startswith("data/"):  # where weights and constants are
        for entry in content["config"].values():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                return f"an object {entry['path_name']!r}"
        return None
    for guard in content.get("guards_code") or []:
        if not _is_expression(guard, {"L"}, {"size", "stride", "storage_offset"}):
            return f"a guard {guard!r}"
    return _in_graph({key: part for key, part in content.items() if key != "guards_code"})


def _in_graph(graph: Any) -> str | None:
    for key, value, holder in _texts(graph, "", {}):
        if key in ("in_spec", "out_spec"):
            odd = [kind for kind in _kinds(json.loads(value)) if kind not in _PARTS_OF_TREES]
            if odd:
                return f"a container {odd[0]!r}"
        elif key == "expr_str":
            if not _is_expression(value, _SIZES, set()):
                return f"a size {value!r}"
        elif key == "as_operator" or (key == "target" and "inputs" in holder):
            if not _OPERATOR.fullmatch(value):
                return f"an operator {value!r}"
        elif not _TEXT.fullmatch(value):
            return f"a name {value!r}"
    return None


def _texts(value: Any, key: str, holder: Any) -> Iterator[tuple[str, str, Any]]:
    """All texts of a graph with their key and the mapping that holds them; without notes on the source code."""
    if isinstance(value, str):
        yield key, value, holder
    elif isinstance(value, dict):
        for inner, item in value.items():
            if inner != "metadata":
                yield "key", inner, value
                yield from _texts(item, inner, value)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key, holder)


def _kinds(tree: Any) -> Iterator[Any]:
    """The types that the description of a container names."""
    if isinstance(tree, dict):
        yield tree.get("type")
        yield from _kinds(tree.get("children_spec") or [])
    elif isinstance(tree, list):
        for item in tree:
            yield from _kinds(item)


def _is_expression(text: str, names: frozenset[str] | set[str], methods: set[str]) -> bool:
    """Whether a text only calculates with known functions, or with ``methods`` of known names."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _EXPRESSION):
            return False
        if isinstance(node, ast.Name) and node.id not in names and not re.fullmatch(r"[a-z]{1,3}\d+", node.id):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in methods:
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, (ast.Name, ast.Attribute)):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"\w+", node.value):
            return False
    return True
