"""Tables as files inside the page: CSV, LaTeX and xlsx in ``data:`` addresses."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

from lightning_mm.report.tables import Table
from lightning_mm.report.workbook import xlsx
from lightning_mm.results.texts import markdown_text

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "●": r"$\bullet$", "○": r"$\circ$", "−": r"$-$", "×": r"$\times$",
}  # fmt: skip

LABELS = {"csv": "CSV", "tex": "LaTeX", "xlsx": "xlsx"}
"""End of a file to the text of its link."""
KINDS = {
    "csv": "text/csv;charset=utf-8",
    "tex": "application/x-tex;charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
"""End of a file to its type."""


def files(table: Table) -> dict[str, bytes]:
    """The files of a table by their ends, those of :data:`LABELS`.

    A table that is a file already (``sweep.csv``) has no LaTeX; xlsx needs the extra ``report``.
    """
    found = {"csv": table.csv()}
    if table.exact is None:
        found["tex"] = latex(table).encode()
    sheet = xlsx(table)
    if sheet is not None:
        found["xlsx"] = sheet
    return {end: content for end, content in found.items() if content}


def latex(table: Table) -> str:
    """The table as a LaTeX ``tabular`` of the package booktabs, the best in bold."""
    if not table.rows:
        return ""
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _line(latex_text(column) for column in table.columns),
        r"\midrule",
        *(
            _line(rf"\textbf{{{latex_text(cell.text)}}}" if cell.best else latex_text(cell.text) for cell in row)
            for row in table.rows
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Text in which LaTeX finds no commands.

    Example:
        >>> latex_text("zero_fill 50 %")
        'zero\\\\_fill 50 \\\\%'
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def data_uri(content: bytes, kind: str) -> str:
    """An address that holds its content, e.g. of kind ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def file_name(*parts: str) -> str:
    """A name for a file, of letters, digits, dots and dashes alone.

    Example:
        >>> file_name("UTD MHAD", "summary") + ".csv"
        'UTD-MHAD_summary.csv'
    """
    return "_".join(re.sub(r"[^\w.-]+", "-", part, flags=re.ASCII).strip("-.") or "table" for part in parts)


def markdown(table: Table) -> str:
    """The table as GitHub Markdown, the best in bold."""
    rows = [
        [markdown_text(column) for column in table.columns],
        ["---", *["--:"] * (len(table.columns) - 1)],
        *(
            [f"**{markdown_text(cell.text)}**" if cell.best else markdown_text(cell.text) for cell in row]
            for row in table.rows
        ),
    ]
    notes = [f"- {markdown_text(note)}" for note in table.notes]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"### {markdown_text(table.title)}", "", *lines, "", *notes])


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
