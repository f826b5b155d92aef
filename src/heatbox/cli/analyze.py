"""The commands of `heatbox analyze`: one per instrument, all of them, and tables of responses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from heatbox._utils.io import folder_name
from heatbox.analysis.config import INSTRUMENTS, AllConfig, ModelsConfig
from heatbox.cli.terminal import AsJson, print_json, print_table, say

ALL = "all"
_DOCUMENTATION = """{summary}

Args:
    config: What to measure.
    out: The folder; by default runs/analyze-{name}-MODEL.
    overwrite: Measure again.
    as_json: Print the headline numbers as JSON instead of a table.

Examples:
    heatbox analyze {name} --model resnet50 convnext_tiny --checkpoint pretrained pretrained {example}
"""


def _command(name: str, config_class: type[ModelsConfig], summary: str, example: str) -> Callable[..., None]:
    """The function behind `heatbox analyze NAME`."""

    def analyze(
        config: Any, out: Path | None = None, overwrite: bool = False, as_json: AsJson = False
    ) -> None:
        from heatbox._utils.progress import on_terminal
        from heatbox.analysis.runner import Analysis
        from heatbox.visualization.tables import comparison_table

        if name == ALL and not config.stimuli:
            say("note: no --stimuli were given, so the shape bias is left out")
        models = "-".join(Path(model).name or model for model in config.model)
        out = out or Path("runs") / folder_name(f"analyze-{name}-{models}")
        analysis = Analysis(config, out, on_terminal, overwrite)
        figures = analysis.run(*([] if name == ALL else [name]))
        rows = analysis.compare()
        if as_json:
            print_json(rows)
        else:
            shown = [{key: row[key] for key in row if not key.endswith("_interval")} for row in rows]
            print_table(comparison_table(shown, f"{name}: {', '.join(row['model'] for row in rows)}"))
        for path in figures:
            if path.suffix == ".png":
                say(f"figure: {path}")
        say(f"run: {out}")

    analyze.__annotations__["config"] = Annotated[config_class, tyro.conf.arg(name="")]
    analyze.__doc__ = _DOCUMENTATION.format(name=name, summary=summary, example=example)
    return analyze


def responses(tables: tyro.conf.Positional[tuple[Path, ...]], as_json: AsJson = False) -> None:
    """Shape bias from tables of responses: CSV with image, shape, texture, response, or the published data.

    A table with a column of observers (model or subj) gives a row for each of them, and one for all pooled.

    Args:
        tables: The CSV files.
        as_json: Print JSON instead of a table.

    Examples:
        heatbox analyze responses answers.csv
    """
    from heatbox._utils import processes
    from heatbox.analysis.shape_bias import by_observer, from_responses, numbers_of, read_responses
    from heatbox.visualization.tables import bias_table

    processes.only_first_goes_on()  # there are no images to share
    rows = [row for table in tables for row in read_responses(table)]
    groups = by_observer(rows)
    found = {name or "all": numbers_of(from_responses(group)) for name, group in groups.items()}
    if len(groups) > 1:
        found["all pooled"] = numbers_of(from_responses(rows))
    if as_json:
        print_json(found)
    else:
        print_table(bias_table(found))


ANALYZE_COMMANDS: dict[str, Callable[..., None]] = {
    **{name: _command(name, one.config, one.summary, one.example) for name, one in INSTRUMENTS.items()},
    ALL: _command(
        ALL,
        AllConfig,
        """Every instrument over one or more models, and a comparison.

Rerun the command to resume an interrupted measurement.""",
        "--data CUB/test --stimuli cue-conflict/",
    ),
    "responses": responses,
}
