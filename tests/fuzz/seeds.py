"""Inputs that once broke something: files in tests/fixtures/fuzz, each over a valid case of its target."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz.mutate import Case
from fuzz.target import Target

SEEDS = Path(__file__).resolve().parents[1] / "fixtures" / "fuzz"


def save(target: Target, base: int, cases: Sequence[Case], case: Case, name: str) -> Path:
    """Write what a case changes of its valid one."""
    files = {file: _text(data) for file, data in case.items() if cases[base].get(file) != data}
    missing = [file for file in cases[base] if file not in case]
    path = SEEDS / f"{target.name}-{name}.json"
    SEEDS.mkdir(parents=True, exist_ok=True)
    content = {"target": target.name, "base": base, "files": files, "missing": missing}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load(path: Path, cases: Sequence[Case]) -> Case:
    """The whole case of a saved input."""
    saved = json.loads(path.read_text())
    case = {name: data for name, data in cases[saved["base"]].items() if name not in saved["missing"]}
    return case | {name: _bytes(text) for name, text in saved["files"].items()}


def _text(data: bytes) -> dict[str, str]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(saved: dict[str, str]) -> bytes:
    return saved["text"].encode() if "text" in saved else base64.b64decode(saved["base64"])


def minimised(case: Case, base: Case, same: Callable[[Case], bool], tries: int = 400) -> Case:
    """A case with as little damage as still does the same.

    Args:
        case: the input.
        base: the valid case it comes from.
        same: whether an input still breaks what it broke.
        tries: most inputs tried.
    """
    for name in list(case):  # whole files first
        if case[name] != base.get(name):
            trial = (
                {**case, name: base[name]} if name in base else {n: d for n, d in case.items() if n != name}
            )
            case = trial if same(trial) else case
    for name in [name for name in case if case[name] != base.get(name)]:
        size = max(len(case[name]) // 2, 1)
        while size and tries > 0:
            at = 0
            while at < len(case[name]) and tries > 0:
                trial = {**case, name: case[name][:at] + case[name][at + size :]}
                tries -= 1
                if same(trial):
                    case = trial
                else:
                    at += size
            size //= 2
    return case
