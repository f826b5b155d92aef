"""The command line: which commands there are, and how one is found, run and answered for.

A command is a function that calls one library function and prints. Its module is imported when it is asked
for, so that the list of commands costs no more than Python's own start.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from heatbox.errors import InputError


class Command(NamedTuple):
    """Where a command is, and what the list of commands says of it.

    Attributes:
        summary: the first line of its documentation.
        home: "module:name" of a function, or of a dictionary of functions for a command that has others.
        resumes: whether the same command goes on after an interruption.
    """

    summary: str
    home: str
    resumes: bool = False


COMMANDS: dict[str, dict[str, Command]] = {
    "boxes from labels": {
        "demo": Command(
            "Train on the embedded data set, make maps, score them: the main job in one go.",
            "heatbox.cli.evaluate:demo",
        ),
        "locate": Command("Find the object in pictures of your own.", "heatbox.cli.locate:locate"),
        "evaluate": Command(
            "Make maps of a data set and score them against its boxes or masks.",
            "heatbox.cli.evaluate:evaluate",
            resumes=True,
        ),
        "score": Command("Score heatmaps that any tool made.", "heatbox.cli.evaluate:score", resumes=True),
    },
    "training": {
        "train": Command(
            "Train a recipe on labels alone; interrupted or killed, the same command goes on.",
            "heatbox.cli.train:train_command",
            resumes=True,
        ),
        "recipes": Command(
            "What can be trained by name, from which weights, and what the paper reports of it.",
            "heatbox.cli.train:recipes",
        ),
    },
    "reading results": {
        "report": Command(
            "One page about one or more runs: scores, figures, an explorer of images and thresholds.",
            "heatbox.cli.report:report",
        ),
        "compare": Command("What changed between two runs.", "heatbox.cli.report:compare"),
        "export": Command("What a run found, for other tools.", "heatbox.cli.report:export"),
        "analyze": Command(
            "Why a backbone localizes well or badly: one instrument, or all, over several models.",
            "heatbox.cli.analyze:ANALYZE_COMMANDS",
            resumes=True,
        ),
        "paper": Command("Every table and figure of the paper.", "heatbox.cli.paper:paper", resumes=True),
    },
    "data and models": {
        "data": Command(
            "What data there is and what is broken: check, prepare, list.",
            "heatbox.cli.data:DATA_COMMANDS",
            resumes=True,
        ),
        "models": Command(
            "What can be built by name, at what cost, and which released weights fit.",
            "heatbox.cli.models:models",
        ),
        "convert": Command(
            "Turn a released checkpoint into safetensors under our names.", "heatbox.cli.models:convert"
        ),
        "completion": Command(
            "A script that completes commands and options in your shell.", "heatbox.cli.completion:completion"
        ),
    },
}

DESCRIPTION = "Weakly supervised object localization: from image-level labels to boxes."
USER_ERROR, INTERRUPTED, READER_GONE = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: some inputs were passed over; 2: input that cannot be used, said in one sentence;
    130: interrupted; 141: the reader of a pipe went away. A bug keeps its traceback.
    """
    try:
        code = _main(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as with `heatbox models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return READER_GONE


def _main(arguments: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if arguments is None else arguments)
    verbose = args[:1] in (["-v"], ["--verbose"])
    args = args[1:] if verbose else args
    for stream in (sys.stdout, sys.stderr):
        _never_fails(stream)
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    name = args[0] if args else ""
    try:
        if answered := _answer(args):
            print(answered, flush=True)
            raise SystemExit(0)
        return _run(name, args[1:], verbose)
    except InputError as error:
        _tell(f"heatbox: {error}")
        return USER_ERROR
    except OSError as error:  # of a file or folder that was named, or of a disk that fails
        if error.filename is None:
            raise
        _tell(f"heatbox: {error.filename}: {error.strerror}")
        return USER_ERROR
    except KeyboardInterrupt:
        goes_on = name in flat() and flat()[name].resumes
        more = "; what was computed is kept, the same command goes on from there" if goes_on else ""
        _tell(f"heatbox: interrupted{more}")
        return INTERRUPTED


def flat() -> dict[str, Command]:
    """Every command by name."""
    return {name: command for group in COMMANDS.values() for name, command in group.items()}


def load(name: str) -> Any:
    """The function of a command, or the dictionary of functions of one that has others.

    Raises:
        InputError: there is no such command; the message names near ones.
    """
    known = flat()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, 2)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"there is no command {name!r}{hint}; heatbox --help lists them")
    module, _, attribute = known[name].home.partition(":")
    return getattr(importlib.import_module(module), attribute)


def overview(width: int) -> str:
    """The list of commands, for a terminal of so many columns."""
    groups = {
        title: {name: command.summary for name, command in group.items()} for title, group in COMMANDS.items()
    }
    words = (
        "heatbox COMMAND --help tells more, with examples. Every command takes -v for a log of what is done."
    )
    return _listed("heatbox COMMAND", DESCRIPTION, groups, words, width)


# ----------------------------------------------------------------------------------------- parts of main


def _answer(args: Sequence[str]) -> str:
    """What is said without running anything: the list of commands, or the version; "" to run a command."""
    if args[:1] in (["-h"], ["--help"]):
        return overview(_columns())
    if args[:1] == ["--version"]:
        from heatbox import __version__

        return f"heatbox {__version__}"
    return ""


def _run(name: str, args: Sequence[str], verbose: bool) -> int:
    if not name:
        _tell(overview(_columns()))
        return USER_ERROR
    target = load(name)
    prog = f"heatbox {name}"
    if isinstance(target, Mapping):
        found = _choose(prog, flat()[name].summary, target, args)
        if found is None:
            return USER_ERROR
        prog, target, args = f"{prog} {args[0]}", found, args[1:]
    elif name == "train":
        from heatbox.cli.train import pick_recipe

        target, prog, args = pick_recipe(args)
    elif name == "evaluate":
        from heatbox.cli.evaluate import evaluate_or_rescore

        target = evaluate_or_rescore(args)
    from heatbox.cli.parsing import parse
    from heatbox.cli.terminal import logged

    call, more = parse(target, args, prog)
    with logged(verbose or more, f"{prog} {' '.join(args)}"):
        return call() or 0


def _choose(
    prog: str, summary: str, commands: Mapping[str, Callable[..., Any]], args: Sequence[str]
) -> Callable[..., Any] | None:
    """The function that `heatbox data ACTION` and the like name; None where none is named."""
    if args and args[0] in commands:
        return commands[args[0]]
    listed = {name: (function.__doc__ or "").split("\n\n")[0] for name, function in commands.items()}
    told = _listed(
        f"{prog} COMMAND", summary, {"commands": listed}, f"{prog} COMMAND --help tells more.", _columns()
    )
    if args[:1] in (["-h"], ["--help"]):
        print(told)
        raise SystemExit(0)
    if args:
        raise InputError(f"{prog} has no command {args[0]!r}, expected {', '.join(commands)}")
    _tell(told)
    return None


# ---------------------------------------------------------------------------------------------- printing


def _listed(
    usage: str, description: str, groups: Mapping[str, Mapping[str, str]], words: str, width: int
) -> str:
    """Commands with their summaries, wrapped; in a narrow terminal a summary gets lines of its own."""
    lines = [f"usage: {usage} [options]", "", *textwrap.wrap(description, width)]
    indent = 4 + max(len(name) for group in groups.values() for name in group)
    for title, group in groups.items():
        lines += ["", f"{title}:"]
        for name, summary in group.items():
            if width < 3 * indent:
                lines += [
                    f"  {name}",
                    *textwrap.wrap(summary, width, initial_indent="    ", subsequent_indent="    "),
                ]
            else:
                first = f"  {name}".ljust(indent)
                lines += textwrap.wrap(summary, width, initial_indent=first, subsequent_indent=" " * indent)
    return "\n".join([*lines, "", *textwrap.wrap(words, width)])


def _columns() -> int:
    """Width to wrap to: the terminal's, within what can be read; 80 in a pipe."""
    return min(max(shutil.get_terminal_size().columns - 1, 20), 100)


def _tell(words: str) -> None:
    from heatbox._utils.progress import printable

    print(printable(words), file=sys.stderr)


def _never_fails(stream: Any) -> None:
    """Signs that the terminal's encoding does not have become question marks instead of an error."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    if encoding != "utf8" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
