"""What MkDocs does beyond its own: tabs from plain Markdown, and pages of files that lie outside of docs/.

- Between ``<!-- tabs -->`` and ``<!-- /tabs -->``, each line of bold text begins a tab of that name. Elsewhere, as
  on a code host, these are paragraphs with headings in bold.
- A link to a file of the repository (``../experiments/README.md``) is kept: the file becomes a page or a download below
  ``repository/``. Notebooks become pages with their outputs.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
PLACE = "repository"
"""Folder of the site for files that are not in docs/."""
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "experiments/README.md")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
TABS = re.compile(r"^<!-- tabs -->\n(.*?)^<!-- /tabs -->$", re.MULTILINE | re.DOTALL)
TAB = re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to, and those that these link to."""
    docs = Path(config.docs_dir).name
    waiting = [*ALWAYS, *(f"notebooks/{path.name}" for path in sorted(REPOSITORY.glob("notebooks/*.ipynb")))]
    for page in files.documentation_pages():
        waiting += targets(f"{docs}/{page.src_uri}", page.content_string)
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith(f"{docs}/") or not (REPOSITORY / path).is_file():
            continue
        seen.add(path)
        if path.endswith((".md", ".ipynb")):
            text = page_of(path, files, config)
            files.append(File.generated(config, site_path(path), content=text))
            waiting += targets(path, text)
        else:
            files.append(File.generated(config, site_path(path), abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between docs/ and the rest of the repository, and make tabs."""
    here = page.file.src_uri
    docs = Path(config.docs_dir).name
    inside = here.startswith(f"{PLACE}/")
    origin = repository_path(here) if inside else f"{docs}/{here}"

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), found[2]))
        place = target.removeprefix(f"{docs}/") if target.startswith(f"{docs}/") else site_path(target)
        if target == "README.md":
            place = "index.md"
        if files.get_file_from_path(place) is None:
            return found[0]
        return found[1] + posixpath.relpath(place, posixpath.dirname(here) or ".") + found[3]

    return TABS.sub(tabs, LINK.sub(link, markdown))


def targets(origin: str, text: str) -> list[str]:
    """Paths in the repository that a file links to."""
    folder = posixpath.dirname(origin)
    return [posixpath.normpath(posixpath.join(folder, found[2])) for found in LINK.finditer(text)]


def site_path(path: str) -> str:
    """Where a file of the repository is in the site; a README is named after its folder."""
    path = re.sub(r"(\w+)/README\.md$", r"\1/\1.md", path)
    return f"{PLACE}/{path.removesuffix('.ipynb') + '.md' if path.endswith('.ipynb') else path}"


def repository_path(place: str) -> str:
    """The file of the repository that a page of the site was made from; for a notebook, one next to it."""
    return re.sub(r"(\w+)/\1\.md$", r"\1/README.md", place.removeprefix(f"{PLACE}/"))


def tabs(found: re.Match[str]) -> str:
    """One group of tabs, its contents indented as the extension wants it."""
    _, *parts = TAB.split(found[1])
    made = []
    for name, body in zip(parts[::2], parts[1::2]):
        lines = [f"    {line}" if line else "" for line in body.strip("\n").splitlines()]
        made.append("\n".join([f'=== "{name}"', "", *lines, ""]))
    return "\n".join(made)


def page_of(path: str, files: Files, config: MkDocsConfig) -> str:
    """The Markdown of a page or of a notebook, whose pictures become files."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    if not path.endswith(".ipynb"):
        return text
    parts = []
    for number, cell in enumerate(json.loads(text)["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            data: dict[str, Any] = output.get("data", {})
            if "image/png" in data:
                name = f"{Path(path).stem}_{number}_{place}.png"
                picture = base64.b64decode("".join(data["image/png"]))
                files.append(File.generated(config, posixpath.join(PLACE, "notebooks", name), content=picture))
                parts.append(f"![output of the cell above]({name})")
            elif "".join(data.get("text/html", "")).startswith("<pre"):
                parts.append("".join(data["text/html"]))
            else:
                shown = "".join(output.get("text") or data.get("text/plain") or ())
                parts += [f"```text\n{shown.rstrip()}\n```"] if shown else []
    return "\n\n".join(parts)
