"""The import graph: arrows go downward only, as ARCHITECTURE.md says."""

import ast
import re
from pathlib import Path

import pytest

import heatbox

ROOT = Path(heatbox.__file__).parent

# Lowest first; a room may import its own layer's lower neighbours only where `BESIDE` says so.
LAYERS = (
    ("errors",),
    ("files", "progress", "extras", "arguments", "config", "cores", "devices", "saved"),
    ("store", "ops", "data", "boxes"),
    ("models",),
    ("maps",),
    ("metrics", "recipes", "collect", "train"),
    ("analysis", "report"),
    ("localizer", "maskscoring", "datacheck", "dataprepare", "assess"),
    ("evaluation", "scoring", "locate", "training"),
    ("compare", "instruments", "demo"),
    ("paper",),
    ("terminal",),
    ("cli", "cli_parsing", "cli_train"),
    (
        "cli_analyze",
        "cli_data",
        "cli_locate",
        "cli_models",
        "cli_paper",
        "cli_report",
        "cli_scores",
        "cli_completion",
    ),
    ("__main__",),
)
BESIDE = {
    ("cli", "cli_parsing"), ("cli", "cli_train"), ("cli", "cli_scores"),  # it hands them the arguments
}  # fmt: skip
NEVER = {
    "data": {"models", "maps", "metrics", "boxes"},
    "models": {"data", "maps", "boxes"},
    "recipes": {"data", "models", "train"},
    "report.figures": {"data", "models", "maps", "metrics", "boxes", "analysis", "train"},
    "metrics": {"models", "train", "report"},
}


def modules():
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__") or "heatbox", path


def imports(path):
    """Names below heatbox that a file imports, inside functions too; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("heatbox."):
            inside = node.module.removeprefix("heatbox.")
            for name in node.names:
                yield (
                    f"{inside}.{name.name}"
                    if (ROOT / inside.replace(".", "/") / f"{name.name}.py").exists()
                    else inside
                )
        elif isinstance(node, ast.Import):
            yield from (name.name[8:] for name in node.names if name.name.startswith("heatbox."))


GRAPH = {name: set(imports(path)) for name, path in modules()}
PLACE = {room: number for number, layer in enumerate(LAYERS) for room in layer}


def room(module):
    return module.split(".")[0]


def test_every_room_has_its_place():
    assert {room(name) for name in GRAPH} - {"heatbox"} == set(PLACE)


@pytest.mark.parametrize("name", sorted(set(PLACE)))
def test_arrows_go_downward(name):
    for module, found in GRAPH.items():
        if room(module) != name:
            continue
        for other in found:
            if room(other) != name and (name, room(other)) not in BESIDE:
                assert PLACE[room(other)] < PLACE[name], f"{module} imports {other}"


@pytest.mark.parametrize("name", NEVER)
def test_rooms_that_know_nothing_of_each_other(name):
    found = {room(other) for module, known in GRAPH.items() if module.startswith(name) for other in known}
    assert not found & NEVER[name]


def test_no_module_needs_itself():
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path, module])
        if module in done or module not in GRAPH:
            return
        path.append(module)
        for other in GRAPH[module]:
            visit(other)
        done.add(path.pop())

    for module in GRAPH:
        visit(module)


def test_the_drawing_of_the_house_names_every_file():
    drawn = (ROOT.parents[1] / "ARCHITECTURE.md").read_text()
    tree = drawn[drawn.index("```\nsrc/heatbox/") :].split("```")[1]
    for name, path in modules():
        if path.name != "__init__.py":
            assert re.search(rf"\b{path.stem}\.py", tree) or f"{path.parent.name}/" in tree, name


def test_files_can_be_read_in_one_sitting():
    for name, path in modules():
        assert len(path.read_text().splitlines()) <= 400, name
