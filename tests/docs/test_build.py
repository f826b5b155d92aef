"""The site: every public name has one entry on the pages of the API, and every page is in the navigation."""

import importlib
import re
import sys
import types
from collections import Counter

import heatbox
from heatbox.cli.main import COMMANDS
from helpers.doc_blocks import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import build

PACKAGES = [name for name in heatbox.__all__ if isinstance(getattr(heatbox, name), types.ModuleType)]


def test_every_package_has_a_page():
    assert sorted(build.SECTIONS) == sorted(PACKAGES)


def test_every_public_name_has_one_entry():
    text = "\n".join([build.api_page(), *map(build.package_page, build.SECTIONS)])
    entries = Counter(re.findall(r"^::: (\S+)$", text, re.M))
    expected = {build.documented(heatbox, name) for name in heatbox.__all__ if name not in PACKAGES}
    for package in PACKAGES:
        owner = importlib.import_module(f"heatbox.{package}")
        expected |= {build.documented(owner, name) for name in owner.__all__ if name not in heatbox.__all__}
    assert expected <= set(entries)
    assert set(entries) - expected == {one for some in build.FURTHER.values() for one in some}
    assert not [name for name, count in entries.items() if count > 1]


def test_an_entry_leads_to_its_name():
    assert build.documented(heatbox, "Localizer") == "heatbox.inference.localizer.Localizer"
    assert build.documented(heatbox, "V2_IOU") == "heatbox.V2_IOU"
    assert build.documented(heatbox.metrics, "functional") == "heatbox.metrics.functional"


def test_every_page_is_in_the_navigation(tmp_path):
    names = [*(path.name for path in (ROOT / "docs").glob("*.md")), *(f"api/{one}.md" for one in PACKAGES)]
    (tmp_path / "api").mkdir()
    for name in names:
        (tmp_path / name).touch()
    assert not build.unnamed((ROOT / "docs/zensical.toml").read_text(), tmp_path)


def test_every_command_has_a_page():
    table = (ROOT / "docs/cli.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+)`", row)) == sorted(COMMANDS)
