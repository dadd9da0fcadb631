"""Writes the report: one HTML file with everything in it, and Markdown next to it; or a folder for a web server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.files import make_folder, write_atomically
from lightning_mm.report.downloads import file_name, files, markdown
from lightning_mm.report.section import Section, section
from lightning_mm.report.source import read_sources
from lightning_mm.results.texts import markdown_text
from lightning_mm.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
PAGE, TEXT = "report.html", "report.md"


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    metric: str | None = None,
    empty: float | None = None,
    title: str | None = None,
) -> dict[str, Path]:
    """Write the page of some sweeps or studies, and Markdown next to it.

    Args:
        folders: Folders of results, or folders of such folders; each becomes a part of the page.
        out: The HTML file; the Markdown has the same name with ``.md``.
        metric: What charts and importance show; the primary metric of each by default.
        empty: Value without any modality, for the importance; by default that of the method ``majority``.
        title: Title of the page; by default the names of the parts.

    Returns:
        ``{"html": path, "markdown": path}``.

    Raises:
        DataNotFoundError: If there is no sweep.
        LightningMMError: If a file is damaged, or a metric is missing.
    """
    sections = _sections(folders, metric, empty)
    out = Path(out)
    written = {"html": write_atomically(out, html(sections, title))}
    written["markdown"] = write_atomically(out.with_suffix(".md"), text(sections, title))
    return written


def write_bundle(
    folders: Sequence[str | Path],
    out: str | Path,
    metric: str | None = None,
    empty: float | None = None,
    title: str | None = None,
) -> dict[str, Path]:
    """Write a folder that any web server publishes: ``index.html``, ``report.md`` and all tables as files.

    Arguments and errors are those of :func:`write_report`; ``out`` is the folder.

    Returns:
        ``{"html": path, "markdown": path}``.
    """
    sections = _sections(folders, metric, empty)
    out = Path(out)
    make_folder(out)
    for one in sections:
        same = [other.anchor for other in sections if file_name(other.name).lower() == file_name(one.name).lower()]
        folder = out / "tables" / file_name(one.name, *(same[1:] and [one.anchor]))
        for table in (one.figures, *one.tables):
            for end, content in files(table).items():
                write_atomically(folder / f"{table.name}.{end}", content)
    written = {"markdown": write_atomically(out / TEXT, text(sections, title))}
    written["html"] = write_atomically(out / "index.html", html(sections, title))
    return written


def html(sections: Sequence[Section], title: str | None = None) -> str:
    """The page; all names are escaped."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    page = _environment().get_template("page.html")
    return page.render(
        sections=sections, title=title or _title(sections), style=style, script=script, version=__version__
    )


def text(sections: Sequence[Section], title: str | None = None) -> str:
    """The same facts and tables as Markdown."""
    lines = [f"# {markdown_text(title or _title(sections))}", ""]
    for one in sections:
        lines += [f"## {markdown_text(one.name)}", ""]
        lines += [f"- {markdown_text(label)}: {markdown_text(fact)}" for label, fact in one.facts]
        for table in one.tables:
            if table.rows:
                lines += ["", markdown(table)]
        lines += ["", *(f"- {markdown_text(reason)}" for reason in one.worth.left_out), ""]
    return "\n".join(lines).rstrip() + "\n"


def _sections(folders: Sequence[str | Path], metric: str | None, empty: float | None) -> list[Section]:
    return [section(source, position, metric, empty) for position, source in enumerate(read_sources(folders))]


def _title(sections: Sequence[Section]) -> str:
    names = [one.name for one in sections]
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} sweeps"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
