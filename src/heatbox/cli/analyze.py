"""The commands of `heatbox analyze`: one instrument each, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from heatbox._utils.io import folder_name
from heatbox.analysis.config import (
    AllConfig,
    ChannelsConfig,
    ComplexityConfig,
    ErfConfig,
    MapsConfig,
    ModelsConfig,
    ShapeBiasConfig,
)
from heatbox.cli.terminal import AsJson, print_json, print_table, say

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis


@dataclass(frozen=True)
class Instrument:
    """One instrument as a command.

    Attributes:
        config: the class of what it is asked to do.
        measure: analysis and config → the figures it drew.
        says: what its help says.
        example: further options of the example in its help.
    """

    config: type[ModelsConfig]
    measure: Callable[[Analysis, Any], list[Path]]
    says: str
    example: str = "--data CUB/test"


INSTRUMENTS = {
    "erf": Instrument(
        ErfConfig,
        lambda analysis, config: analysis.erf(config),
        """Effective receptive fields: how much of the input the middle of the feature map really sees.

Heatmaps with the squares that hold a share t, the curve r(t) and the area under it, with and without the
logarithm, and the radius of every position. Interrupted, the same command goes on.""",
    ),
    "shape-bias": Instrument(
        ShapeBiasConfig,
        lambda analysis, config: analysis.shape_bias(config),
        """Shape bias on cue-conflict images, and the receptive fields of what shape or texture decided.

For networks of ImageNet's 1000 classes, or of as many classes as the stimuli have categories. Interrupted,
the same command goes on.""",
        "--stimuli cue-conflict/",
    ),
    "activation": Instrument(
        ChannelsConfig,
        lambda analysis, config: analysis.channels(config, weights=False),
        "Activation area of channels against their class weight.",
    ),
    "class-weights": Instrument(
        ChannelsConfig,
        lambda analysis, config: analysis.channels(config, areas=False),
        "Spatial mean of channels against their class weight, with a randomly initialised head as control.",
    ),
    "complexity": Instrument(
        ComplexityConfig,
        lambda analysis, config: analysis.complexity(config),
        "Complexity of feature maps: explained variance of a PCA, and dictionaries.",
    ),
    "signed-cam": Instrument(
        MapsConfig,
        lambda analysis, config: analysis.maps(config, thresholds=False),
        "CAM from channels of positive weight, of negative weight, and of all: scores, areas, pictures.",
    ),
    "thresholds": Instrument(
        MapsConfig,
        lambda analysis, config: analysis.maps(config, signed=False),
        "Score of CAM and PC1 at every threshold, and the best one.",
    ),
    "all": Instrument(
        AllConfig,
        lambda analysis, config: analysis.all(config),
        """Every instrument over one or more networks, and a comparison.

Interrupted, the same command goes on.""",
        "--data CUB/test --stimuli cue-conflict/",
    ),
}

_DOCUMENTATION = """{says}

Args:
    config: What to measure.
    out: The folder; by default runs/analyze-{name}-MODEL.
    overwrite: Measure anew.
    as_json: Print the headline numbers as JSON instead of a table.

Examples:
    heatbox analyze {name} --model resnet50 convnext_tiny --checkpoint pretrained pretrained {example}
"""


def _command(name: str, instrument: Instrument) -> Callable[..., None]:
    """The function behind `heatbox analyze NAME`."""

    def analyze(
        config: Any, out: Path | None = None, overwrite: bool = False, as_json: AsJson = False
    ) -> None:
        if name == "all" and not config.stimuli:
            say("note: no --stimuli were given, so the shape bias is left out")
        _run(name, config, out, overwrite, as_json, instrument)

    analyze.__annotations__["config"] = Annotated[instrument.config, tyro.conf.arg(name="")]
    analyze.__doc__ = _DOCUMENTATION.format(name=name, says=instrument.says, example=instrument.example)
    return analyze


def _run(
    name: str, config: ModelsConfig, out: Path | None, overwrite: bool, as_json: bool, instrument: Instrument
) -> None:
    """Measure, then print the headline numbers and where the figures are."""
    from heatbox._utils.progress import on_terminal
    from heatbox.analysis.runner import Analysis, as_rows
    from heatbox.visualization.tables import comparison_table

    words = "-".join(Path(model).name or model for model in config.model)
    analysis = Analysis(
        config, out or Path("runs") / folder_name(f"analyze-{name}-{words}"), on_terminal, overwrite
    )
    figures = [path for path in instrument.measure(analysis, config) if path.suffix == ".png"]
    rows = analysis.compare()
    if as_json:
        print_json(rows)
    else:
        print_table(comparison_table(as_rows(rows), f"{name}: {', '.join(row['model'] for row in rows)}"))
    for path in figures:
        say(f"figure: {path}")
    say(f"run: {analysis.out}")


def responses(tables: tyro.conf.Positional[tuple[Path, ...]], as_json: AsJson = False) -> None:
    """Shape bias from tables of answers: CSV with image, shape, texture, response, or the published raw data.

    A table with a column of observers (model or subj) gives a line each, and one for all of them pooled.

    Args:
        tables: The files.
        as_json: Print JSON instead of a table.

    Examples:
        heatbox analyze responses answers.csv
    """
    from heatbox.analysis.responses import by_observer, read_responses
    from heatbox.analysis.shape_bias import from_responses
    from heatbox.analysis.shape_bias_measure import numbers_of_bias
    from heatbox.visualization.tables import bias_table

    answers = [answer for table in tables for answer in read_responses(table)]
    groups = by_observer(answers)
    found = {name or "all": numbers_of_bias(from_responses(group)) for name, group in groups.items()}
    if len(groups) > 1:
        found["all pooled"] = numbers_of_bias(from_responses(answers))
    if as_json:
        print_json(found)
    else:
        print_table(bias_table(found))


ANALYZE_COMMANDS: dict[str, Callable[..., None]] = {
    **{name: _command(name, instrument) for name, instrument in INSTRUMENTS.items()},
    "responses": responses,
}
