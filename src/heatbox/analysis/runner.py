"""Run instruments over several networks, draw their figures side by side, and sum them up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heatbox._utils.extras import require
from heatbox._utils.io import holds_only, to_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.analysis import channels_measure as channels
from heatbox.analysis import complexity_measure as complexity
from heatbox.analysis import erf
from heatbox.analysis import shape_bias_measure as shape_bias
from heatbox.analysis import signed_cam as maps
from heatbox.analysis.config import (
    AllConfig,
    ChannelsConfig,
    ComplexityConfig,
    DataConfig,
    ErfConfig,
    MapsConfig,
    ModelsConfig,
    ShapeBiasConfig,
)
from heatbox.analysis.subjects import Subject, check_labels, images_of, subjects_of
from heatbox.data.open import open_split
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import ENVIRONMENT, environment
from heatbox.visualization.figures.scores import ModelScore, headline_numbers, score_against_erf
from heatbox.visualization.figures.style import save_figure

ANALYSIS, COMPARISON = "analysis.json", "comparison.json"
Numbers = dict[str, Any]


class Analysis:
    """Several networks under several instruments, and the folder that holds what they show.

    What an earlier, interrupted call measured is taken up. The folder holds ``analysis.json`` (what was
    asked), ``models/LABEL/INSTRUMENT`` (a run folder for each network and instrument), ``figures`` (PNG,
    SVG, and the numbers shown as Parquet) and ``comparison.json``.

    Args:
        config: the networks, the images and the instruments' options.
        out: the folder.
        track: how to show progress.
        overwrite: measure anew.

    Raises:
        InputError: input that cannot be used, before anything is computed.
    """

    def __init__(
        self, config: ModelsConfig, out: Path, track: Track = silent, overwrite: bool = False
    ) -> None:
        require(
            "analysis", "heatbox analyze", *(() if isinstance(config, ComplexityConfig) else ["matplotlib"])
        )
        self.config, self.out, self.track, self.overwrite = config, out, track, overwrite
        self.subjects = subjects_of(config, out)
        self.rows: list[Numbers] = [{"model": subject.label} for subject in self.subjects]
        self.split: Split | None = None
        if isinstance(config, DataConfig):
            self.split = images_of(open_split(config.data, config.metadata), config)
        if isinstance(config, MapsConfig):
            self.images.with_boxes()
        self.stimuli: Split | None = None
        if isinstance(config, ShapeBiasConfig) and config.stimuli:
            self.stimuli = shape_bias.open_stimuli(config.stimuli)
        self._begin()

    @property
    def images(self) -> Split:
        """The images that are measured."""
        assert self.split is not None
        return self.split

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.out / "figures"

    def _begin(self) -> None:
        """Write what was asked."""
        try:
            begun = (self.out / ANALYSIS).exists() or not self.out.is_dir()
            if not begun and not holds_only(self.out, self.figures.name):
                raise InputError(f"{self.out}: is not empty and holds no analysis; choose another --out")
            self.figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.out}: could not be made the folder of an analysis ({error})") from error
        write_atomically(self.out / ANALYSIS, (to_json(self.config) + "\n").encode())
        write_atomically(self.out / ENVIRONMENT, (to_json(environment(self.config.seed)) + "\n").encode())

    def _found(
        self, measure: Callable[[Subject], Numbers], headline: Callable[[Numbers], Numbers]
    ) -> dict[str, Numbers]:
        """Numbers of each network as they are read back from JSON; headlines go into the comparison."""
        found = {}
        for subject, row in zip(self.subjects, self.rows, strict=True):
            found[subject.label] = json.loads(to_json(measure(subject)))
            row |= headline(found[subject.label])
            if len(self.subjects) > 1:
                subject.release()  # large networks do not fit side by side
        return found

    # -------------------------------------------------------------------------------------- instruments

    def erf(self, config: ErfConfig) -> list[Path]:
        """Effective receptive fields."""

        def measure(one: Subject) -> Numbers:
            return erf.measure(one, self.images, config, self.overwrite, self.track)

        return erf.draw(self.subjects, self._found(measure, erf.headline), self.figures)

    def shape_bias(self, config: ShapeBiasConfig) -> list[Path]:
        """Shape bias, and the receptive fields of groups."""
        assert self.stimuli is not None
        stimuli = self.stimuli

        def measure(one: Subject) -> Numbers:
            return shape_bias.measure(one, stimuli, config, self.overwrite, self.track)

        found = self._found(measure, shape_bias.headline)
        return shape_bias.draw(found, self.figures, shape_bias.are_published(self.stimuli))

    def channels(self, config: ChannelsConfig, areas: bool = True, weights: bool = True) -> list[Path]:
        """Activation areas, spatial means and class weights."""
        check_labels(self.subjects, self.images, config)

        def measure(one: Subject) -> Numbers:
            return channels.measure(one, self.images, config, self.overwrite, self.track)

        found = self._found(measure, channels.headline)
        written = channels.draw_areas(found, self.figures, config) if areas else []
        return written + (channels.draw_weights(found, self.figures) if weights else [])

    def complexity(self, config: ComplexityConfig) -> list[Path]:
        """Explained variance and dictionary learning."""
        grid = complexity.common_grid(self.subjects, config)

        def measure(one: Subject) -> Numbers:
            return complexity.measure(one, self.images, config, grid, self.overwrite, self.track)

        return complexity.draw(self._found(measure, complexity.headline), self.figures)

    def maps(self, config: MapsConfig, signed: bool = True, thresholds: bool = True) -> list[Path]:
        """Maps from positive and negative weights; thresholds."""
        check_labels(self.subjects, self.images, config)

        def measure(one: Subject) -> Numbers:
            return maps.measure(one, self.images, config, self.overwrite, self.track)

        found = self._found(measure, maps.headline)
        written = maps.draw_thresholds(found, self.figures) if thresholds else []
        if signed:
            written += maps.draw_signed(self.subjects, found, self.images, self.figures, config.examples)
        return written

    def all(self, config: AllConfig) -> list[Path]:
        """Every instrument, the quick ones first; the shape bias where there are stimuli."""
        written = self.maps(config) + self.channels(config) + self.complexity(config)
        if self.stimuli is not None:
            written += self.shape_bias(config)
        return written + self.erf(config)

    def compare(self) -> list[Numbers]:
        """Write comparison.json and its figures; returns a row a network."""
        rows = json.loads(to_json(self.rows))
        write_atomically(self.out / COMPARISON, (to_json({"models": rows}) + "\n").encode())
        if len(rows) > 1:
            save_figure(headline_numbers(rows), self.figures / "comparison")
        if all("erf_auc" in row and "cam_MaxBoxAccV2" in row for row in rows):
            models = [
                ModelScore(row["model"], {"cam": _scores_of(row, "cam")}, row["model"], auc=row["erf_auc"])
                for row in rows
            ]
            save_figure(score_against_erf(models), self.figures / "score-against-erf")
        return rows


def _scores_of(row: Numbers, method: str) -> Numbers:
    """The scores of a map among the headline numbers, under the names of metrics.json."""
    start = f"{method}_"
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}


def as_rows(rows: Sequence[Numbers]) -> list[Numbers]:
    """Rows without the intervals, for a table."""
    return [{key: value for key, value in row.items() if not key.endswith("_interval")} for row in rows]
