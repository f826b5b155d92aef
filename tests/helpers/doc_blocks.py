"""The code blocks of the README and the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "bash", "text"}  # text is output, or a file's content: nothing to run


@dataclass(frozen=True)
class Block:
    """A fenced block: its position, language and content."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """All blocks of a page; an indented one counts as a block of no language."""
    found: list[Block] = []
    fence: list[str] | None = None
    begin, language, before = 0, "", ""
    page = str(path.relative_to(ROOT))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if fence is None:
                fence, begin, language = [], number, line.strip().removeprefix("```")
            else:
                found.append(Block(page, begin, language, "\n".join(fence)))
                fence = None
        elif fence is not None:
            fence.append(line)
        elif line.startswith("    ") and not before.strip() and line.strip():
            found.append(Block(page, number, "", line.strip()))
        before = line
    assert fence is None, f"{page}:{begin}: the block is never closed"
    return found


def mentions(path: Path) -> list[str]:
    """What stands in the running text as `heatbox ...`, without the first word; dots stand for a word."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    found = re.findall(r"`heatbox ([^`]+)`", text)
    return [" ".join(one.replace("...", "dots").split()) for one in found]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; lines joined at backslashes, comments dropped."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(re.sub(r" > \S+", "", line), comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def heatbox_arguments(words: list[str]) -> list[str] | None:
    """What follows heatbox in `heatbox ...`, `uv run heatbox ...`, `torchrun ... -m heatbox ...`."""
    starters = {"heatbox", "uv", "torchrun", "srun"}
    if words[0] not in starters or "heatbox" not in words:
        return None
    return words[words.index("heatbox") + 1 :]
