"""Contents and metadata of wheel and sdist, and what must not be tracked by git."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import heatbox

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASSETS = {"page.html.j2", "page.css", "boxes.js", "explorer.js", "frames.js", "heat.js"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, made by the build backend itself: no isolation, so no network."""
    build = pytest.importorskip("hatchling.build")
    out = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return out / build.build_wheel(str(out)), out / build.build_sdist(str(out))


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    in_tree = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*") if p.is_file()}
    in_tree = {name for name in in_tree if "__pycache__" not in name and not name.endswith((".nbi", ".nbc"))}
    assert inside == in_tree
    assert "heatbox/py.typed" in inside
    assert {f"heatbox/visualization/report/assets/{name}" for name in ASSETS} <= inside
    kinds = {Path(name).suffix for name in inside} - {".py"}
    assert kinds == {".typed", ".pyi", ".css", ".js", ".j2", ".safetensors", ".jpg", ".md"}
    assert {name for name in inside if name.endswith(".pyi")} >= {
        "heatbox/__init__.pyi",
        "heatbox/metrics/__init__.pyi",
    }
    weights = {name for name in inside if name.endswith(".safetensors")}
    assert all(name.startswith("heatbox/models/weights/") for name in weights)
    assert {"LICENSE", "METADATA", "WHEEL", "RECORD", "entry_points.txt"} == {
        Path(name).name for name in names if ".dist-info/" in name
    }


def test_the_sdist_holds_sources_and_what_a_reader_needs(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "pyproject.toml", "PKG-INFO"} <= names
    rest = {name for name in names if not name.startswith("src/heatbox/")}
    assert rest <= {
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]


def test_metadata_says_what_the_project_says(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Version"] == PROJECT["version"] == heatbox.__version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().startswith("# heatbox")
    assert set(PROJECT["optional-dependencies"]) == set(metadata.get_all("Provides-Extra"))


def test_changelog_and_citation_are_of_this_version():
    version = PROJECT["version"]
    (heading,) = re.findall(
        rf"^## {re.escape(version)} \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], str(citation["date-released"])) == (version, heading)
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "CAM Back Again" in citation["references"][0]["title"]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_registry_or_a_path_of_a_machine(tracked):
    hosts = [
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("npm", "js.org"),
        ("deb.", "debian.org"),
        ("conda", ".anaconda"),
    ]
    paths = [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/")]
    forbidden = re.compile("|".join(re.escape(a + b) for a, b in hosts + paths))
    found = []
    for path in tracked:
        data = path.read_bytes()
        if b"\0" not in data:
            lines = data.decode().splitlines()
            found += [f"{path.name}:{n}" for n, line in enumerate(lines, 1) if forbidden.search(line)]
    assert not found


def test_what_is_made_is_not_tracked(tracked):
    made = {"uv.lock", "site", "dist", "build", "__pycache__", ".venv"}
    assert not [path for path in tracked if made & set(path.relative_to(ROOT).parts)]
