"""Command-line arguments to a call of a command's function, by tyro."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

Verbose = Annotated[
    bool,
    tyro.conf.arg(aliases=["-v"], help="Log versions, device, files and times to standard error."),
]
SETTINGS = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
FIELDS = {
    "model": tyro.conf.arg(aliases=["-m"]),
    "data": tyro.conf.arg(aliases=["-d"]),
    "model_options": tyro.conf.Suppress,
    "recipe": tyro.conf.Suppress,
    "pretrained_source": tyro.conf.Suppress,
}
"""Short options and hidden fields of the configurations, which do not depend on the parser."""

NUMBERS = ("--mean", "--std")
"""Options that take any number of numbers."""

FIRST = ("model", "checkpoint")
"""Fields that are listed before the others, whichever class they are inherited from."""


def parse(
    function: Callable[..., int | None], args: Sequence[str], prog: str
) -> tuple[Callable[[], int | None], bool]:
    """The call that arguments request, and whether they request a log; nothing is run.

    Raises:
        SystemExit: help was requested (0), or the arguments are invalid (2); tyro has printed why.
    """
    args = files_first(args)
    return run_parser(with_verbose(function), args=args, prog=prog, description=description(function))


def files_first(args: Sequence[str]) -> list[str]:
    """Arguments in which no file follows the numbers of an option that takes several of them.

    >>> files_first(["--mean", "0.5", "0.4", "0.3", "cat.jpg", "--size", "64"])
    ['cat.jpg', '--mean', '0.5', '0.4', '0.3', '--size', '64']
    """
    files: list[str] = []
    others: list[str] = []
    state = ""
    for arg in args:
        if arg in NUMBERS:
            state = "numbers"
        elif arg.startswith("-") and not _is_number(arg):
            state = ""
        elif state and not _is_number(arg):
            state = "files"
        (files if state == "files" else others).append(arg)
    return files + others


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def run_parser(target: Any, brief: bool = False, **options: Any) -> Any:
    """`tyro.cli` with the settings of all commands and the markers of `FIELDS`.

    Args:
        target: the function, or the union of commands.
        brief: whether options are described by the first clause of their documentation.
        options: of `tyro.cli`.
    """
    with _registry(brief):
        return tyro.cli(target, config=SETTINGS, **options)


def _registry(brief: bool) -> ConstructorRegistry:
    """Rules of tyro that put the markers of `FIELDS` on the fields of every dataclass."""
    registry, active = ConstructorRegistry(), set[Any]()

    @registry.struct_rule
    def mark_fields(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type) or info.type in active:
            return None
        active.add(info.type)  # so that the rule below this one answers
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            active.remove(info.type)
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = sorted(map(_marked, spec.fields), key=lambda field: field.name not in FIRST)
        fields = list(map(_briefly, fields)) if brief else fields
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


def _marked(field: StructFieldSpec) -> StructFieldSpec:
    if field.name not in FIELDS:
        return field
    return dataclasses.replace(field, type=Annotated[field.type, FIELDS[field.name]])  # type: ignore[arg-type]


def _briefly(field: StructFieldSpec) -> StructFieldSpec:
    text = field.helptext() if callable(field.helptext) else field.helptext
    first = re.split(r"(?<=[.;:])\s|\s\(", text or "", maxsplit=1)[0].rstrip(";:")
    return dataclasses.replace(field, helptext=first)


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


def for_networks(function: Callable[..., int | None], config: type) -> Callable[..., int | None]:
    """A command whose configuration is that of several networks.

    Args:
        function: the command of one network, which has a parameter `config`.
        config: the dataclass in place of its configuration.
    """

    @functools.wraps(function)
    def command(*given: Any, **settings: Any) -> int | None:
        return function(*given, **settings)

    hints = get_type_hints(function, include_extras=True)
    command.__annotations__ = hints | {"config": Annotated[config, tyro.conf.arg(name="")]}
    return command


def names_networks(args: Sequence[str], after_files: bool = False) -> bool:
    """Whether arguments name several networks: --model with several values.

    Args:
        args: the arguments.
        after_files: whether files come first; after options, what follows the model is then a file.

    >>> names_networks(["photos/", "--model", "resnet18", "resnet50"])
    True
    >>> names_networks(["photos/", "--model=resnet18", "resnet50"])
    True
    >>> names_networks(["--model", "resnet18", "--size", "64", "photos/"])
    False
    """
    if after_files and (not args or args[0].startswith("-")):
        return False
    return bool(re.search(r"(?:^|\0)(?:--model|-m)[\0=][^-\0][^\0]*\0[^-\0]", "\0".join(args)))


def apart(args: Sequence[str]) -> list[str]:
    """Arguments in which names of networks and their values stand apart, so that more values can follow.

    >>> apart(["--model=resnet18", "resnet50", "--size=64"])
    ['--model', 'resnet18', 'resnet50', '--size=64']
    """
    joined = re.compile(r"(-m|--(?:model|checkpoint|foreground))=(.+)", re.DOTALL)
    found = [(joined.fullmatch(arg), arg) for arg in args]
    return [part for match, arg in found for part in (match.groups() if match else (arg,))]


def description(function: Callable[..., Any]) -> str:
    """The head of --help: the documentation up to its arguments, and its examples."""
    text = inspect.getdoc(function) or ""
    before, _, rest = text.partition("\nArgs:\n")
    return before.strip() + (
        "\n\n" + rest[rest.index("Examples:") :].strip() if "\nExamples:\n" in rest else ""
    )


def examples(function: Callable[..., Any]) -> list[str]:
    """The command lines in a command's documentation."""
    lines = (inspect.getdoc(function) or "").splitlines()
    return [line.strip() for line in lines if line.startswith("    heatbox ")]


def one_of(commands: Mapping[str, Any]) -> Any:
    """A union type with one member for each command, as tyro expects it."""
    members = [
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=_constructor(target))]
        for name, target in commands.items()
    ]
    return Union[tuple(members)]  # noqa: UP007 - built at run time


def _constructor(target: Any) -> Callable[..., Any]:
    if not isinstance(target, Mapping):
        return with_verbose(target)

    def group(command: Any) -> Any:
        return command

    group.__annotations__["command"] = one_of(target)
    return group
