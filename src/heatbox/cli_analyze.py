"""The commands of `heatbox analyze`: one instrument each, and all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from heatbox.files import folder_name
from heatbox.instruments.config import (
    AllConfig,
    ChannelsConfig,
    ComplexityConfig,
    ErfConfig,
    MapsConfig,
    ModelsConfig,
    ShapeBiasConfig,
)
from heatbox.terminal import AsJson, print_table, say

if TYPE_CHECKING:
    from heatbox.instruments.compare import Analysis

Plain = tyro.conf.arg(name="")


def analyze_erf(
    config: Annotated[ErfConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Effective receptive fields: how much of the input the middle of the feature map really sees.

    Heatmaps with the squares that hold a share t, the curve r(t) and the area under it, with and without
    the logarithm, and the radius of every position. Interrupted, the same command goes on.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-erf-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("erf", config, out, overwrite, as_json, lambda analysis: analysis.erf(config))


def analyze_shape_bias(
    config: Annotated[ShapeBiasConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Shape bias on cue-conflict images, and the receptive fields of what shape or texture decided.

    For networks of ImageNet's 1000 classes, or of as many classes as the stimuli have categories.
    Interrupted, the same command goes on.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-shape-bias-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("shape-bias", config, out, overwrite, as_json, lambda analysis: analysis.shape_bias(config))


def analyze_responses(tables: tyro.conf.Positional[tuple[Path, ...]], as_json: AsJson = False) -> None:
    """Shape bias from tables of answers: CSV with image, shape, texture, response, or the published raw data.

    A table with a column of observers (model or subj) gives a line each, and one for all of them pooled.

    Args:
        tables: The files.
        as_json: Print JSON instead of a table.
    """
    from heatbox.analysis.responses import by_observer, read_responses
    from heatbox.analysis.shape_bias import from_responses
    from heatbox.instruments.shape_bias import numbers_of_bias
    from heatbox.report.tables import bias_table
    from heatbox.store import to_json

    answers = [answer for table in tables for answer in read_responses(table)]
    groups = by_observer(answers)
    found = {name or "all": numbers_of_bias(from_responses(group)) for name, group in groups.items()}
    if len(groups) > 1:
        found["all pooled"] = numbers_of_bias(from_responses(answers))
    if as_json:
        print(to_json(found))
    else:
        print_table(bias_table(found))


def analyze_activation(
    config: Annotated[ChannelsConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Activation area of channels against their class weight.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-activation-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("activation", config, out, overwrite, as_json, lambda a: a.channels(config, weights=False))


def analyze_class_weights(
    config: Annotated[ChannelsConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Spatial mean of channels against their class weight, with a randomly initialised head as control.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-class-weights-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("class-weights", config, out, overwrite, as_json, lambda a: a.channels(config, areas=False))


def analyze_complexity(
    config: Annotated[ComplexityConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Complexity of feature maps: explained variance of a PCA, and dictionaries.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-complexity-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("complexity", config, out, overwrite, as_json, lambda analysis: analysis.complexity(config))


def analyze_signed_cam(
    config: Annotated[MapsConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """CAM from channels of positive weight, of negative weight, and of all: scores, areas, pictures.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-signed-cam-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("signed-cam", config, out, overwrite, as_json, lambda a: a.maps(config, thresholds=False))


def analyze_thresholds(
    config: Annotated[MapsConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Score of CAM and PC1 at every threshold, and the best one.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-thresholds-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    _run("thresholds", config, out, overwrite, as_json, lambda a: a.maps(config, signed=False))


def analyze_all(
    config: Annotated[AllConfig, Plain],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Every instrument over one or more networks, and a comparison. Interrupted, the same command goes on.

    Args:
        config: What to measure.
        out: The folder; by default runs/analyze-all-MODEL.
        overwrite: Measure anew.
        as_json: Print the headline numbers as JSON instead of a table.
    """
    if not config.stimuli:
        say("note: no --stimuli were given, so the shape bias is left out")
    _run("all", config, out, overwrite, as_json, lambda analysis: analysis.all(config))


ANALYZE_COMMANDS = {
    "erf": analyze_erf,
    "shape-bias": analyze_shape_bias,
    "responses": analyze_responses,
    "activation": analyze_activation,
    "class-weights": analyze_class_weights,
    "complexity": analyze_complexity,
    "signed-cam": analyze_signed_cam,
    "thresholds": analyze_thresholds,
    "all": analyze_all,
}


def _run(
    name: str,
    config: ModelsConfig,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    measure: Callable[[Analysis], list[Path]],
) -> None:
    """Measure, then print the headline numbers and where the figures are."""
    from heatbox.instruments.compare import Analysis, as_rows
    from heatbox.progress import on_terminal
    from heatbox.report.tables import comparison_table
    from heatbox.store import to_json

    words = "-".join(Path(model).name or model for model in config.model)
    analysis = Analysis(
        config, out or Path("runs") / folder_name(f"analyze-{name}-{words}"), on_terminal, overwrite
    )
    figures: list[Any] = [path for path in measure(analysis) if path.suffix == ".png"]
    rows = analysis.compare()
    if as_json:
        print(to_json(rows))
    else:
        print_table(comparison_table(as_rows(rows), f"{name}: {', '.join(row['model'] for row in rows)}"))
    for path in figures:
        say(f"figure: {path}")
    say(f"run: {analysis.out}")
