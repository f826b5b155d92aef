"""Run a notebook's cells in this process and write them with their outputs as a page.

A kernel would do the same with a server in between; the notebooks here are plain Python.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path
from typing import Any


def run(path: Path, pictures: Path | None = None) -> str:
    """Execute the cells in order in one namespace.

    Args:
        path: the .ipynb file.
        pictures: where each figure shown is saved as PNG; without it figures are drawn and dropped.

    Returns:
        the page: text cells as they are, code cells with what they print, show and evaluate to.
    """
    import matplotlib

    matplotlib.use("agg")
    cells = json.loads(path.read_text())["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    parts: list[str] = []
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += _execute(source, f"{path.stem}, cell {number}", names)
        parts += _figures(f"{path.stem}-{number}", pictures)
    return "\n\n".join(parts) + "\n"


def _execute(source: str, where: str, names: dict[str, Any]) -> list[str]:
    """What a cell prints, and the value of its last expression."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    said = printed.getvalue() + ("" if value is None else repr(value))
    return [f"```text\n{said.rstrip()}\n```"] if said else []


def _figures(stem: str, pictures: Path | None) -> list[str]:
    """Save and close what was drawn."""
    import matplotlib.pyplot as plt

    shown = []
    for number in plt.get_fignums():
        name = f"{stem}-{number}.png"
        if pictures is not None:
            plt.figure(number).savefig(pictures / name, dpi=130)
            shown.append(f"![What the cell above draws]({name})")
    plt.close("all")
    return shown
