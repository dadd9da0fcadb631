"""A table as an xlsx workbook; needs the extra ``report``."""

from __future__ import annotations

import io
import math
from datetime import datetime
from importlib.util import find_spec

from lightning_mm.report.tables import Table

MOST_ROWS = 20_000
"""Rows of a table that is written; a page with more would be too large to be mailed, and the CSV has them."""
WIDEST = 40
"""Characters."""


def xlsx(table: Table) -> bytes | None:
    """The table with full numbers, names in bold, and its notes on a second sheet.

    Equal tables make equal bytes.

    Returns:
        ``None`` for an empty table, for one of more than :data:`MOST_ROWS` rows, or without the extra.
    """
    if find_spec("xlsxwriter") is None:
        return None
    header, *lines = table.lines()
    if not lines or len(lines) > MOST_ROWS:
        return None
    import xlsxwriter

    file = io.BytesIO()
    # A name that begins with "=" or "http:" stays a text.
    settings = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(file, settings) as book:
        book.set_properties({"title": table.title, "created": datetime(1980, 1, 1)})
        bold = book.add_format({"bold": True})
        sheet = book.add_worksheet(table.name[:31])
        sheet.write_row(0, 0, header, bold)
        for row, line in enumerate(lines, 1):
            for column, value in enumerate(line):
                if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                    sheet.write_number(row, column, value)
                elif value != "":
                    sheet.write_string(row, column, str(value))
        for column, name in enumerate(header):
            longest = max(len(str(one)) for one in (name, *(line[column] for line in lines)))
            sheet.set_column(column, column, min(longest + 2, WIDEST))
        sheet.freeze_panes(1, 1)
        if table.notes:
            notes = book.add_worksheet("notes")
            for row, note in enumerate(table.notes):
                notes.write_string(row, 0, note)
    return file.getvalue()
