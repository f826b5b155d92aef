"""Shape bias: how often a classifier uses the shape of an object and how often its texture.

Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019. A cue-conflict image has the
shape of one category and the texture of another. Of all responses that name one of the two, the fraction that
names the shape is the shape bias; CAM Back Again, supplement 10, compares large-kernel networks by it.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer, check_module, kind_of
from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import ShapeBiasConfig
from heatbox.analysis.erf import erf_of_examples
from heatbox.analysis.erf import numbers_of as numbers_of_erf
from heatbox.config import ModelOptions, ScoreFunction
from heatbox.data.classes import IMAGENET_CLASSES, class_positions
from heatbox.data.files.images import open_for_network
from heatbox.data.formats.cue_conflict import shape_and_texture
from heatbox.data.glyphs import glyphs_cue_conflict
from heatbox.data.open import open_split
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.inference.scores import class_scores, score_function, trained_function
from heatbox.models.introspect import ClassifierView
from heatbox.models.outputs import select_output
from heatbox.models.spec import as_input, class_names, eval_mode
from heatbox.visualization.figures import erf as erf_figures
from heatbox.visualization.figures import shape_bias as figures
from heatbox.visualization.figures.style import save_figure

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis, ComparedModel

Aggregation = Literal["mean", "sum", "max"]
Mapped = Mapping[str, Sequence[int]]
"""Category → indices of the classes that belong to it."""

EVERY_CATEGORY = "all"
"""In place of a category: the images of all."""

PREFERRED = "clock"
"""The category that the source shows (supplement 10, Fig. 17)."""

PUBLISHED = {
    "humans": 0.959,
    "AlexNet": 0.429,
    "GoogLeNet": 0.312,
    "ResNet-50": 0.221,
    "VGG-16": 0.172,
}
"""Shape bias of ten people and of ImageNet-trained networks as Geirhos et al. print them (ICLR 2019)."""

# 207 of the 1000 classes of ImageNet-1k belong to one of the 16 categories of the cue-conflict experiment
# (rgeirhos/texture-vs-shape). Indices count from 0 in the order of ILSVRC's WordNet ids.
_RANGES = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}


def _indices(ranges: str) -> tuple[int, ...]:
    """``"8 10-12"`` → (8, 10, 11, 12)."""
    ends = [[int(end) for end in one.split("-")] for one in ranges.split()]
    return tuple(index for end in ends for index in range(end[0], end[-1] + 1))


CATEGORIES: dict[str, tuple[int, ...]] = {name: _indices(ranges) for name, ranges in _RANGES.items()}
"""Category → indices of its classes, in alphabetical order."""


# ------------------------------------------------------------------------------------ tables of responses

# Names of the columns, in our own tables and in the published raw data (rgeirhos/texture-vs-shape).
_COLUMNS = {
    "image": ("image", "imagename", "id"),
    "shape": ("shape", "category"),
    "texture": ("texture",),
    "response": ("response", "object_response"),
    "observer": ("model", "observer", "subj"),
}


@dataclass(frozen=True)
class Response:
    """The category that an observer named for an image.

    Attributes:
        image: name of the image.
        shape, texture: its two categories, in lower case.
        response: the category named, in lower case; anything else ("na") counts as neither.
        observer: who responded; "" if the table does not name them.
    """

    image: str
    shape: str
    texture: str
    response: str
    observer: str = ""


def read_responses(table: Any) -> list[Response]:
    """Read a table with the columns image, shape, texture and response.

    The columns of the published raw data are read as well: imagename, category, object_response and subj. If
    there is no texture column, the texture is read from the name of the image (``airplane1-bicycle2.png``,
    after the last underscore).

    Args:
        table: path of a CSV file (.csv or .csv.gz), a list of dictionaries, a dictionary of columns, a
            pandas data frame or a pyarrow table.

    Raises:
        InputError: a file that cannot be read, a column that is missing, or a table without rows.
    """
    if isinstance(table, list | tuple) and table and all(isinstance(one, Response) for one in table):
        return list(table)
    rows, where = _rows(table)
    if not rows:
        raise InputError(f"{where}: contains no response")
    own = {
        ours: next((name for name in theirs if name in rows[0]), None) for ours, theirs in _COLUMNS.items()
    }
    named = own["shape"] is not None and own["texture"] is not None
    if own["response"] is None or (own["image"] is None and not named):
        raise InputError(
            f"{where}: has the columns {', '.join(rows[0])}; expected image, shape, texture, response"
        )
    found = []
    for row in rows:
        image, shape, texture, response, observer = (
            None if name is None else row[name] for name in own.values()
        )
        image = "" if own["image"] is None else str(image)
        if not named:
            of_name = shape_and_texture(_bare(image))
            shape = of_name[0] if own["shape"] is None else shape
            texture = of_name[1] if own["texture"] is None else texture
        observer = "" if own["observer"] is None else str(observer)
        found.append(Response(image, _word(shape), _word(texture), _word(response), observer))
    return found


def by_observer(responses: Iterable[Response]) -> dict[str, list[Response]]:
    """The responses of each observer, in the order in which they appear."""
    groups: dict[str, list[Response]] = {}
    for one in responses:
        groups.setdefault(one.observer, []).append(one)
    return groups


def _word(value: Any) -> str:
    """A category as it is compared; a missing one (None, NaN) is none."""
    return "na" if value is None or value != value else str(value).strip().lower()


def _bare(name: str) -> str:
    """``0001_s5n_s01_0_bird_00_bird3-bird2.png`` → ``bird3-bird2.png``."""
    bare = name.rpartition("/")[2].rpartition("_")[2]
    return bare if "." in bare else f"{bare}.png"


def _rows(table: Any) -> tuple[list[dict[str, Any]], str]:
    """Rows with the names of their columns in lower case, and the name of the table in messages."""
    where = str(table) if isinstance(table, str | Path) else "the table of responses"
    if isinstance(table, str | Path):
        table = _csv_rows(Path(table))
    elif hasattr(table, "to_pylist"):  # pyarrow
        table = table.to_pylist()
    elif hasattr(table, "to_dict"):  # pandas
        table = table.to_dict("records")
    elif isinstance(table, Mapping):
        table = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    try:
        rows = [{str(name).strip().lower(): value for name, value in dict(row).items()} for row in table]
    except (TypeError, ValueError) as error:
        kind = type(table).__name__
        raise InputError(
            f"{where} is a {kind}; expected a CSV file, a list of dictionaries or a data frame"
        ) from error
    for number, row in enumerate(rows, 1):
        if set(row) != set(rows[0]):
            raise InputError(f"{where}: row {number} has other columns than the first one")
    return rows, where


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, ValueError, zlib.error) as error:
        raise InputError(f"{path}: is not a readable CSV file of responses ({error})") from error
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(header):
            raise InputError(
                f"{path}: line {number} has {len(row)} cells, expected {len(header)} as the header"
            )
    return [dict(zip(header, row, strict=True)) for row in rows if row]


# -------------------------------------------------------------------------------------------- shape bias


@dataclass(frozen=True)
class Decisions:
    """Numbers of responses that named the shape, the texture, or neither.

    Attributes:
        shape, texture, other: number of responses that named the shape, the texture, neither.
        interval: 95% bootstrap interval of the bias over images; NaN if no response named either.
    """

    shape: int
    texture: int
    other: int
    interval: tuple[float, float]

    @property
    def bias(self) -> float:
        """Fraction of shape among the responses that named shape or texture; NaN if there is none."""
        decided = self.shape + self.texture
        return self.shape / decided if decided else math.nan

    @property
    def images(self) -> int:
        """Number of responses."""
        return self.shape + self.texture + self.other


@dataclass(frozen=True)
class ShapeBias:
    """The shape bias of one observer, or of several pooled.

    Attributes:
        decisions: over all images whose shape and texture differ.
        categories: the same for the images of each shape category.
        responses: all responses, including those to images of agreeing shape and texture.
    """

    decisions: Decisions
    categories: dict[str, Decisions]
    responses: list[Response] = field(repr=False)

    @property
    def overall(self) -> float:
        """Shape bias in [0, 1], pooled over categories."""
        return self.decisions.bias

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% bootstrap interval over images."""
        return self.decisions.interval

    @property
    def per_category(self) -> dict[str, float]:
        """Shape bias in [0, 1] of each shape category; NaN if no response named either cue."""
        return {name: found.bias for name, found in self.categories.items()}

    @property
    def accuracy(self) -> float:
        """Fraction of images for which shape or texture was named."""
        return (self.decisions.shape + self.decisions.texture) / self.decisions.images


def from_responses(table: Any, resamples: int = 10_000, seed: int = 0) -> ShapeBias:
    """Shape bias from a table of responses, such as the published raw data.

    Images whose shape and texture agree are left out. All rows are pooled, as published for humans; split a
    table of several networks first (`by_observer`).

    Args:
        table: columns image, shape, texture, response; anything that `read_responses` reads.
        resamples: bootstrap resamples for the intervals.
        seed: of the resampling.

    Raises:
        InputError: a table that cannot be read, or in which every shape agrees with its texture.
    """
    responses = read_responses(table)
    conflict = [one for one in responses if one.shape != one.texture]
    if not conflict:
        raise InputError("in every image shape and texture agree, so there is no conflict to decide")
    rng = np.random.default_rng(seed)
    categories = {
        name: _decisions([one for one in conflict if one.shape == name], resamples, rng)
        for name in sorted({one.shape for one in conflict})
    }
    return ShapeBias(_decisions(conflict, resamples, rng), categories, responses)


def _decisions(responses: Sequence[Response], resamples: int, rng: np.random.Generator) -> Decisions:
    shape = sum(one.response == one.shape for one in responses)
    texture = sum(one.response == one.texture for one in responses)
    count = len(responses)
    counts = np.array([shape, texture, count - shape - texture])
    # A resample of the images is a multinomial draw of the three counts.
    drawn = rng.multinomial(count, counts / count, resamples)
    decided = drawn[:, 0] + drawn[:, 1]
    biases = drawn[decided > 0, 0] / decided[decided > 0]
    low, high = np.quantile(biases, [0.025, 0.975]) if len(biases) else (math.nan, math.nan)
    return Decisions(shape, texture, count - shape - texture, (float(low), float(high)))


# ------------------------------------------------------------------------------ from a model to responses


def decide(probabilities: np.ndarray, categories: Mapped, aggregation: Aggregation = "mean") -> list[str]:
    """Name a category for each row of class probabilities.

    Args:
        probabilities: (N, K) of all classes.
        categories: category → indices of its classes.
        aggregation: of the probabilities of a category's classes; the mean is what the authors recommend,
            since a sum favours categories of many classes.

    Returns:
        N names; of equal scores the first in alphabetical order.

    Raises:
        InputError: an index outside the classes, or an unknown aggregation.
    """
    names = sorted(categories)
    values = np.stack(
        [category_scores(probabilities, categories[name], aggregation) for name in names], axis=1
    )
    return [names[index] for index in values.argmax(1)]


def category_scores(
    probabilities: np.ndarray, indices: Sequence[int], aggregation: Aggregation = "mean"
) -> np.ndarray:
    """(N,) aggregated probability of one category; arguments as of `decide`."""
    if aggregation not in ("mean", "sum", "max"):
        raise InputError(f"aggregation is {aggregation!r}, expected 'mean', 'sum' or 'max'")
    if not indices or max(indices) >= probabilities.shape[1] or min(indices) < 0:
        raise InputError(
            f"a category's classes are {list(indices)}, expected indices from 0 to "
            f"{probabilities.shape[1] - 1}"
        )
    return getattr(np, aggregation)(probabilities[:, list(indices)], axis=1)


def categories_for(split: Split, num_classes: int, known: Sequence[str] = ()) -> Mapped:
    """Which classes of a model belong to which category of the stimuli.

    ImageNet's 1000 classes are mapped as published. The classes of other models are found by the names of the
    categories; where the names of the model's classes are not known, a model of as many classes is assumed to
    have them in the order of the stimuli.

    Args:
        split: the stimuli.
        num_classes: number of classes of the model.
        known: names of its classes, where they are known.

    Raises:
        InputError: neither is the case, or a category of the stimuli is not one of the 16.

    Warns:
        AssumptionWarning: the order of the classes is assumed.
    """
    names = [name.lower() for name in split.class_names]
    if num_classes == len(names) or (known and num_classes != IMAGENET_CLASSES):
        found = class_positions(names, num_classes, known, split.name)
        return {name: (index,) for name, index in zip(names, found, strict=True)}
    if num_classes != IMAGENET_CLASSES:
        raise InputError(
            f"the model has {num_classes} classes and the stimuli {len(names)} categories: expected as many, "
            "or ImageNet's 1000 classes; otherwise pass the classes of each category"
        )
    if unknown := [name for name in names if name not in CATEGORIES]:
        raise InputError(
            f"{unknown[0]!r} is not one of the 16 categories that ImageNet's classes are mapped to: "
            f"{', '.join(CATEGORIES)}"
        )
    return CATEGORIES


def shape_bias(
    model: nn.Module | ClassifierView,
    cue_conflict: Split | str | Path,
    categories: Mapped | None = None,
    batch_size: int = 32,
    preprocess: Preprocess | None = None,
    track: Track = silent,
) -> ShapeBias:
    """Shape bias of a classifier on cue-conflict images.

    Args:
        model: images (B, 3, H, W) → logits (B, K).
        cue_conflict: the stimuli: a split whose ids are named SHAPEn-TEXTUREm, such as that of
            `heatbox.glyphs_cue_conflict`, or their path.
        categories: category → indices of its classes; by default those of `categories_for`.
        batch_size: images per forward pass.
        preprocess: from image to input; by default the model's own, with the image resized, not cropped.
        track: how to show progress.

    Raises:
        InputError: stimuli that cannot be read, or classes that do not fit them.
        TypeError: no model, stimuli that are neither a split nor a path, a batch size that is no integer.
    """
    network = model.model if isinstance(model, ClassifierView) else model
    check_module(network, "model")
    check_integer(batch_size, "batch_size")
    if not isinstance(cue_conflict, Split | str | Path):
        raise TypeError(f"cue_conflict: {kind_of(cue_conflict)}, expected a split or a path")
    split = cue_conflict if isinstance(cue_conflict, Split) else open_split(str(cue_conflict))
    prepare = preprocess or ModelOptions().preprocess(network)
    opened = open_for_network(split.open_image, prepare.channels)
    responses: list[Response] = []
    starts = range(0, len(split), batch_size)
    for start in track(starts, "shape bias", len(starts)):
        examples = split.examples[start : start + batch_size]
        images = torch.stack([prepare(opened(example)) for example in examples])
        responses += respond(network, images, [example.id for example in examples], split, categories)
    return from_responses(responses)


def respond(
    model: nn.Module,
    images: Tensor,
    ids: Iterable[str],
    split: Split,
    categories: Mapped | None = None,
    scores: ScoreFunction | None = None,
    output: str | None = None,
) -> list[Response]:
    """Responses of a classifier to a batch of preprocessed cue-conflict images (B, 3, H, W)."""
    with eval_mode(model), torch.inference_mode():
        logits = select_output(model(as_input(model, images)), output).double().cpu().numpy()
    function = score_function(scores, logits.shape[1], trained_function(model))
    probabilities = class_scores(logits, function)
    if categories is None:
        number = logits.shape[1]
        categories = categories_for(split, number, class_names(model, number))
    named = decide(probabilities, categories)
    return [Response(name, *shape_and_texture(name), one) for name, one in zip(ids, named, strict=True)]


def groups_of(bias: ShapeBias, category: str) -> dict[str, list[str]]:
    """Images of a shape category by the cue that was named: {"shape": ids, "texture": ids} (Fig. 17).

    Args:
        bias: of the model.
        category: the shape's, or `EVERY_CATEGORY` for the images of all.

    Raises:
        InputError: there is no such category.
    """
    if category not in (*bias.categories, EVERY_CATEGORY):
        raise InputError(f"there is no category {category!r}, expected one of {', '.join(bias.categories)}")
    chosen = [
        one for one in bias.responses if one.shape != one.texture and category in (one.shape, EVERY_CATEGORY)
    ]
    return {
        cue: [one.image for one in chosen if one.response == getattr(one, cue)]
        for cue in ("shape", "texture")
    }


# ---------------------------------------------------------------------------------------- over a data set

Numbers = dict[str, Any]


def open_stimuli(name: str) -> Split:
    """Cue-conflict images on disk, or drawn: "glyphs" (a folder of that name is ./glyphs)."""
    return glyphs_cue_conflict() if name == "glyphs" else open_split(name)


def measure(analysis: Analysis, model: ComparedModel, config: ShapeBiasConfig) -> Numbers:
    """Responses of one model to all stimuli, its shape bias, and the receptive fields of the groups.

    Raises:
        InputError: a model whose classes do not fit the stimuli, or an unknown category.
    """
    assert analysis.stimuli is not None
    run = analysis.start(model, "shape-bias", {"stimuli": config.stimuli})
    analysis.fill(run, model, partial(_records, model, analysis.stimuli), "responses", analysis.stimuli)
    bias = processes.from_first(partial(_bias_of, run, config.seed))
    numbers = numbers_of(bias)
    numbers["groups"] = _groups(analysis, model, bias, config, run)
    run.write_json(METRICS, numbers)
    return numbers


def _bias_of(run: Run, seed: int) -> ShapeBias:
    """The shape bias of the responses in a finished run."""
    responses = [
        Response(record["id"], record["shape"], record["texture"], record["response"])
        for batch in run.records()
        for record in batch
    ]
    return from_responses(responses, seed=seed)


def _records(model: ComparedModel, split: Split, examples: Sequence[Example], images: Tensor) -> list[Record]:
    ids = [example.id for example in examples]
    return [
        {"id": one.image, "shape": one.shape, "texture": one.texture, "response": one.response}
        for one in respond(
            model.view.model, images, ids, split, scores=model.spec.scores, output=model.spec.output
        )
    ]


def numbers_of(bias: ShapeBias) -> Numbers:
    """A shape bias in JSON."""
    return {
        "overall": bias.overall,
        "interval": bias.interval,
        "images": bias.decisions.images,
        "decided": bias.decisions.shape + bias.decisions.texture,
        "categories": {
            name: {"bias": found.bias, **asdict(found)} for name, found in bias.categories.items()
        },
    }


def _groups(
    analysis: Analysis, model: ComparedModel, bias: ShapeBias, config: ShapeBiasConfig, run: Run
) -> Numbers:
    """Category → "shape" and "texture" → receptive field of that group; a group without images is absent."""
    assert analysis.stimuli is not None
    by_id = {example.id: example for example in analysis.stimuli}
    found: Numbers = {}
    for category in chosen_categories(bias, config.group):
        found[category] = {}
        for cue, ids in groups_of(bias, category).items():
            path = run.folder / f"group-{category}-{cue}-{config.erf_size}-{config.group_images}.npz"
            if analysis.overwrite:
                path.unlink(missing_ok=True)
            if not ids:
                continue
            examples = [by_id[one] for one in ids[: config.group_images]]
            what = f"receptive field of {model.label}, {category} by {cue}"
            field = erf_of_examples(model, analysis.stimuli, examples, config, path, what, analysis.track)
            found[category][cue] = numbers_of_erf(field)
    return found


def chosen_categories(bias: ShapeBias, wanted: Sequence[str]) -> list[str]:
    """The categories whose groups are compared.

    Args:
        bias: of the model.
        wanted: names; "all" for the images of all categories; "none" for none; "auto" for clock, or if there
            is no such category the one with most images in its smaller group.

    Raises:
        InputError: an unknown category.
    """
    if "none" in wanted:
        return []
    names = []
    for name in wanted:
        if name != "auto":
            if name not in (*bias.categories, EVERY_CATEGORY):
                known = ", ".join(bias.categories)
                raise InputError(
                    f"there is no shape category {name!r}, expected one of {known}, {EVERY_CATEGORY}, auto, "
                    "none"
                )
            names.append(name)
        elif PREFERRED in bias.categories:
            names.append(PREFERRED)
        else:
            smaller = {key: min(one.shape, one.texture) for key, one in bias.categories.items()}
            names.append(max(smaller, key=lambda key: smaller[key]))
    return list(dict.fromkeys(names))


def draw(analysis: Analysis, found: dict[str, Numbers], config: ShapeBiasConfig) -> list[Path]:
    """The bias by category and overall, and r(t) of the groups of each category."""
    assert analysis.stimuli is not None
    # People and networks were published for the 16 categories.
    published = {name.lower() for name in analysis.stimuli.class_names} == set(CATEGORIES)
    drawn = figures.shape_bias(found, PUBLISHED if published else None)
    written = save_figure(drawn, analysis.figures / "shape-bias")
    for category, drawn in erf_figures.groups_by_category(found).items():
        written += save_figure(drawn, analysis.figures / f"erf-groups-{category}")
    return written


def headline(numbers: Numbers) -> Numbers:
    """The numbers of the comparison."""
    return {"shape_bias": numbers["overall"], "shape_bias_interval": numbers["interval"]}
