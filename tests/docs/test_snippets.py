"""Every command and every snippet of the documentation is run, or at least parsed."""

from __future__ import annotations

import functools
import glob
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import heatbox.cli.parsing
import heatbox.training.recipes
from heatbox.cli.main import main
from helpers import stand_ins
from helpers.doc_blocks import LANGUAGES, PAGES, ROOT, blocks, commands, heatbox_arguments, mentions

ALL = [block for page in PAGES for block in blocks(page)]
SNIPPETS = sorted({block.page for block in ALL if block.language == "python"})
COMMANDS = [
    (block.place, words) for block in ALL if block.language == "bash" for words in commands(block.text)
]
OURS = sorted({shlex.join(found) for _, words in COMMANDS if (found := heatbox_arguments(words)) is not None})
MENTIONED = sorted({one for page in PAGES for one in mentions(page)})
OTHERS = sorted({shlex.join(words) for _, words in COMMANDS if heatbox_arguments(words) is None})

PARSED_ONLY = {  # commands that are only parsed, and why
    "demo": "tests/test_demo.py runs it",
    "demo --train": "takes three minutes; tests/test_demo.py runs it cut short, .ci/run whole",
    "train *": "takes minutes to days; tests/training trains",
    "* pretrained *": "downloads weights",
    "* hf:*": "needs weights; tests/models/test_huggingface.py saves and loads classifiers",
    "* runs/mine/*": "needs a fine-tuning; tests/training/test_finetune.py makes and reads one",
    "* tiny20:val *": "needs Tiny-ImageNet and the weights of a training",
    "analyze all *": "downloads weights; tests/cli/test_analyze.py analyses",
    "report runs/a runs/b runs/analyze-all-a": "needs an analysis, which takes minutes",
    "paper *": "takes minutes to days",
}
PROGRAMS = {"pip", "uv", "python", ".ci/run", "git"}


@pytest.fixture(scope="module")
def laid(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stand_ins.lay_out(folder)
    return folder


@pytest.fixture
def reader(laid, monkeypatch) -> Path:
    monkeypatch.chdir(laid)
    return laid


def test_every_block_has_a_language():
    unknown = [
        f"{block.place} ({block.language or 'indented'})" for block in ALL if block.language not in LANGUAGES
    ]
    assert not unknown, "blocks that no test covers: " + ", ".join(unknown)
    assert len(SNIPPETS) >= 8
    assert len(OURS) >= 20


def only_parsed(command: str) -> bool:
    return "--help" in command or any(fnmatch(command + " ", pattern + "*") for pattern in PARSED_ONLY)


def test_no_reason_is_unused():
    parsed = [command for command in OURS if only_parsed(command)]
    unused = [p for p in PARSED_ONLY if not any(fnmatch(c + " ", p + "*") for c in parsed)]
    assert set(unused) <= {"paper *"}


def expanded(command: str) -> list[str]:
    return [
        file for word in shlex.split(command) for file in (sorted(glob.glob(word)) if "*" in word else [word])
    ]


def is_whole(command: str) -> bool:
    """Whether a mention is a command with its options' values, not the name of one."""
    return bool(re.search(r"--\S+ \S", command)) or "--help" in command


@pytest.mark.parametrize(
    "command",
    [*(c for c in OURS if only_parsed(c)), *(c for c in MENTIONED if is_whole(c) and c not in OURS)],
)
def test_command_parses(command, reader, monkeypatch):
    parse = heatbox.cli.parsing.parse

    def parsed(function, args, prog):
        parse(function, args, prog)
        return (lambda: 0), False

    monkeypatch.setattr(heatbox.cli.parsing, "parse", parsed)
    if "--help" not in command:
        assert main(expanded(command)) == 0
        return
    with pytest.raises(SystemExit) as ended:
        main(expanded(command))
    assert ended.value.code == 0


@pytest.mark.parametrize("command", [c for c in MENTIONED if not is_whole(c)])
def test_mentioned_commands_exist(command):
    assert command.split()[0] in heatbox.cli.main.COMMANDS


@pytest.mark.parametrize("command", [c for c in OURS if not only_parsed(c)])
def test_command_runs(command, reader, capsys):
    try:
        code = main([*expanded(command), *small(command)])
    except SystemExit as ended:  # how the completion's script ends
        code = ended.code or 0
    assert code == 0, capsys.readouterr().err


def small(command: str) -> list[str]:
    """What is added to make a command quick, or to keep it from another's run folder."""
    if command.startswith(("evaluate --model", "locate")):
        return ["--size", "64", "--out", f"out/{abs(hash(command))}"]
    return []


def test_a_wrong_flag_is_caught(reader, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--modell", "mine.py:build", "--data", "birds.tar"])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_name_existing_files(command):
    words = shlex.split(command)
    assert words[0] in PROGRAMS, f"{command}: neither heatbox nor a program that the documentation may assume"
    for extra in re.findall(r"heatbox\[([\w,]+)\]", command):
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(extra.split(",")) <= set(known)
    for word in words:
        if word.endswith((".py", "/run")):
            assert (ROOT / word).is_file(), f"{command}: there is no {word}"
    scripts = [word for word in words if word.endswith(".py")]
    for script in scripts:
        text = (ROOT / script).read_text() + (ROOT / "benchmarks/timing.py").read_text()
        flags = [word for word in words if word.startswith("--")]
        assert all(f'"{flag}"' in text for flag in flags), f"{command}: {script} has no such option"


def test_links_and_images_of_the_root_exist():
    targets = {
        (path.name, target)
        for path in ROOT.glob("*.md")
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    }
    assert len(targets) > 20
    assert not [pair for pair in targets if not (ROOT / pair[1]).exists()]


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page, reader, monkeypatch):
    small_recipe = functools.cache(stand_ins.small_recipe)
    for module in (heatbox.training, heatbox.training.recipes):  # the package keeps what it has loaded
        monkeypatch.setattr(module, "get_recipe", small_recipe)
    names = stand_ins.names_for(page)
    for block in ALL:
        if (block.page, block.language) == (page, "python"):
            text = block.text
            for large, little in stand_ins.SMALLER.items():
                text = text.replace(large, little)
            exec(compile(text, block.place, "exec"), names)


def test_every_photograph_of_the_documentation_has_a_known_release_and_is_small():
    files = {
        str(path.relative_to(ROOT / "src/heatbox/data/photos")): path.stat().st_size
        for path in (ROOT / "src/heatbox/data/photos").rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    rows = re.findall(
        r"^\| `(\S+)` \|.*(?:CC0|public domain).*`[0-9a-f]{64}` \|$",
        (ROOT / "src/heatbox/data/photos/README.md").read_text(),
        re.MULTILINE,
    )
    assert files
    assert sorted(rows) == sorted(files)
    assert all(size <= 60_000 for size in files.values())
