"""Build the documentation: `uv run python docs/build.py` writes build/docs/site.

Pages are docs/*.md and the four files of the root that a reader looks for; the API page is made from
`heatbox.__all__`, the notebooks are executed and shown with what they print and draw.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
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
    "models": "Models",
    "maps": "Maps",
    "boxes": "Boxes",
    "metrics": "Scores",
    "data": "Data",
    "evaluation": "Evaluation",
    "analysis": "Analysis",
    "ops": "Large convolutions",
}


def gather(pages: Path) -> None:
    """Copy every page, picture and whole HTML page, and the files of the root with their links turned."""
    for path in (one for kind in ("md", "png", "jpg", "css", "html") for one in DOCS.glob(f"*.{kind}")):
        shutil.copy(path, pages / path.name)
    for source, target in FROM_ROOT.items():
        text = (ROOT / source).read_text().replace("](docs/", "](")
        for other, page in FROM_ROOT.items():
            text = text.replace(f"]({other})", f"]({page})")
        (pages / target).write_text(text)


def api_page() -> str:
    """One entry a public name, in the order in which data flows; names of other packages come last."""
    sections: dict[str, list[str]] = defaultdict(list)
    for name in heatbox.__all__:
        value = getattr(heatbox, name)
        if isinstance(value, ModuleType):
            continue
        module = getattr(value, "__module__", "heatbox")
        section = SECTIONS.get(module.split(".")[1] if "." in module else "", "Further names")
        path = f"{module}.{value.__qualname__}" if hasattr(value, "__qualname__") else f"heatbox.{name}"
        sections[section].append(path)
    lines = [
        "# API",
        "",
        "Every name below is imported from `heatbox`: `import heatbox as hb; hb.cam(...)`.",
        "",
    ]
    for section in [*SECTIONS.values(), "Further names"]:
        if section in sections:
            lines += [
                f"## {section}",
                "",
                *(f"::: {path}\n" for path in sorted(sections[section], key=str.lower)),
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
    (pages / "notebooks").mkdir(parents=True)
    gather(pages)
    (pages / "api.md").write_text(api_page())
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
