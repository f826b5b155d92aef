"""Arguments → a call of a command's function, by tyro."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_type_hints

import tyro

Verbose = Annotated[
    bool,
    tyro.conf.arg(aliases=["-v"], help="Log what is done to standard error: versions, device, files, times."),
]
SETTINGS = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(
    function: Callable[..., int | None], args: Sequence[str], prog: str
) -> tuple[Callable[[], int | None], bool]:
    """The call that arguments ask for, and whether they ask for a log; nothing is run.

    Raises:
        SystemExit: help was asked for (0), or the arguments do not fit (2); tyro has said so.
    """
    call: tuple[Callable[[], int | None], bool] = tyro.cli(
        with_verbose(function), prog=prog, description=described(function), args=args, config=SETTINGS
    )
    return call


def with_verbose(function: Callable[..., int | None]) -> Callable[..., Any]:
    """A function of the same arguments and --verbose that returns the call instead of making it."""

    def bound(*given: Any, verbose: bool = False, **settings: Any) -> tuple[Callable[[], int | None], bool]:
        return functools.partial(function, *given, **settings), verbose

    signature = inspect.signature(function)
    verbose = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    bound.__signature__ = signature.replace(parameters=[*signature.parameters.values(), verbose])  # type: ignore[attr-defined]
    bound.__annotations__ = {**get_type_hints(function, include_extras=True), "verbose": Verbose}
    bound.__doc__ = function.__doc__
    return bound


def described(function: Callable[..., Any]) -> str:
    """What --help says first: the documentation up to its arguments, the examples included."""
    text = inspect.getdoc(function) or ""
    before, _, rest = text.partition("\nArgs:\n")
    return before.strip() + (
        "\n\n" + rest[rest.index("Examples:") :].strip() if "\nExamples:\n" in rest else ""
    )


def examples(function: Callable[..., Any]) -> list[str]:
    """The command lines that a command's documentation shows."""
    lines = (inspect.getdoc(function) or "").splitlines()
    return [line.strip() for line in lines if line.startswith("    heatbox ")]


def one_of(commands: Mapping[str, Any]) -> Any:
    """The type of which one of the commands is an instance, as tyro wants it."""
    members = [
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=_constructor(target))]
        for name, target in commands.items()
    ]
    return Union[tuple(members)]  # noqa: UP007 - made at run time


def _constructor(target: Any) -> Callable[..., Any]:
    if not isinstance(target, Mapping):
        return with_verbose(target)

    def group(command: Any) -> Any:
        return command

    group.__annotations__["command"] = one_of(target)
    return group
