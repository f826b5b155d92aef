"""Run instruments over several models, draw their figures side by side, and compare the models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from heatbox._utils import processes
from heatbox._utils.extras import require
from heatbox._utils.io import folder_name, holds_only, to_json, write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import (
    INSTRUMENTS,
    ComplexityConfig,
    DataConfig,
    MapsConfig,
    ModelsConfig,
    ShapeBiasConfig,
)
from heatbox.config import ModelOptions, ModelSpec
from heatbox.data.classes import match_classes
from heatbox.data.files.remote import shown
from heatbox.data.open import open_split
from heatbox.data.problems import require_fit
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.predict import run_inference
from heatbox.evaluation.run import ENVIRONMENT, Run, environment
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import blank_input
from heatbox.training.weights import spec_of_run
from heatbox.visualization.figures.scores import ModelScore, headline_numbers, score_against_erf
from heatbox.visualization.figures.style import save_figure

ANALYSIS, COMPARISON = "analysis.json", "comparison.json"
NO_CHECKPOINT = "none"
Numbers = dict[str, Any]
_RECORDED = (
    "num_classes",
    "size",
    "interpolation",
    "crop_pct",
    "mean",
    "std",
    "model_options",
    "output",
    "scores",
)


# -------------------------------------------------------------------------------------------- the models


@dataclass(frozen=True)
class ComparedModel:
    """One model of an analysis.

    Attributes:
        label: its name in figures and folders.
        spec: which model, with which weights and preprocessing.
        folder: where its measurements are saved.
    """

    label: str
    spec: ModelSpec
    folder: Path

    @cached_property
    def view(self) -> ClassifierView:
        """The model, built when first used."""
        return ClassifierView(self.spec.build(), self.spec.output)

    @cached_property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.view.num_classes

    @cached_property
    def class_names(self) -> Sequence[str]:
        """Names of its classes where they are known; empty where they are not."""
        return self.spec.class_names(self.view.model, self.num_classes)

    def release(self) -> None:
        """Drop the built model; it is built again when it is next used."""
        self.__dict__.pop("view", None)

    def feature_side(self) -> int:
        """Smaller side of the last feature map at the model's input size."""
        height, width = self.spec.preprocess(self.view.model).size
        with torch.inference_mode():
            return min(self.view.features(blank_input(self.view.model, height, width)).shape[2:])


def compared_models(config: ModelsConfig, out: Path) -> list[ComparedModel]:
    """The models that a configuration names; the folder of a run stands for the run's model.

    Raises:
        InputError: numbers of models, checkpoints and labels that do not match, or a folder that is no run.
    """
    if not config.model:
        raise InputError("no model was named, expected --model with one or more")
    for name, given in (("checkpoint", config.checkpoint), ("label", config.label)):
        if given and len(given) != len(config.model):
            raise InputError(
                f"there are {len(config.model)} models and {len(given)} {name}s, expected as many"
            )
    for name in ("batch_size", "size"):
        number = getattr(config, name)
        if number is not None and number < 1:
            raise InputError(f"{name.replace('_', ' ')} is {number}, expected 1 or more")
    specs = [
        _spec(model, None if checkpoint == NO_CHECKPOINT else checkpoint, config)
        for model, checkpoint in zip(
            config.model, config.checkpoint or [None] * len(config.model), strict=True
        )
    ]
    labels = list(config.label) or _unique([_name(model) for model in config.model])
    if len(set(labels)) < len(labels):
        raise InputError(f"two models have the same label among {', '.join(labels)}")
    return [
        ComparedModel(label, spec, out / "models" / folder_name(label.replace("/", "-")))
        for label, spec in zip(labels, specs, strict=True)
    ]


def _spec(model: str, checkpoint: str | None, config: ModelsConfig) -> ModelSpec:
    given = {name: getattr(config, name) for name in ModelOptions.__dataclass_fields__}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, {})}
    fields["checkpoint"] = checkpoint
    return spec_of_run(model, **fields) if Path(model).is_dir() else ModelSpec(model, **fields)


def _name(model: str) -> str:
    """The default label of a model: the folder's name, the function's, or timm's."""
    if Path(model).is_dir():
        return Path(model).resolve().name
    if model.startswith("hf:"):
        return model.removeprefix("hf:").rstrip("/").rpartition("/")[2]
    return model.rpartition(":")[2] if ".py:" in model else model


def _unique(labels: Sequence[str]) -> list[str]:
    """Labels, with a number behind each that occurred before."""
    counts: dict[str, int] = {}
    found = []
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
        found.append(label if counts[label] == 1 else f"{label}-{counts[label]}")
    return found


# -------------------------------------------------------------------------------------------- the images


def images_of(config: DataConfig) -> Split:
    """The images that are measured: all, or `limit` of them evenly spaced over the split.

    Raises:
        InputError: a data set that cannot be opened or contains no image, or a limit below 1.
    """
    split = open_split(config.data, config.metadata)
    if config.limit is not None and config.limit < 1:
        raise InputError(f"limit is {config.limit}, expected 1 or more")
    if not len(split):
        raise InputError(f"{shown(config.data)}: contains no image")
    split = evenly_spaced(split, config.limit or len(split))
    return require_fit(split, boxes=False, single=config.target == "label")


def evenly_spaced(split: Split, count: int) -> Split:
    """At most `count` examples, evenly spaced, since data sets are often sorted by class."""
    if count >= len(split):
        return split
    chosen = [split.examples[index * len(split) // count] for index in range(count)]
    return replace(split, examples=chosen)


def with_classes_of(model: ComparedModel, split: Split, config: DataConfig) -> Split:
    """The images with labels that are classes of a model; as they are if the predicted class is used.

    Raises:
        InputError: the classes cannot be matched with those of the model; see
            `heatbox.data.classes.match_classes`.
    """
    if config.target != "label":
        return split
    try:
        return match_classes(split, model.num_classes, model.class_names, config.data, model.label)
    except InputError as error:
        raise InputError(f"{error}; --target predicted uses the predicted class instead") from error


# ---------------------------------------------------------------------------------------- the instruments


class Analysis:
    """Several models measured with several instruments, and the folder of the results.

    Measurements of an earlier, interrupted call are kept. The folder contains ``analysis.json`` (the
    configuration), ``models/LABEL/INSTRUMENT`` (a run folder for each model and instrument), ``figures``
    (PNG, SVG, and the numbers shown as Parquet) and ``comparison.json``.

    Args:
        config: the models, the images and the instruments' options.
        out: the folder.
        track: how to show progress.
        overwrite: measure again.

    Attributes:
        models: the models that are compared.
        rows: label and headline numbers of each model, for the comparison.

    Raises:
        InputError: input that cannot be used, before anything is computed.
    """

    def __init__(
        self, config: ModelsConfig, out: Path, track: Track = silent, overwrite: bool = False
    ) -> None:
        needed = () if isinstance(config, ComplexityConfig) else ("matplotlib",)  # (): also scikit-learn
        require("analysis", "heatbox analyze", *needed)
        self.config, self.out, self.track, self.overwrite = config, out, track, overwrite
        self.models = compared_models(config, out)
        self.rows: list[Numbers] = [{"model": model.label} for model in self.models]
        self._images = images_of(config) if isinstance(config, DataConfig) else None
        if isinstance(config, MapsConfig):
            self.images.with_boxes()
        self._matched: dict[str, Split] = {}
        self.stimuli: Split | None = None
        if isinstance(config, ShapeBiasConfig) and config.stimuli:
            from heatbox.analysis.shape_bias import open_stimuli

            self.stimuli = open_stimuli(config.stimuli)
        self._begin()

    @property
    def images(self) -> Split:
        """The images that are measured."""
        assert self._images is not None
        return self._images

    def match(self, config: DataConfig) -> None:
        """Refuse images whose classes are not those of every model, before anything is computed.

        Raises:
            InputError: as `with_classes_of`.
        """
        for model in self.models:
            self.images_of(model, config)
            self.release(model)

    def images_of(self, model: ComparedModel, config: DataConfig) -> Split:
        """The images that are measured, as `with_classes_of` a model."""
        if model.label not in self._matched:
            self._matched[model.label] = with_classes_of(model, self.images, config)
        return self._matched[model.label]

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.out / "figures"

    def _begin(self) -> None:
        """Make the folder, and write the configuration and the environment."""
        with processes.first_alone():
            if processes.is_first():
                self._write_configuration()

    def _write_configuration(self) -> None:
        try:
            begun = (self.out / ANALYSIS).exists() or not self.out.is_dir()
            if not begun and not holds_only(self.out, self.figures.name):
                raise InputError(f"{self.out}: is not empty and contains no analysis; choose another --out")
            self.figures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.out}: could not be made the folder of an analysis ({error})") from error
        write_atomically(self.out / ANALYSIS, (to_json(self.config) + "\n").encode())
        write_atomically(self.out / ENVIRONMENT, (to_json(environment(self.config.seed)) + "\n").encode())

    def run(self, *names: str) -> list[Path]:
        """Measure every model and draw the figures; instruments of one topic share a measurement.

        Processes that share the images, see `heatbox._utils.processes`, end here with exit code 0, except for
        the first, which alone computes the numbers of finished measurements and draws.

        Args:
            names: of `INSTRUMENTS`; by default all that the configuration has options for.

        Returns:
            the files of the figures.
        """
        topics: dict[str, list[str]] = {}
        for name in names or self._possible():
            topics.setdefault(INSTRUMENTS[name].topic, []).append(INSTRUMENTS[name].draw)
        written: list[Path] = []
        for topic, drawers in topics.items():
            module = import_module(f"heatbox.analysis.{topic}")
            prepare = getattr(module, "prepare", None)
            config = prepare(self, self.config) if prepare else self.config
            found: dict[str, Numbers] = {}
            for model, row in zip(self.models, self.rows, strict=True):
                numbers = json.loads(to_json(module.measure(self, model, config)))
                found[model.label] = numbers
                row |= json.loads(to_json(module.headline(numbers)))
                self.release(model)
            for draw in drawers if processes.is_first() else ():
                written += getattr(module, draw)(self, found, config)
        processes.only_first_goes_on()
        return written

    def _possible(self) -> list[str]:
        """Instruments whose options the configuration has, the fast ones first."""
        return [
            name
            for name, instrument in reversed(INSTRUMENTS.items())
            if isinstance(self.config, instrument.config) and (name != "shape-bias" or self.stimuli)
        ]

    def release(self, model: ComparedModel) -> None:
        """Drop a built model if there are several: large ones do not fit in memory together."""
        if len(self.models) > 1:
            model.release()

    def start(self, model: ComparedModel, instrument: str, options: Numbers) -> Run:
        """The run folder of an instrument's measurement of a model.

        Args:
            model: the model.
            instrument: name of the folder.
            options: on which the measurement depends, besides the model.

        Raises:
            InputError: the folder contains a measurement with other options or weights.
        """
        run = Run(model.folder / instrument)
        recorded = {name: getattr(model.spec, name) for name in _RECORDED}
        asked = {"instrument": instrument, "model": model.spec.model, "weights": model.spec.weights}
        run.start(asked | recorded | options, self.config.seed, resume=not self.overwrite)
        return run

    def fill(
        self,
        run: Run,
        model: ComparedModel,
        records: Callable[..., list[Numbers]],
        what: str,
        split: Split | None = None,
    ) -> None:
        """Save a record of every image in a run folder; images that it contains are not measured again.

        Args:
            run: of `start`.
            model: the model, for its preprocessing.
            records: (examples, (B, 3, H, W) images) → a record per image, with its id under "id".
            what: shown beside the progress.
            split: the images; by default those of the analysis.
        """
        if run.finished:
            return
        preprocess = model.spec.preprocess(model.view.model)
        what = f"{what} of {model.label}"
        run_inference(
            split or self.images, preprocess, self.config.batch_size, run, records, what, self.track
        )
        with processes.first_alone():
            if processes.is_first():
                run.finish()

    def compare(self) -> list[Numbers]:
        """Write comparison.json and its figures; returns a row per model."""
        write_atomically(self.out / COMPARISON, (to_json({"models": self.rows}) + "\n").encode())
        if len(self.rows) > 1:
            save_figure(headline_numbers(self.rows), self.figures / "comparison")
        if all("erf_auc" in row and "cam_MaxBoxAccV2" in row for row in self.rows):
            models = [
                ModelScore(row["model"], {"cam": _scores_of(row, "cam")}, row["model"], auc=row["erf_auc"])
                for row in self.rows
            ]
            save_figure(score_against_erf(models), self.figures / "score-against-erf")
        return self.rows


def _scores_of(row: Numbers, method: str) -> Numbers:
    """The scores of a map among the headline numbers, under the names of metrics.json."""
    start = f"{method}_"
    return {key.removeprefix(start): value for key, value in row.items() if key.startswith(start)}
