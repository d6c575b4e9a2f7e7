"""Has docstrings that say `name: what it is` on lines of their own shown as a list of these names.

A griffe extension, used by the site's API reference; nothing of the package imports it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_FIELD = re.compile(r"^(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?P<text>.+)$")


def listed(text: str) -> str:
    """A docstring's text, each of its paragraphs that begins with `name: ` as a list of Markdown."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(_listed(part) if _FIELD.match(part.split("\n")[0]) else part for part in paragraphs)


def _listed(paragraph: str) -> str:
    lines = []
    for line in paragraph.split("\n"):
        field = _FIELD.match(line)
        if field:
            names = ", ".join(f"`{name}`" for name in field["names"].split(", "))
            lines.append(f"- {names}: {field['text']}")
        else:
            lines.append(f"  {line.strip()}")
    return "\n".join(lines)


class Fields(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
