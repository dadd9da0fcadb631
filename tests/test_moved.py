"""Old names of modules, for one release."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from lightning_mm.moved import MOVED, ROOT


@pytest.mark.parametrize("old", MOVED)
def test_every_old_name_leads_to_modules_that_exist(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in MOVED[old]:
        import_module(ROOT + home)
    monkeypatch.delitem(sys.modules, ROOT + old, raising=False)
    with pytest.warns(FutureWarning, match=f"{ROOT + old} is now {ROOT + MOVED[old][0]}"):
        module = import_module(ROOT + old)
    with pytest.raises(AttributeError, match="which have no 'nothing'"):
        _ = module.nothing


def test_names_are_those_of_the_new_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_mm.results.merge import merge

    monkeypatch.delitem(sys.modules, "lightning_mm.sweep.merge", raising=False)
    with pytest.warns(FutureWarning):
        moved = import_module("lightning_mm.sweep.merge")
    assert moved.merge is merge


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("lightning_mm.nothing")
