"""One self-contained HTML page: nothing on it comes from elsewhere, and text is text."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import to_json

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def script_json(content: object) -> str:
    """JSON that may stand inside a script element: no character of it can end the element or begin markup.

    NaN and infinity become null.
    """
    text = json.dumps(json.loads(to_json(content)), ensure_ascii=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def policy(style: str, script: str) -> str:
    """A content security policy under which only this style and this script work, and nothing is fetched."""
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def asset(name: str) -> str:
    """Text of a file beside this module."""
    return (files("heatbox.visualization.report") / "assets" / name).read_text(encoding="utf-8")


def render(content: Mapping[str, Any]) -> str:
    """The page.

    Args:
        content: what the template page.html.j2 shows: "title", "runs", "tables", "figures", "notes",
            "settings", and "explorer" (what `explorer_data` returns, or None).

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
    script = "\n".join(asset(name) for name in ("boxes.js", "heat.js", "frames.js", "explorer.js"))
    explorer = content.get("explorer")
    return environment.from_string(asset("page.html.j2")).render(
        content,
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script) if explorer else "",
        data=Markup(script_json(explorer)) if explorer else "",
    )
