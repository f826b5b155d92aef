"""The command `heatbox completion`."""

from __future__ import annotations

from typing import Literal

import tyro

from heatbox.cli.main import flat, load
from heatbox.cli.parsing import SETTINGS, one_of
from heatbox.training.recipes import RECIPES

Shell = Literal["bash", "zsh", "fish", "tcsh"]


def completion(shell: tyro.conf.Positional[Shell]) -> None:
    """A script that completes commands and options in your shell.

    Args:
        shell: The shell that is to read the script.

    Examples:
        heatbox completion bash > ~/.local/share/bash-completion/completions/heatbox
        heatbox completion zsh > ~/.zfunc/_heatbox
        heatbox completion fish > ~/.config/fish/completions/heatbox.fish
    """
    functions = {name: load(name) for name in flat()}
    # Recipes complete by name, without their sixty settings each: a shell takes no script of a megabyte.
    functions["train"] = RECIPES
    tyro.cli(one_of(functions), prog="heatbox", args=["--tyro-print-completion", shell], config=SETTINGS)
