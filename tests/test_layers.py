"""The import graph: packages import only those below them, in the order of ARCHITECTURE.md."""

import ast
import re
from pathlib import Path

import pytest

import heatbox

ROOT = Path(heatbox.__file__).parent

# Lowest first: a package imports those before it, never one after it.
LAYERS = (
    "errors",
    "_utils",
    "ops",
    "boxes",
    "data",
    "models",
    "config",
    "maps",
    "metrics",
    "visualization.figures",
    "visualization",
    "inference",
    "evaluation",
    "training",
    "analysis",
    "visualization.report",
    "labeling",
    "demo",
    "paper",
    "integrations",
    "cli",
    "__main__",
)
NEVER = {
    "data": {"models", "maps", "metrics", "boxes", "ops"},
    "models": {"data", "maps", "boxes"},
    "boxes": {"data", "models", "ops"},
    "training.recipes": {"data", "models", "training"},
    "visualization.figures": {"data", "models", "maps", "metrics", "boxes"},
    "metrics": {"models", "maps", "data"},
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


def package(module):
    """The longest name of `LAYERS` that a module lies in."""
    inside = [name for name in LAYERS if module == name or module.startswith(f"{name}.")]
    return max(inside, key=len, default=module.split(".")[0])


def test_every_package_has_its_layer():
    assert {package(name) for name in GRAPH} - {"heatbox"} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_go_down_only(name):
    for module, found in GRAPH.items():
        if package(module) != name:
            continue
        for other in found:
            if package(other) != name:
                assert LAYERS.index(package(other)) < LAYERS.index(name), f"{module} imports {other}"


@pytest.mark.parametrize("name", NEVER)
def test_packages_that_know_nothing_of_each_other(name):
    for module, found in GRAPH.items():
        if module == name or module.startswith(f"{name}."):
            known = {other for other in found if not (other == name or other.startswith(f"{name}."))}
            wrong = {other for other in known if package(other) in NEVER[name] and other != "training.config"}
            assert not wrong, f"{module} imports {wrong}"


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


def test_few_modules_lie_at_the_root():
    assert sorted(path.name for path in ROOT.glob("*.py")) == [
        "__init__.py",
        "__main__.py",
        "config.py",
        "demo.py",
        "errors.py",
    ]


def test_the_drawing_of_the_tree_names_every_package():
    drawn = (ROOT.parents[1] / "ARCHITECTURE.md").read_text()
    tree = drawn[drawn.index("```\nsrc/heatbox/") :].split("```")[1]
    for name, path in modules():
        if path.name != "__init__.py":
            assert re.search(rf"\b{path.stem}\.py", tree) or f"{path.parent.name}/" in tree, name


def test_no_test_imports_the_conftest_of_a_folder():
    """What several folders share is in tests/helpers; a conftest serves its own folder, through fixtures."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            assert not [name for name in names if "conftest" in name.split(".")], path
