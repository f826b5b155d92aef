"""From photographs with labels to boxes: maps are saved in a run, boxes are made of the maps, and written."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from heatbox._utils.checks import check_integer
from heatbox._utils.io import folder_name
from heatbox._utils.progress import Track, silent
from heatbox.boxes.objects import ObjectRules
from heatbox.config import EvaluateConfig, LabelConfig, ModelOptions
from heatbox.data.files.trees import raise_problem
from heatbox.data.formats.options import WriteOptions
from heatbox.data.problems import LeftOut
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.predict import predict
from heatbox.evaluation.run import Run, require_older
from heatbox.inference.scores import score_function, trained_function
from heatbox.labeling.output import WrittenLabels, check_outputs, summary_of, write_labels
from heatbox.labeling.photos import measured, open_photos, with_predicted_labels, without_boxes
from heatbox.labeling.propose import ONE, THRESHOLD, BoxSettings, Found, in_order, propose
from heatbox.maps.registry import check_requirements, find_method, named_for, requirements_of
from heatbox.models.introspect import ClassifierView

CLASSES_RUN = "predicted-classes"
"""Folder in the run with the classifier's predictions of images without labels."""


def default_run(photos: str) -> Path:
    """The run folder of some photographs, where none is named."""
    return Path("runs") / folder_name(f"label-{Path(photos).name or photos}")


@dataclass(frozen=True)
class Labelled:
    """Photographs whose maps are saved in a run.

    Attributes:
        split: the images with their labels and without boxes, one example for each.
        run: the maps of each class of each image.
        view: the classifier.
        config: the configuration, with the name of the map for this classifier.
        left_out: the images that could not be used.
        predicted: whether the labels are the classifier's.
        notes: what was assumed, a sentence each.
    """

    split: Split
    run: Run
    view: ClassifierView
    config: LabelConfig
    left_out: LeftOut
    predicted: bool
    notes: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, Any]:
        """How the boxes are made, for summary.json."""
        boxes = self.settings
        rules = {"objects": self.config.objects, **dataclasses.asdict(boxes.rules)}
        return {
            "model": self.config.model,
            "checkpoint": self.config.checkpoint,
            "map": boxes.method,
            "threshold": boxes.threshold,
            "min_confidence": boxes.min_confidence,
            "confidence": boxes.confidence.__name__,
            "labels": "predicted" if self.predicted else "given",
            **rules,
        }

    @cached_property
    def settings(self) -> BoxSettings:
        """How the maps become boxes, as the configuration says."""
        return box_settings(self.config)

    def proposals(
        self, settings: BoxSettings | None = None, track: Track = silent
    ) -> Iterator[tuple[Example, list[Found]]]:
        """The images of some class with their proposed boxes, and the objects of each of their classes."""
        if not any(example.labels for example in self.split):
            return
        for example, found, _ in propose(self.run, self.split, settings or self.settings, track):
            yield example, found

    def boxes(self, settings: BoxSettings | None = None, track: Track = silent) -> Split:
        """All images, in order, with the boxes that are proposed."""
        found = {example.id: example for example, _ in self.proposals(settings, track)}
        return in_order(self.split, found)


def box_settings(config: LabelConfig) -> BoxSettings:
    """How maps become boxes, as a configuration says."""
    threshold = THRESHOLD if config.threshold is None else config.threshold
    rules = ONE if config.objects == "one" else ObjectRules()
    return BoxSettings(config.method, threshold, rules, min_confidence=config.min_confidence)


def make_maps(
    photos: Any,
    config: LabelConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
) -> Labelled:
    """Open photographs and save the maps of each class of each image; an interrupted run is resumed.

    Args:
        photos: as for `heatbox.labeling.photos.open_photos`.
        config: the classifier, the map, and what to do with images that cannot be read.
        run: the run folder.
        track: shows progress.
        overwrite: remove what an earlier run left in the folder.
        model: the classifier; by default it is built from the configuration.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    find_method(config.method)  # an unknown one is reported before anything is built
    box_settings(config)
    for name in ("limit", "batch_size"):
        if (number := getattr(config, name)) is not None:
            check_integer(number, name.replace("_", " "))
    model = config.to_device(model) if model is not None else config.spec.build()
    preprocess = config.preprocess(model)
    view = ClassifierView(model, config.output, preprocess.size)
    config = dataclasses.replace(config, method=named_for(view, config.method))
    check_requirements(view, requirements_of([config.method], view))
    function = score_function(config.scores, view.num_classes, trained_function(view))
    skip = config.on_bad == "skip"
    left_out = LeftOut()
    report = left_out if skip else raise_problem
    from heatbox.models.spec import class_names

    names = class_names(model, view.num_classes)
    split = open_photos(photos, names, view.num_classes, report).take(config.limit)
    if not len(split):
        first = f"; the first problem: {left_out.problems[0]}" if left_out.problems else ""
        raise InputError(f"{split.name}: has no image that can be labelled{first}")
    split = without_boxes(measured(split, left_out if skip else None, track))
    if not split.class_names and len(names):
        split = dataclasses.replace(split, class_names=list(names))
    maps_config = _maps_config(config, photos if isinstance(photos, str) else split.name)
    weights = config.spec.weights if config.model is not None else None
    settings = dataclasses.asdict(maps_config) | {"weights": weights, "min_score": config.min_score}
    run.start(settings, resume=not overwrite)  # how boxes are made of the maps may change
    require_older(Path(config.checkpoint or ""), run.made(), f"maps were made with it in {run.folder}")
    notes: list[str] = []
    predicted = not any(example.labels for example in split)
    if predicted:
        inner = Run(run.folder / CLASSES_RUN)
        inner.start(
            {"min_score": config.min_score, "scores": function, "weights": weights}, resume=not overwrite
        )
        split, empty = with_predicted_labels(
            split, view, config, function, inner, track, left_out if skip else None
        )
        notes.append(
            f"no image has a label, so those that the classifier predicts are used ({function} score of at "
            f"least {config.min_score:g}); {empty} of {len(split)} images have none and get no box"
        )
    elif empty := sum(not example.labels for example in split):
        notes.append(f"{empty} of {len(split)} images have no label: they are kept without boxes")
    for note in notes:
        warnings.warn(f"{split.name}: {note}", AssumptionWarning, stacklevel=2)
    searched = dataclasses.replace(split, examples=[example for example in split if example.labels])
    if len(searched):
        predict(view, searched.by_class(), maps_config, run, track, left_out)
    return Labelled(split, run, view, config, left_out, predicted, tuple(notes))


def _maps_config(config: LabelConfig, photos: str) -> EvaluateConfig:
    """The configuration with which `heatbox.evaluation.predict` makes the maps."""
    shared = {name: getattr(config, name) for name in ModelOptions.__dataclass_fields__}
    return EvaluateConfig(
        config.model or "",
        photos,
        checkpoint=config.checkpoint,
        method=(config.method,),
        on_bad=config.on_bad,
        limit=config.limit,
        batch_size=config.batch_size,
        channels=0,
        **shared,
    )


def label_photos(
    photos: str,
    config: LabelConfig,
    run: Run,
    out: Path,
    to: Sequence[str],
    options: WriteOptions,
    track: Track = silent,
) -> WrittenLabels:
    """What `heatbox label` does: maps, boxes, and the files of all formats.

    Args:
        photos: see `heatbox.labeling.photos.open_photos`.
        config: the classifier, the map, and how boxes are made of it.
        run: the run folder of the maps.
        out: the output folder.
        to: names of `heatbox.labeling.output.OUTPUTS`.
        options: of the writers.
        track: shows progress.

    Raises:
        InputError: bad input, or an output that cannot be written; the maps stay in the run folder.
    """
    check_outputs(out, to, options, photos)
    labelled = make_maps(photos, config, run, track)
    split = labelled.boxes(track=track)
    summary = summary_of(split, labelled.left_out, labelled.about, labelled.notes)
    return write_labels(split, out, to, options, summary, track=track)
