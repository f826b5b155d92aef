"""The command `heatbox faithfulness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from heatbox._utils.io import folder_name
from heatbox.cli.terminal import (
    SOME_FAILED,
    AsJson,
    print_json,
    print_table,
    say,
    warn_of_random_weights,
)
from heatbox.config import FaithfulnessConfig
from heatbox.data.files.remote import shown


def faithfulness(
    config: Annotated[FaithfulnessConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Measure how the score of a class changes when pixels are removed by the order of its map.

    Needs labels, or --target predicted, and no boxes. Writes a run folder and prints a table with the paired
    differences between maps. After an interruption, rerun the command to resume.

    Args:
        config: What to measure.
        out: The run folder; by default runs/faithfulness-MODEL-DATA.
        overwrite: Replace an earlier run in the folder.
        as_json: Print the scores as JSON instead of a table.

    Examples:
        heatbox faithfulness --model resnet50 --checkpoint pretrained --data photos/ --method cam walk gradcam
        heatbox faithfulness --model resnet50 --checkpoint pretrained --data photos/ --measure road
    """
    from heatbox._utils.progress import on_terminal, printable
    from heatbox.evaluation.faithfulness import measure_faithfulness
    from heatbox.evaluation.run import Run
    from heatbox.visualization.tables import difference_lines, faithfulness_table

    warn_of_random_weights(config.model, config.checkpoint)
    run = Run(out or Path("runs") / folder_name(f"faithfulness-{config.model}-{shown(config.data)}"))
    found = measure_faithfulness(config, run, on_terminal, overwrite)
    if as_json:
        print_json(found)
    else:
        print_table(faithfulness_table(found, f"{config.model} on {shown(config.data)}"))
        for line in difference_lines(found):
            print(printable(line))
    say(f"run: {run.folder}")
    return SOME_FAILED if "left_out" in found else 0
