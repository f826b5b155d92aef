"""Rendering of one self-contained HTML page that loads nothing and shows all text literally."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import to_json

_EXPLORER = ("boxes.js", "heat.js", "frames.js", "explorer.js")
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def script_json(content: object) -> str:
    """JSON that is safe inside a script element: it can neither end the element nor start markup.

    NaN and infinity become null.
    """
    text = json.dumps(json.loads(to_json(content)), ensure_ascii=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def policy(style: str, script: str) -> str:
    """A content security policy that allows only this style and this script, and loads nothing."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    allowed = "style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; {allowed}"


def asset(name: str) -> str:
    """Content of a file in the folder assets."""
    return (files("heatbox.visualization.report") / "assets" / name).read_text(encoding="utf-8")


def render(content: Mapping[str, Any]) -> str:
    """Render the page as HTML.

    Args:
        content: of the template page.html.j2: "title", "lead", "tables", "figures", "notes", "settings", and
            "explorer" (the result of `explorer_data`) or "review" (of `review_data`), or neither.

    Raises:
        InputError: Jinja2 is not installed.
    """
    require("report", "the report page", "jinja2")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = asset("page.css")
    explorer, review = content.get("explorer"), content.get("review")
    names = ("boxes.js", "heat.js", "frames.js", "review.js") if review else _EXPLORER
    script, shown = "\n".join(map(asset, names)), explorer or review
    return environment.from_string(asset("page.html.j2")).render(
        {"explorer": None, "review": None, **content},
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script) if shown else "",
        data=Markup(script_json(shown)) if shown else "",
    )
