"""The command line: the table of commands, dispatch, exit codes.

A command is a function that calls one library function and prints. Its module is imported only when the
command runs, so that the list of commands starts as fast as Python itself.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from heatbox.errors import InputError, UnreachableError, did_you_mean


class Command(NamedTuple):
    """Where a command is defined, and its line in the list of commands.

    Attributes:
        summary: the first line of its documentation.
        home: "module:name" of a function, or of a dictionary of functions for a command with subcommands.
        resumes: whether rerunning the command after an interruption resumes it.
        select: name of a function in the same module that maps arguments to (function, prog, remaining
            arguments), where the arguments decide which function runs.
    """

    summary: str
    home: str
    resumes: bool = False
    select: str = ""


GROUPS: dict[str, dict[str, Command]] = {
    "boxes from labels": {
        "demo": Command(
            "Make boxes of five photographs with a pretrained network, in one command.",
            "heatbox.cli.demo:demo",
        ),
        "label": Command(
            "Make boxes of labelled photographs, for an annotation tool or a detector.",
            "heatbox.cli.label:label",
            resumes=True,
            select="one_or_several",
        ),
        "locate": Command(
            "Localize the object in image files.",
            "heatbox.cli.locate:locate",
            resumes=True,
            select="one_or_several",
        ),
        "evaluate": Command(
            "Make maps of a data set and score them against its boxes or masks.",
            "heatbox.cli.evaluate:evaluate",
            resumes=True,
            select="evaluate_or_rescore",
        ),
        "score": Command("Score heatmaps that any tool made.", "heatbox.cli.score:score", resumes=True),
        "faithfulness": Command(
            "Measure how the score of a class changes when pixels are removed by the order of its map.",
            "heatbox.cli.faithfulness:faithfulness",
            resumes=True,
        ),
    },
    "training": {
        "train": Command(
            "Train a recipe on labels alone; after an interruption, rerun the command to resume.",
            "heatbox.cli.train:train_command",
            resumes=True,
            select="pick_recipe",
        ),
        "recipes": Command(
            "List the recipes, their initial weights, and the scores that the paper reports.",
            "heatbox.cli.train:recipes",
        ),
    },
    "reading results": {
        "report": Command(
            "Write a page about one or more runs: scores, figures, an explorer of images and thresholds.",
            "heatbox.cli.report:report",
        ),
        "compare": Command("Compare two runs on the same images.", "heatbox.cli.compare:compare"),
        "calibrate": Command(
            "Calibrate the boxes of a run with the boxes of some of its images.",
            "heatbox.cli.calibrate:calibrate",
        ),
        "export": Command("Export the boxes and maps of a run for other tools.", "heatbox.cli.export:export"),
        "analyze": Command(
            "Analyze why a backbone localizes well or badly: one instrument, or all, over several models.",
            "heatbox.cli.analyze:ANALYZE_COMMANDS",
            resumes=True,
        ),
        "paper": Command(
            "Reproduce every table and figure of the paper.", "heatbox.cli.paper:paper", resumes=True
        ),
    },
    "data and models": {
        "data": Command(
            "Check, prepare and list data sets.",
            "heatbox.cli.data:DATA_COMMANDS",
            resumes=True,
        ),
        "models": Command(
            "List the models that can be built by name, their cost and the released weights that fit.",
            "heatbox.cli.models:models",
        ),
        "convert": Command(
            "Convert a released checkpoint to safetensors under the names of heatbox's models.",
            "heatbox.cli.models:convert",
        ),
        "completion": Command(
            "Print a script that completes commands and options in your shell.",
            "heatbox.cli.completion:completion",
        ),
    },
}
SHARING, OWN_PROCESSES = ("analyze", "evaluate", "faithfulness", "label", "locate"), ("train",)
"""Commands whose images processes of torchrun or srun share, and commands that start a group of their own."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

DESCRIPTION = "Weakly supervised object localization: from image-level labels to boxes."
EPILOG = "heatbox COMMAND --help shows options and examples. Every command takes -v for a log."
USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: some inputs were skipped; 2: invalid input, reported in one sentence; 130: interrupted;
    141: the reader of a pipe closed it. A bug keeps its traceback.
    """
    try:
        code = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as with `heatbox models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return BROKEN_PIPE


def _main(args: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        _replace_unencodable(stream)
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    if args[:1] == ["--"]:  # after which torchrun takes no option for one of its own
        args = args[1:]
    verbose = args[:1] in (["-v"], ["--verbose"])
    name, *rest = args[verbose:] or [""]
    try:
        return _dispatch(name, rest, verbose)
    except InputError as error:
        _print_error(f"heatbox: {_own_number()}{error}")
        return USER_ERROR
    except UnreachableError as error:
        _print_error(f"heatbox: {_own_number()}{error}{_resume_hint(name)}")
        return USER_ERROR
    except OSError as error:  # of a file or folder that was named, or of a failing disk
        if error.filename is None:
            raise
        _print_error(f"heatbox: {error.filename}: {error.strerror}")
        return USER_ERROR
    except KeyboardInterrupt:
        _print_error(f"heatbox: interrupted{_resume_hint(name)}")
        return INTERRUPTED


def _resume_hint(name: str) -> str:
    resumes = name in COMMANDS and COMMANDS[name].resumes
    return "; completed work is kept, rerun the command to resume" if resumes else ""


def _own_number() -> str:
    """Which process reports an error, where that is not the first."""
    from heatbox._utils import processes

    return "" if processes.is_first() else f"process {processes.rank() + 1} of {processes.count()}: "


def _dispatch(name: str, args: Sequence[str], verbose: bool) -> int:
    """Find the function of a command, parse its arguments, call it."""
    if not name:
        _print_error(overview(_columns()))
        return USER_ERROR
    if name in ("-h", "--help"):
        _print_and_exit(overview(_columns()))
    if name == "--version":
        from heatbox import __version__

        _print_and_exit(f"heatbox {__version__}")
    from heatbox._utils.devices import configure_process

    configure_process()
    _join_processes(name)
    target, prog = load(name), f"heatbox {name}"
    if isinstance(target, Mapping):
        if not args:
            _print_error(_subcommands(name, target))
            return USER_ERROR
        target, prog, args = _select_subcommand(name, target, args), f"{prog} {args[0]}", args[1:]
    elif COMMANDS[name].select:
        target, prog, args = load(name, COMMANDS[name].select)(args)
    from heatbox.cli.parsing import parse
    from heatbox.cli.terminal import logged, notes_of_warnings

    call, more = parse(target, args, prog)
    with logged(verbose or more, f"{prog} {' '.join(args)}"), notes_of_warnings():
        return call() or 0


def _join_processes(name: str) -> None:
    """Share the work of a command with the other processes of torchrun or srun, if there are any.

    Raises:
        InputError: the command does not share its work.
    """
    from heatbox._utils import processes

    if processes.started()[1] == 1 or name in OWN_PROCESSES:
        return
    if name not in SHARING:
        others = ", ".join([*SHARING, *OWN_PROCESSES])
        raise InputError(f"heatbox {name} runs in one process; those that run in several are {others}")
    processes.join()


def load(name: str, attribute: str = "") -> Any:
    """The function of a command, or the dictionary of functions of a command with subcommands.

    Args:
        name: the command.
        attribute: another attribute of the command's module, instead of the one that the table names.

    Raises:
        InputError: there is no such command; the message suggests similar ones.
    """
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise InputError(f"there is no command {name!r}{hint}; heatbox --help lists all commands")
    module, _, default = COMMANDS[name].home.partition(":")
    return getattr(importlib.import_module(module), attribute or default)


def overview(width: int) -> str:
    """The list of commands, wrapped to a number of columns."""
    groups = {
        title: {name: command.summary for name, command in group.items()} for title, group in GROUPS.items()
    }
    return _listing("heatbox COMMAND", DESCRIPTION, groups, EPILOG, width)


# ------------------------------------------------------------------------------------------- subcommands


def _select_subcommand(
    name: str, commands: Mapping[str, Callable[..., Any]], args: Sequence[str]
) -> Callable[..., Any]:
    """The function that a command with subcommands, such as `heatbox data ACTION`, names."""
    if args[0] in ("-h", "--help"):
        _print_and_exit(_subcommands(name, commands))
    if args[0] not in commands:
        raise InputError(f"heatbox {name} has no command {args[0]!r}, expected {', '.join(commands)}")
    return commands[args[0]]


def _subcommands(name: str, commands: Mapping[str, Callable[..., Any]]) -> str:
    summaries = {one: (function.__doc__ or "").split("\n\n")[0] for one, function in commands.items()}
    usage = f"heatbox {name} COMMAND"
    groups, epilog = {"commands": summaries}, f"{usage} --help shows options and examples."
    return _listing(usage, COMMANDS[name].summary, groups, epilog, _columns())


# ---------------------------------------------------------------------------------------------- printing


def _listing(
    usage: str, description: str, groups: Mapping[str, Mapping[str, str]], epilog: str, width: int
) -> str:
    """Commands with their summaries, wrapped; in a narrow terminal a summary gets its own lines."""
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
    return "\n".join([*lines, "", *textwrap.wrap(epilog, width)])


def _columns() -> int:
    """Width to wrap to: the terminal's, between 20 and 100 columns."""
    return min(max(shutil.get_terminal_size().columns - 1, 20), 100)


def _print_and_exit(text: str) -> None:
    print(text, flush=True)
    raise SystemExit(0)


def _print_error(text: str) -> None:
    from heatbox._utils.progress import printable

    print(printable(text), file=sys.stderr)


def _replace_unencodable(stream: Any) -> None:
    """Print characters that the terminal's encoding lacks as question marks, instead of raising."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
    if encoding != "utf8" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
