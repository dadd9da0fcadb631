"""Reads an xlsx file with the standard library alone."""

from __future__ import annotations

import io
import re
import zipfile
from xml.etree import ElementTree

SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_workbook(content: bytes) -> dict[str, list[dict[str, str | float]]]:
    """Sheet to its rows, column letter to text or number; formulas are an error."""
    found: dict[str, list[dict[str, str | float]]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        texts: list[str] = []
        if "xl/sharedStrings.xml" in archive.namelist():
            root = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
            texts = ["".join(part.text or "" for part in one.iter(f"{SPACE}t")) for one in root]
        names = [
            one.attrib["name"] for one in ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{SPACE}sheet")
        ]
        for number, name in enumerate(names, 1):
            root = ElementTree.fromstring(archive.read(f"xl/worksheets/sheet{number}.xml"))
            assert not list(root.iter(f"{SPACE}f")), "no formulas"
            rows = []
            for row in root.iter(f"{SPACE}row"):
                cells: dict[str, str | float] = {}
                for cell in row.iter(f"{SPACE}c"):
                    value = cell.findtext(f"{SPACE}v")
                    if value is not None:
                        column = re.sub(r"\d", "", cell.attrib["r"])
                        cells[column] = texts[int(value)] if cell.attrib.get("t") == "s" else float(value)
                rows.append(cells)
            found[name] = rows
    return found
