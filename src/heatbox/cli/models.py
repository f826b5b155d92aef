"""The commands models and convert."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import AsJson, print_json, print_table, say


def models(as_json: AsJson = False) -> None:
    """List the models that can be built by name, their cost and the released weights that fit.

    Args:
        as_json: Print JSON instead of a table.

    Examples:
        heatbox models
        heatbox models --json | jq -r '.[].name'
    """
    from heatbox.models.zoo import model_info

    rows = model_info()
    if as_json:
        print_json(rows)
    else:
        from heatbox.visualization.tables import model_table

        print_table(model_table(rows))


def convert(
    source: tyro.conf.Positional[str], out: Path, entry: str | None = None, half: bool = False
) -> None:
    """Convert a released checkpoint to safetensors under the names of heatbox's models.

    Model, number of classes and preprocessing, as far as known, are written to the metadata of the file.

    Args:
        source: A .pth, .pt or .safetensors file, or hf-hub:owner/name.
        out: The .safetensors file to write.
        entry: Which of several sets of weights to read from the file, such as model_ema.
        half: Store float16 instead of float32.

    Examples:
        heatbox convert replknet_31B1K384_CUB.pth --out replknet_cub.safetensors
    """
    from heatbox.models.checkpoints import convert_checkpoint

    report = convert_checkpoint(source, out, entry=entry, half=half)
    say(f"{out}: {report.model or 'not a model of the zoo'}, {report.num_classes} classes")
