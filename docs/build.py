"""Build the documentation: `uv run python docs/build.py` writes build/docs/site.

Pages are docs/*.md and the four files of the root that a reader looks for; the API pages are made from
`__all__` of `heatbox` and its packages, the notebooks are executed and shown with what they print and draw.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from notebook import run

import heatbox

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
FROM_ROOT = {name: f"{name.lower().removesuffix('.md')}.md" for name in ("CHANGELOG.md", "ARCHITECTURE.md")}
FROM_ROOT |= {name: f"{name.lower().removesuffix('.md')}.md" for name in ("CONTRIBUTING.md", "SECURITY.md")}

SECTIONS = {
    "inference": "From images to boxes",
    "labeling": "Labelling",
    "models": "Models",
    "maps": "Maps",
    "boxes": "Boxes",
    "metrics": "Scores",
    "data": "Data",
    "evaluation": "Evaluation",
    "training": "Training",
    "analysis": "Analysis",
    "visualization": "Pictures",
    "ops": "Large convolutions",
}
FURTHER = {"metrics": ["heatbox.metrics.faithfulness"], "inference": ["heatbox.integrations.ray"]}
"""Modules that the pages teach and no package exports, by the package on whose page they are."""


def gather(pages: Path) -> None:
    """Copy every page, picture and whole HTML page, and the files of the root with their links turned."""
    for path in (one for kind in ("md", "png", "jpg", "css", "html") for one in DOCS.glob(f"*.{kind}")):
        shutil.copy(path, pages / path.name)
    for source, target in FROM_ROOT.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, page in FROM_ROOT.items():
            text = text.replace(f"]({other})", f"]({page})")
        (pages / target).write_text(text)


def documented(owner: ModuleType, name: str) -> str:
    """The path under which the documentation of a public name of a package is found."""
    value = getattr(owner, name)
    if isinstance(value, ModuleType):
        return value.__name__
    module = getattr(value, "__module__", "")
    named = module.startswith("heatbox") and hasattr(value, "__qualname__")
    return f"{module}.{value.__qualname__}" if named else f"{owner.__name__}.{name}"


def entries(paths: Iterable[str]) -> list[str]:
    """Markdown from which the documentation of each path is made."""
    return [f"::: {path}\n" for path in sorted(paths, key=str.lower)]


def api_page() -> str:
    """One entry a name of `heatbox`, in the order in which data flows; names of other packages come last."""
    sections: dict[str, list[str]] = defaultdict(list)
    for name in heatbox.__all__:
        if not isinstance(getattr(heatbox, name), ModuleType):
            path = documented(heatbox, name)
            sections[SECTIONS.get(path.split(".")[1], "Further names")].append(path)
    lines = [
        "# API",
        "",
        "Every name on this page is imported from `heatbox`: `import heatbox as hb; hb.cam(...)`. Its",
        "packages have further names: ",
        ", ".join(f"[`heatbox.{one}`](api/{one}.md)" for one in SECTIONS) + ".",
        "",
    ]
    for section in [*SECTIONS.values(), "Further names"]:
        if section in sections:
            lines += [f"## {section}", "", *entries(sections[section])]
    return "\n".join(lines)


def package_page(package: str) -> str:
    """One entry a name of a package that `heatbox` does not have."""
    owner = getattr(heatbox, package)
    names = [name for name in owner.__all__ if name not in heatbox.__all__]
    shared = [name for name in owner.__all__ if name in heatbox.__all__]
    lines = [
        f"# heatbox.{package}",
        "",
        f"{SECTIONS[package]}: names that are imported from `heatbox.{package}`. "
        + ("The package also has " + ", ".join(f"`{name}`" for name in shared) if shared else "")
        + (" of [`heatbox`](../api.md)." if shared else ""),
        "",
        *entries(documented(owner, name) for name in names),
        *entries(FURTHER.get(package, [])),
    ]
    return "\n".join(lines)


def notebook_page(path: Path, pages: Path) -> str:
    """A notebook's page, with a note under its title that says where the cells are."""
    title, rest = run(path, pages / "notebooks").split("\n", 1)
    note = f"*This page is [a notebook]({path.name}), executed when the pages were built.*"
    return f"{title}\n\n{note}\n{rest}"


def unnamed(config: str, pages: Path) -> list[str]:
    """Pages that the navigation does not name."""
    named = set(re.findall(r'"([^"]+\.md)"', str(tomllib.loads(config)["project"]["nav"]).replace("'", '"')))
    return sorted({str(path.relative_to(pages)) for path in pages.rglob("*.md")} - named)


def build(out: Path) -> int:
    """Gather the pages under `out` and build the site from them; returns the exit code of the builder."""
    shutil.rmtree(out, ignore_errors=True)
    pages = out / "pages"
    for folder in ("api", "notebooks"):
        (pages / folder).mkdir(parents=True)
    gather(pages)
    (pages / "api.md").write_text(api_page())
    for package in SECTIONS:
        (pages / "api" / f"{package}.md").write_text(package_page(package))
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        print(f"executing {path.name}", flush=True)
        (pages / "notebooks" / f"{path.stem}.md").write_text(notebook_page(path, pages))
        shutil.copy(path, pages / "notebooks" / path.name)
    config = (DOCS / "zensical.toml").read_text()
    more = "".join(f'    "{page}",\n' for page in unnamed(config, pages))
    if more:
        config = config.replace(
            "\n]\n\n[project.theme]", f'\n  {{ "More" = [\n{more}  ] }},\n]\n\n[project.theme]', 1
        )
    (out / "zensical.toml").write_text(config)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run([*command, "--config-file", str(out / "zensical.toml")], cwd=out).returncode


if __name__ == "__main__":
    sys.exit(build(ROOT / "build" / "docs"))
