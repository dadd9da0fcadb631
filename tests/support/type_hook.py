"""Imports the modules of the package with every function checked, see ``type_checker``; not for users.

What is compiled is kept in pytest's cache folder, one file a module, as bytecode is: instrumenting takes longer.
"""

from __future__ import annotations

import ast
import hashlib
import marshal
import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from tests.support.repository import REPOSITORY
from tests.support.type_checker import checked

NO_TYPE_HOOK = "LIGHTNING_MM_NO_TYPE_HOOK"
# Not in the worker processes of a test: they import the package to unpickle their task before they get here.
TYPE_HOOK = os.environ.get(NO_TYPE_HOOK, "0") in ("", "0") and multiprocessing.parent_process() is None
CACHE = REPOSITORY / ".pytest_cache" / "type_hook"
DECORATOR = "@checked"
"""No name that a module could use itself."""


class _Decorate(ast.NodeTransformer):
    """Decorates every function innermost and every class outermost, where ``@dataclass`` has made its ``__init__``.

    A function within a function is made anew by each call of that one, and would be prepared each time: left as it is.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(ast.copy_location(ast.Name(DECORATOR, ast.Load()), node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list.insert(0, ast.copy_location(ast.Name(DECORATOR, ast.Load()), node))
        return node


class CheckingLoader(SourceFileLoader):
    """Loads a module whose functions are checked."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        parts = (source, self.path.encode(), Path(__file__).read_bytes())
        key = b"".join(hashlib.sha256(part).digest() for part in parts)
        file = CACHE / f"{fullname}.{sys.implementation.cache_tag}"
        stored = file.read_bytes() if file.is_file() else b""
        if stored.startswith(key):
            return marshal.loads(stored[len(key) :])
        tree = ast.fix_missing_locations(_Decorate().visit(ast.parse(source, self.path)))
        code = compile(tree, self.path, "exec", dont_inherit=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        partial.write_bytes(key + marshal.dumps(code))
        partial.replace(file)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[DECORATOR] = checked
        super().exec_module(module)


class CheckingFinder(MetaPathFinder):
    """Finds the modules of the package, but its ``__init__`` files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("lightning_mm."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.submodule_search_locations is not None or not spec.origin:
            return None
        spec.loader = CheckingLoader(fullname, spec.origin)
        return spec


def install_type_hook() -> None:
    """Check the types of whatever is imported from now on."""
    assert "lightning_mm" not in sys.modules, "something imported lightning_mm before its types could be checked"
    sys.meta_path.insert(0, CheckingFinder())
