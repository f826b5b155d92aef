"""The commands about networks and their weights: models, convert."""

from __future__ import annotations

from pathlib import Path

import tyro

from heatbox.cli.terminal import AsJson, print_json, print_table, say


def models(as_json: AsJson = False) -> None:
    """What can be built by name, at what cost, and which released weights fit.

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
    """Turn a released checkpoint into safetensors under our names.

    What is known of it (model, classes, preprocessing) is written as the file's metadata.

    Args:
        source: A .pth, .pt or .safetensors file, or hf-hub:owner/name.
        out: The .safetensors file to write.
        entry: Which of several sets of weights to take from the file, such as model_ema.
        half: Store float16 instead of float32.

    Examples:
        heatbox convert replknet_31B1K384_CUB.pth --out replknet_cub.safetensors
    """
    from heatbox.models.checkpoints import convert_checkpoint

    report = convert_checkpoint(source, out, entry=entry, half=half)
    say(f"{out}: {report.model or 'no model of ours'}, {report.num_classes} classes")
