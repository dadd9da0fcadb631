"""Turns the roles of docstrings, such as ``:class:`~lightning_mm.missing.Mean```, into links where there is a page."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
CODE = re.compile(r"``([^`]+)``")


class Roles(griffe.Extension):
    """Rewrites every docstring that is shown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: link(obj, found[1], found[2]), obj.docstring.value)
            text = EXAMPLE.sub("Examples:", text)  # the word that makes it code
            obj.docstring.value = CODE.sub(r"`\1`", text)


def link(obj: griffe.Object, short: str, name: str) -> str:
    """A link if the page of the target exists, otherwise its name as code."""
    shown = name.rpartition(".")[2] if short else name
    target = name
    if "." not in name:
        owner = obj if obj.is_class else obj.parent
        target = f"{owner.path}.{name}" if owner is not None else name
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'
