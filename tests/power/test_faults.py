"""The planted faults fit the package of today; ``python -m tests.power`` runs the test of each."""

from __future__ import annotations

import ast
from collections import Counter

from tests.power.faults import FAULTS
from tests.support.repository import REPOSITORY


def test_every_name_is_one_fault() -> None:
    assert [name for name, count in Counter(fault.name for fault in FAULTS).items() if count > 1] == []


def test_every_fault_changes_one_place_and_compiles() -> None:
    for fault in FAULTS:
        source = (REPOSITORY / fault.file).read_text(encoding="utf-8")
        assert source.count(fault.old) == 1, f"{fault.name}: its lines occur {source.count(fault.old)} times"
        planted = source.replace(fault.old, fault.new)
        compile(planted, fault.file, "exec")
        assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(source)), f"{fault.name} changes nothing"


def test_every_fault_has_a_quick_test() -> None:
    for fault in FAULTS:
        file, _, name = fault.caught_by.partition("::")
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert name.startswith("test_"), fault.name
        assert len(found) == 1, f"{fault.name}: {fault.caught_by} does not exist"
        marks = {ast.unparse(mark) for mark in found[0].decorator_list}
        assert "pytest.mark.slow" not in marks, f"{fault.name}: {fault.caught_by} is slow"
