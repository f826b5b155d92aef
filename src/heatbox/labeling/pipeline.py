"""From photographs with labels to boxes: maps are saved in a run, boxes are made of the maps, and written."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer
from heatbox._utils.extras import require
from heatbox._utils.io import folder_name
from heatbox._utils.progress import Track, silent
from heatbox.boxes.objects import ObjectRules
from heatbox.config import (
    DEFAULT_MAP,
    OTHER_MAPS,
    EvaluateConfig,
    LabelConfig,
    LabelNetworksConfig,
    ModelOptions,
)
from heatbox.data.annotations import open_annotations
from heatbox.data.classes import match_classes
from heatbox.data.files.remote import shown
from heatbox.data.files.trees import raise_problem
from heatbox.data.formats.coco import to_coco
from heatbox.data.formats.options import WriteOptions
from heatbox.data.formats.segments import polygon_mask
from heatbox.data.formats.yolo import POLYGONS_WITHOUT_SCORES, label_lines
from heatbox.data.objects import detections_of
from heatbox.data.open import path_and_split
from heatbox.data.problems import LeftOut
from heatbox.data.types import Example, Split, changed
from heatbox.data.write import relabelled
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.networks import average_runs, description, require_same_split
from heatbox.evaluation.predict import fitted_seeds, predict, run_head
from heatbox.evaluation.run import IMAGE, NETWORKS, Run, require_older
from heatbox.inference.calibration import SETTINGS, load_calibration
from heatbox.inference.collection import FEW_IMAGES
from heatbox.inference.networks import common_outputs, mean_name, require_same_order
from heatbox.inference.scores import score_function, trained_function
from heatbox.labeling.corrections import Learned, learn, match_corrections
from heatbox.labeling.output import (
    REVIEW,
    WrittenLabels,
    accuracy_sentence,
    check_outputs,
    summary_of,
    write_labels,
)
from heatbox.labeling.photos import (
    listed_photos,
    measured,
    open_photos,
    own_classes,
    used_classes,
    with_predicted_labels,
    without_boxes,
)
from heatbox.labeling.proposals import ids_by, with_proposals
from heatbox.labeling.propose import NOTHING, ONE, BoxSettings, Found, default_threshold, propose
from heatbox.maps.registry import (
    check_requirements,
    find_method,
    named_for,
    requirements_of,
)
from heatbox.models.introspect import ClassifierView
from heatbox.training.config import FinetuneConfig
from heatbox.training.finetune import Finetuned, finetune
from heatbox.visualization.report.review import review_data, review_page

if TYPE_CHECKING:
    import supervision

REVIEW_IMAGES = 1000
"""Maximum number of images on the review page."""
CLASSES_RUN = "predicted-classes"
"""Folder in the run with the classifier's predictions of images without labels."""


def photos_name(photos: str) -> str:
    """The name of the folder or file of some photographs, and of the split that is named."""
    where, split = path_and_split(photos)
    path = Path(shown(where))
    name = path.name if path.name not in ("", "..") else path.resolve().name
    return ":".join(filter(None, (name or photos, split)))


def default_run(photos: str) -> Path:
    """The run folder of some photographs, where none is named."""
    return Path("runs") / folder_name(f"label-{photos_name(photos)}")


@dataclass(frozen=True)
class Labelled:
    """Photographs whose maps are saved in a run.

    Attributes:
        split: the images with their labels and without boxes, one example for each.
        run: the maps of each class of each image.
        view: the classifier, the first of several.
        config: the configuration, with the name of the map for this classifier.
        left_out: the images that could not be used.
        predicted: whether the labels are the classifier's.
        notes: what was assumed, a sentence each.
        class_names: the classes of the photographs, which files have.
        places: the class of the network for each of them.
    """

    split: Split
    run: Run
    view: ClassifierView
    config: LabelConfig | LabelNetworksConfig
    left_out: LeftOut
    predicted: bool
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    places: tuple[int, ...] = ()

    def in_own_classes(self, example: Example) -> Example:
        """An example whose labels are positions in `class_names`, not classes of the network."""
        return relabelled(example, self._own)

    def in_network_classes(self, example: Example) -> Example:
        """The inverse of `in_own_classes`."""
        return relabelled(example, np.array(self.places, np.int64))

    def own_split(self, split: Split) -> Split:
        """A split whose classes are those of the photographs."""
        examples = changed(split.examples, self.in_own_classes)
        return dataclasses.replace(split, examples=examples, class_names=self.class_names, class_ids=())

    @cached_property
    def _own(self) -> np.ndarray:
        found = np.full(max(self.places, default=-1) + 1, -1, np.int64)
        found[list(self.places)] = np.arange(len(self.places))
        return found

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
        return with_proposals(self.split, (example for example, _ in self.proposals(settings, track)))


def box_settings(config: LabelConfig | LabelNetworksConfig) -> BoxSettings:
    """How maps become boxes, as a configuration says.

    Raises:
        InputError: a threshold or normalization that no map can have, or beside a calibration that has
            another.
    """
    method = config.method or DEFAULT_MAP
    file = None if config.calibration is None else load_calibration(config.calibration)
    if file is not None and config.threshold is not None:
        raise InputError(
            f"threshold is {config.threshold}, but {file.where} has one; expected only one of them"
        )
    known = None if file is None else file.of(method)
    normalize = config.normalize or ("min-max" if file is None else file.normalize)
    if file is not None:
        file.require_settings({"normalize": normalize})
    usual = default_threshold(method) if known is None else known.threshold
    return BoxSettings(
        method,
        usual if config.threshold is None else config.threshold,
        ONE if config.objects == "one" else ObjectRules(),
        None if known is None else known.confidence,
        config.min_confidence,
        known is not None,
        normalize,
        config.masks,
    )


def about(labelled: Labelled, settings: BoxSettings) -> dict[str, Any]:
    """How boxes are made, for summary.json."""
    config = labelled.config
    model = settings.confidence
    networks = config.joined() if isinstance(config, LabelNetworksConfig) else {}
    return {
        "model": networks.get("model", config.model),
        "checkpoint": networks.get("checkpoint", config.checkpoint),
        "map": settings.method,
        "threshold": settings.threshold,
        "normalize": settings.normalize,
        "min_confidence": settings.min_confidence,
        "confidence": "expected" if model is None else dataclasses.asdict(model),
        "labels": "predicted" if labelled.predicted else "given",
        "objects": config.objects,
        **dataclasses.asdict(settings.rules),
    }


def make_maps(
    photos: Any,
    config: LabelConfig | LabelNetworksConfig,
    run: Run,
    track: Track = silent,
    overwrite: bool = False,
    model: nn.Module | None = None,
    trained: Callable[[Finetuned], None] = lambda fitted: None,
) -> Labelled:
    """Open photographs and save the maps of each class of each image; an interrupted run is resumed.

    Args:
        photos: as for `heatbox.labeling.photos.open_photos`.
        config: the classifier or classifiers, the map, and what to do with images that cannot be read.
        run: the run folder; of several classifiers it contains a run of each, see
            `heatbox.evaluation.networks`.
        track: shows progress.
        overwrite: remove what an earlier run left in the folder.
        model: the classifier; by default it is built from the configuration, or fitted to the photographs
            where that names none.
        trained: receives a classifier that was fitted, before any map is made.

    Raises:
        InputError: bad input; what was computed before it stays in the run folder.
    """
    if config.method is None and config.calibration is not None:
        config = dataclasses.replace(config, method=_calibrated_method(config.calibration))
    find_method(config.method or DEFAULT_MAP)  # an unknown one is reported before anything is built
    box_settings(config)
    for name in ("limit", "batch_size"):
        if (number := getattr(config, name)) is not None:
            check_integer(number, name.replace("_", " "))
    if isinstance(config, LabelConfig) and model is None and config.model is None:
        with processes.first_alone():
            fitted = _fit_classifier(photos, config, run, track, overwrite and processes.is_first())
        config = dataclasses.replace(config, model=fitted.spec.model, checkpoint=fitted.spec.checkpoint)
        trained(fitted)
    each = config.each() if isinstance(config, LabelNetworksConfig) else [config]
    models = [one.spec.build() for one in each] if model is None else [config.to_device(model)]
    views = [ClassifierView(one, config.output, config.preprocess(one).size) for one in models]
    own, why = _possible_map(views, config)
    networks = config.names() if isinstance(config, LabelNetworksConfig) else [""]
    function = common_outputs(
        networks,
        [view.num_classes for view in views],
        [score_function(config.scores, view.num_classes, trained_function(view)) for view in views],
    )
    view = views[0]
    skip = config.on_bad == "skip"
    left_out = LeftOut()
    report = left_out if skip else raise_problem
    from heatbox.models.spec import class_names

    known = [class_names(one, view.num_classes) for one in models]
    if len(models) > 1:
        require_same_order(networks, known)
    names = known[0]
    given = open_photos(photos, names, report).take(config.limit)
    if not len(given):
        first = f"; the first problem: {left_out.problems[0]}" if left_out.problems else ""
        raise InputError(f"{given.name}: has no image that can be labelled{first}")
    where = photos if isinstance(photos, str) else given.name
    split = match_classes(given, view.num_classes, names, where)
    for network, others in zip(networks[1:], known[1:], strict=True):
        require_same_split(split, match_classes(given, view.num_classes, others, where), networks[0], network)
    split = without_boxes(measured(split, left_out if skip else None, track))
    if not split.class_names and len(names):
        split = dataclasses.replace(split, class_names=list(names))
    fits = config.method is None and not config.foreground and not why
    if fits and sum(len(example.labels) or 1 for example in split) < FEW_IMAGES:
        own, _ = _possible_map(views, config, OTHER_MAPS)
        why = f"there are fewer than {FEW_IMAGES} maps for a foreground head to learn from"
    config = dataclasses.replace(config, method=mean_name(own, config.method or own[0]))
    box_settings(config)  # a calibration may not have the map that takes the place of the default
    each = [dataclasses.replace(one, method=name) for one, name in zip(each, own, strict=True)]
    configs = [_maps_config(one, photos if isinstance(photos, str) else split.name) for one in each]
    settings = [
        dataclasses.asdict(one)
        | {"weights": one.weights if one.model else None, "min_score": config.min_score}
        for one in configs
    ]
    several, whole, joined = False, settings[0], {}
    if isinstance(config, LabelNetworksConfig):
        several, whole, joined = True, description(config, settings[0], configs), config.joined()
    if config.calibration is not None and config.model is not None:
        made_with = {
            name: getattr(configs[0], name) for name in SETTINGS if name not in ("protocol", "normalize")
        }
        load_calibration(config.calibration).require_settings(made_with | joined)
    run.start(whole, resume=not overwrite)  # how boxes are made of the maps may change
    stores = [
        run,
        Run(run.folder / CLASSES_RUN),
        *(Run(run.folder / NETWORKS / str(n + 1)) for n in range(len(each))),
    ]
    made = min((when for store in stores if (when := store.made()) is not None), default=None)
    for one in each:
        for file in (one.checkpoint, one.foreground):
            require_older(Path(file or ""), made, f"maps were made with it in {run.folder}")
    notes: list[str] = []
    if why:
        notes.append(f"{why}, so the map is {config.method}")
    predicted = not any(example.labels for example in split)
    if predicted:
        inner = Run(run.folder / CLASSES_RUN)
        weights = " + ".join(str(one["weights"]) for one in settings) if several else settings[0]["weights"]
        inner.start(
            {"min_score": config.min_score, "scores": function, "weights": weights}, resume=not overwrite
        )
        split, empty = with_predicted_labels(
            split, views, config, function, inner, track, left_out if skip else None
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
        pairs, parts = searched.by_class(), []
        for number, (maps, content, seen) in enumerate(zip(configs, settings, views, strict=True), 1):
            part = Run(run.folder / NETWORKS / str(number)) if several else run
            if several:
                part.start(content)
            head = run_head(seen, pairs, maps, part, track)
            problems = left_out if number == 1 else LeftOut()
            predict(seen, pairs, maps, part, track, problems, head, config.keep_features and not several)
            parts.append(part)
        if several and processes.is_first():
            average_runs(parts, networks, {config.method or "": own}, function, run, track)
    classes = used_classes(split) if predicted else own_classes(given, view.num_classes, names, where)
    return Labelled(split, run, view, config, left_out, predicted, tuple(notes), *classes)


def _maps_config(config: LabelConfig, photos: str) -> EvaluateConfig:
    """The configuration with which `heatbox.evaluation.predict` makes the maps."""
    shared = {name: getattr(config, name) for name in ModelOptions.__dataclass_fields__}
    return EvaluateConfig(
        config.model or "",
        photos,
        checkpoint=config.checkpoint,
        method=(config.method or DEFAULT_MAP,),
        foreground=config.foreground,
        seed=config.seed,
        on_bad=config.on_bad,
        limit=config.limit,
        batch_size=config.batch_size,
        channels=0,
        **shared,
    )


def _possible_map(
    views: Sequence[ClassifierView],
    config: LabelConfig | LabelNetworksConfig,
    maps: Sequence[str] = (DEFAULT_MAP, *OTHER_MAPS),
) -> tuple[list[str], str]:
    """The map that was asked for, or the first that all networks have; and why it is not the first of them.

    Returns:
        the name of the map for each network, and the reason.

    Raises:
        InputError: a network does not have the map that was asked for, or none of them.
    """
    why = ""
    for name in (config.method,) if config.method else maps:
        own = [named_for(view, name) for view in views]
        try:
            for view, method in zip(views, own, strict=True):
                seeds = [] if config.foreground else fitted_seeds([method], None, view)
                check_requirements(view, requirements_of([method, *seeds], view))
            return own, why
        except InputError as error:
            if config.method is not None or config.foreground:
                raise
            why = why or str(error)
    raise InputError(f"{why}; nor is another map possible")


def _calibrated_method(file: Path) -> str | None:
    """The only map of a calibration; None if it has several."""
    methods = list(load_calibration(file).methods)
    return methods[0] if len(methods) == 1 else None


def _fit_classifier(photos: Any, config: LabelConfig, run: Run, track: Track, overwrite: bool) -> Finetuned:
    """A classifier for the classes of the photographs, in a folder beside that of their maps.

    Raises:
        InputError: a checkpoint without a model, photographs without labels, or a fit that is impossible.
    """
    if config.checkpoint is not None:
        raise InputError(f"{config.checkpoint}: name the network that it is of with --model")
    left_out = LeftOut()
    report = left_out if config.on_bad == "skip" else raise_problem
    split = without_boxes(open_photos(photos, report=report).take(config.limit))
    if not any(example.labels for example in split):
        raise InputError(
            f"{split.name}: no image has a label, so no classifier can be fitted; name one with --model"
        )
    labelled = dataclasses.replace(split, examples=[example for example in split if example.labels])
    shared = {name: getattr(config, name) for name in ModelOptions.__dataclass_fields__}
    wanted = FinetuneConfig(
        config.finetune,
        photos if isinstance(photos, str) else split.name,
        checkpoint=config.finetune_checkpoint,
        on_bad=config.on_bad,
        **shared,
    )
    folder = run.folder.with_name(f"{run.folder.name}-classifier")
    return finetune(wanted, folder, labelled, track, overwrite=overwrite)


def review_order(split: Split) -> list[str]:
    """Ids in the order in which a person should review them: without boxes first, then least confident."""

    def rank(example: Example) -> float:
        scores = example.box_scores
        return -1.0 if scores is None or not len(scores) else float(np.min(scores))

    return ids_by(split, rank)


def review(
    title: str,
    labelled: Labelled,
    split: Split,
    summary: Mapping[str, Any],
    ids: Sequence[str],
    kept: Collection[str] = (),
    images: int = REVIEW_IMAGES,
    track: Track = silent,
) -> str | None:
    """The review page of some images, or None where the extra `report` is missing, which is said.

    Args:
        title: heading of the page.
        labelled: the images and their maps.
        split: the images with boxes.
        summary: of `summary_of`.
        ids: all ids, in the order of the review.
        kept: ids of images whose boxes a person drew.
        images: maximum number of images on the page.
        track: shows progress.
    """
    if images < 1:
        return None
    try:
        require("report", "the review page", "jinja2")
    except InputError as error:
        warnings.warn(f"there is no {REVIEW}: {error}", AssumptionWarning, stacklevel=2)
        return None
    shown = [name for name in ids if name not in kept][:images]
    shown += [name for name in ids if name in kept][: images - len(shown)]
    notes = [*summary["notes"]]
    if len(shown) < len(ids):
        notes.append(f"the {len(shown)} images to be reviewed first, of {len(ids)}; --review shows more")
    wanted = {*shown}
    maps: dict[str, np.ndarray] = {}
    for batch in labelled.run.records() if len(labelled.run) else ():
        for record in batch:
            if (name := record.get(IMAGE) or record["id"]) in wanted:
                maps.setdefault(name, record[f"map_{labelled.config.method}"])
    data = review_data(split, shown, maps, kept, track)
    lead = f"{summary['images']} images, {summary['boxes']} boxes: {accuracy_sentence(summary)}."
    return review_page(title, lead, notes, data)


def label_photos(
    photos: str,
    config: LabelConfig | LabelNetworksConfig,
    run: Run,
    out: Path,
    to: Sequence[str],
    options: WriteOptions,
    track: Track = silent,
    corrected: str | None = None,
    images: int = REVIEW_IMAGES,
    trained: Callable[[Finetuned], None] = lambda fitted: None,
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
        corrected: boxes that a person drew or corrected: they are kept, and the others learn from them.
        images: maximum number of images on the review page.
        trained: receives a classifier that was fitted, before any map is made.

    Raises:
        InputError: bad input, or an output that cannot be written; the maps stay in the run folder.
    """
    check_outputs(out, to, options, photos)
    if config.masks and options.confidence and "yolo" in to:
        raise InputError(f"{POLYGONS_WITHOUT_SCORES}; leave --masks or --confidence out")
    if options.mask_format == "rle" and not config.masks:
        raise InputError("--mask-format rle is for outlines, which --masks makes")
    if corrected is not None and not Path(corrected).exists():
        raise InputError(f"{corrected}: no such file or folder of corrected boxes")
    labelled = make_maps(photos, config, run, track, trained=trained)
    processes.only_first_goes_on()
    learned = None if corrected is None else _learn(labelled, corrected, track)
    settings = labelled.settings if learned is None else learned.settings
    if learned is not None:
        labelled = dataclasses.replace(labelled, run=learned.run)
    split = labelled.boxes(settings, track)
    ids, kept, notes, lines = review_order(split), frozenset[str](), list(labelled.notes), {}
    if learned is not None:
        split, kept = learned.applied(split), frozenset(learned.corrected)
        ids, lines = learned.queue(split), learned.as_dict()
        notes += learned.notes
    split = labelled.own_split(split)
    summary = summary_of(
        split, labelled.left_out, about(labelled, settings), notes, settings.calibrated, kept
    )
    if lines:
        summary["corrected"] = lines
    page = review(f"Review of {photos_name(photos)}", labelled, split, summary, ids, kept, images, track)
    return write_labels(split, out, to, options, summary, page, track)


def _learn(labelled: Labelled, corrected: str, track: Track) -> Learned:
    tree = getattr(labelled.split.open_image, "tree", None)
    drawn = match_corrections(labelled.own_split(labelled.split), open_annotations(corrected, tree))
    found = {name: labelled.in_network_classes(example) for name, example in drawn.items()}
    return learn(labelled.run, labelled.split, labelled.settings, found, track, labelled.config.seed)


# ---------------------------------------------------------------------------------------------- in Python


@dataclass(frozen=True)
class LabelledImage:
    """One image with its proposed boxes.

    Attributes:
        id: of the image; its number with the ending .png, of images in memory.
        size: (width, height) in pixels.
        labels: classes that were searched.
        boxes: (K, 4) float64 xyxy in pixels, half-open, the most confident first.
        classes: (K,) int64 class index of each box: of the images' own classes, or of the network's where
            labels were predicted.
        confidences: (K,) float64 in [0, 1].
        masks: (K, 224, 224) bool, the part of the whole image that each box is around.
        outlines: with the setting masks=True, the outline of each as a polygon (N, 2) float64 of x, y in
            pixels of the image, which `to_coco` and `to_yolo` then have; otherwise None.
        class_names: class index → name; empty where the classes have none.
    """

    id: str
    size: tuple[int, int]
    labels: tuple[int, ...]
    boxes: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    masks: np.ndarray = field(repr=False)
    class_names: tuple[str, ...] = ()
    outlines: tuple[np.ndarray, ...] | None = field(default=None, repr=False)

    def to_detections(self) -> supervision.Detections:
        """The boxes as `supervision.Detections`; with outlines also their masks, of the image's size.

        Raises:
            InputError: supervision is not installed.
        """
        found = detections_of(self.boxes, self.classes.tolist(), self.confidences, self.class_names)
        if self.outlines:
            found.mask = np.stack([polygon_mask(outline.ravel(), self.size) for outline in self.outlines])
        return found

    def to_coco(self) -> dict[str, Any]:
        """The image as COCO's JSON with scores; see `heatbox.data.formats.coco.to_coco`."""
        return to_coco(self._split())

    def to_yolo(self) -> str:
        """The lines of YOLO's label file: class, centre x, centre y, width, height, as fractions.

        With outlines: class and polygon, as YOLO's segmentation has them.
        """
        return label_lines(self._split().examples[0])

    def _split(self) -> Split:
        example = Example(
            self.id,
            self.labels[0] if self.labels else -1,
            self.size,
            self.boxes,
            self.labels,
            self.classes,
            self.confidences,
            outlines=self.outlines,
        )
        numbers = map(str, range(len(self.class_names), max(self.labels, default=-1) + 1))
        return Split("labels", [example], [*self.class_names, *numbers], _no_image)


def _no_image(example: Example) -> Image.Image:
    raise InputError(f"image {example.id!r} is not kept with its boxes")


def label(
    images: Any,
    model: str | Sequence[str] | nn.Module | None = None,
    labels: Sequence[Any] | None = None,
    run: str | Path | None = None,
    track: Track = silent,
    **settings: Any,
) -> Iterator[LabelledImage]:
    """Make boxes of labelled images, in order.

    Maps are kept on disk; memory grows by a few hundred bytes per image, for its id, labels and boxes.

    Args:
        images: a path that `heatbox.open_split` reads, such as a folder of class folders; a folder of
            images; a `datasets.Dataset`; a `Split`; or a list of paths, of PIL images or of arrays.
        model: the classifier, or its name for `heatbox.create_model`; by default one is fitted to the labels.
            A list of names is of networks whose maps and class scores are averaged; in settings, `checkpoint`
            and `foreground` are then lists too.
        labels: for a list of images, the class of each, its name or its index in the network's classes, or
            several; by default those that the classifier predicts.
        run: folder in which maps are kept, so that another call goes on from there; by default a temporary
            one.
        track: shows progress.
        settings: fields of `heatbox.config.LabelConfig`, such as method, threshold, checkpoint, size.

    Yields:
        a `LabelledImage` for each image that can be read; one without boxes where nothing was found.

    Raises:
        InputError: bad input; settings that do not exist.
        TypeError: images of another type.

    Warns:
        AssumptionWarning: images that were left out, and labels that were predicted.

    Examples:
        >>> for image in heatbox.label("photos/", "resnet50", checkpoint="pretrained"):  # doctest: +SKIP
        ...     print(image.id, image.boxes, image.confidences)
    """
    several = isinstance(model, list | tuple)
    kind: Any = LabelNetworksConfig if several else LabelConfig
    known = {one.name for one in dataclasses.fields(kind)} - {"model"}
    if unknown := sorted({*settings} - known):
        raise InputError(f"there is no setting {unknown[0]!r}, expected one of {', '.join(sorted(known))}")
    network = model if isinstance(model, nn.Module) else None
    if several:
        settings |= {key: tuple(settings[key]) for key in ("checkpoint", "foreground") if key in settings}
    named: Any = tuple(model) if isinstance(model, list | tuple) else model if network is None else None
    config = kind(model=named, **settings)
    with ExitStack() as stack:
        if run is None:  # nothing learns from them later
            config = dataclasses.replace(config, keep_features=False)
        folder = run or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="heatbox-label-")), "run")
        opened = images if labels is None else listed_photos(images, labels)
        labelled = make_maps(opened, config, Run(folder), track, model=network)
        if labelled.left_out.problems:
            many, first = len(labelled.left_out.problems), labelled.left_out.problems[0]
            warnings.warn(f"{many} images are left out: {first}", AssumptionWarning, stacklevel=2)
        own = labelled.in_own_classes
        names = labelled.class_names
        if labelled.predicted:  # indices are those of the network
            own, names = (lambda example: example), tuple(map(str, labelled.split.class_names))
        ready: dict[str, tuple[Example, list[Found]]] = {}
        found = labelled.proposals(track=track)
        for example in labelled.split:
            while example.labels and example.id not in ready:
                if (one := next(found, None)) is None:
                    break
                ready[one[0].id] = one
            if not example.labels:
                yield _labelled_image(example, [], names)
            elif example.id in ready:
                done = ready.pop(example.id)
                yield _labelled_image(own(done[0]), done[1], names)


def _labelled_image(example: Example, found: Sequence[Found], names: tuple[str, ...]) -> LabelledImage:
    masks = np.concatenate([NOTHING.masks, *(one.masks for one in found)])
    scores = np.zeros(0) if example.box_scores is None else example.box_scores
    kinds = np.zeros(0, np.int64) if example.box_labels is None else example.box_labels
    order = np.argsort(-scores, kind="stable")
    return LabelledImage(
        example.id,
        example.size,
        example.labels,
        example.boxes[order],
        kinds[order],
        scores[order],
        masks[order],
        names,
        example.outlines and tuple(example.outlines[index] for index in order),  # type: ignore[arg-type]
    )
