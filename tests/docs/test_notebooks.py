"""The notebooks run from the first cell to the last, and their page shows what they print and draw."""

import json
import sys

import pytest

from helpers.doc_blocks import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import notebook

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SLOW = {"why_does_it_localize"}  # trains for half a minute; the documentation's build runs it every time


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in NOTEBOOKS]
)
def test_notebook_runs(path, tmp_path):
    pytest.importorskip("matplotlib")
    page = notebook.run(path, tmp_path)
    assert page.count("```python") == sum(
        c["cell_type"] == "code" for c in json.loads(path.read_text())["cells"]
    )
    images = list(tmp_path.glob("*.png"))
    assert images
    assert all(f"]({image.name})" in page for image in images)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_kept_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_a_page_holds_what_cells_print_and_evaluate_to(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["x = 6\n", "print('six')\n", "x * 7"]},
        {"cell_type": "code", "source": ["y = x"]},
    ]
    (tmp_path / "small.ipynb").write_text(json.dumps({"cells": cells}))
    page = notebook.run(tmp_path / "small.ipynb")
    code = "```python\nx = 6\nprint('six')\nx * 7\n```\n\n```text\nsix\n42\n```"
    assert page == f"# Title\n\n{code}\n\n```python\ny = x\n```\n"


def test_a_cell_that_fails_fails_the_run(tmp_path):
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["1 / 0"]}]}))
    with pytest.raises(ZeroDivisionError):
        notebook.run(tmp_path / "bad.ipynb")
