"""Files of an export are put in place all at once; what killed ones have left is removed by the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_mm.export.index import INDEX
from lightning_mm.export.placing import placed
from lightning_mm.files import PART


def test_what_killed_exports_have_left_is_removed(tmp_path: Path) -> None:
    for name in (".exporting-0123abcd", f".files-0123{PART}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "any.pt2").write_text("half")
    (tmp_path / "own.txt").write_text("stays")
    with placed(tmp_path) as part:
        (part / INDEX).write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "own.txt"]


def test_a_full_disk_is_not_the_networks_fault(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"), placed(tmp_path / "out"):
        raise OSError("No space left on device")
    assert not (tmp_path / "out").exists()
