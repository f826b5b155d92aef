"""The command `heatbox completion`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Literal

import tyro

from heatbox.cli.main import COMMANDS, load
from heatbox.cli.parsing import one_of, run_parser
from heatbox.cli.train import finetune
from heatbox.training.config import FINETUNE
from heatbox.training.recipes import RECIPES

UNSAID = re.compile(r"(?<=['\"])[^'\"•]* • |\(default: [^()'\"\\]*\)| \(required\)")
"""What descriptions say beside the text; fish takes a script as one argument, of 128 KiB at most."""

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: tyro.conf.Positional[Shell]) -> None:
    """Print a script that completes commands and options in your shell.

    Args:
        shell: The shell that reads the script.

    Examples:
        heatbox completion bash > ~/.local/share/bash-completion/completions/heatbox
        heatbox completion zsh > ~/.zfunc/_heatbox
        heatbox completion fish > ~/.config/fish/completions/heatbox.fish
    """
    functions = {name: load(name) for name in COMMANDS}
    # Recipes complete by name only: with their sixty settings each, the script would exceed a megabyte.
    recipes: dict[str, Callable[..., object]] = {FINETUNE: finetune, **RECIPES}
    functions["train"] = {name: _without_settings(make) for name, make in recipes.items()}
    script = StringIO()
    with redirect_stdout(script), suppress(SystemExit):
        run_parser(one_of(functions), brief=True, prog="heatbox", args=["--tyro-print-completion", shell])
    print(UNSAID.sub("", script.getvalue()), end="")


def _without_settings(recipe: Callable[..., object]) -> Callable[[], None]:
    """A command without options that is documented like a recipe, which may be a `functools.partial`."""

    def train() -> None: ...

    train.__doc__ = getattr(recipe, "func", recipe).__doc__
    return train
