"""Shape bias of several networks, and the receptive fields of what shape and what texture decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import ShapeBiasConfig
from heatbox.analysis.erf import erf_of_examples, numbers_of
from heatbox.analysis.imagenet_categories import CATEGORIES
from heatbox.analysis.responses import Response
from heatbox.analysis.shape_bias import (
    EVERY_CATEGORY,
    PUBLISHED,
    ShapeBias,
    answers,
    categories_for,
    from_responses,
    groups_of,
)
from heatbox.analysis.subjects import Subject
from heatbox.data.glyphs import glyphs_cue_conflict
from heatbox.data.open import open_split
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.collect import collect
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.visualization.figures import erf as erf_figures
from heatbox.visualization.figures import shape_bias as figures
from heatbox.visualization.figures.style import save_figure

Numbers = dict[str, Any]
PREFERRED = "clock"
"""The category that the source shows (supplement 10, Fig. 17)."""


def open_stimuli(name: str) -> Split:
    """Cue-conflict images on disk, or drawn: "glyphs" (a folder of that name is ./glyphs)."""
    return glyphs_cue_conflict() if name == "glyphs" else open_split(name)


def are_published(split: Split) -> bool:
    """Whether the stimuli have the 16 categories for which people and networks were published."""
    return {name.lower() for name in split.class_names} == set(CATEGORIES)


def measure(
    subject: Subject, split: Split, config: ShapeBiasConfig, overwrite: bool = False, track: Track = silent
) -> Numbers:
    """Answers of one network to all stimuli, its shape bias, and the receptive fields of the groups.

    Raises:
        InputError: a network whose classes do not fit the stimuli, or a category that there is not.
    """
    run = subject.run("shape-bias", {"stimuli": config.stimuli}, config.seed, overwrite)
    if not run.finished:
        categories = categories_for(split, subject.view.num_classes)

        def records(examples: Sequence[Example], images: Tensor) -> list[Record]:
            ids = [example.id for example in examples]
            said = answers(subject.view.model, images, ids, split, categories)
            return [
                {"id": one.image, "shape": one.shape, "texture": one.texture, "response": one.response}
                for one in said
            ]

        what = f"answers of {subject.label}"
        collect(split, subject.preprocess(), config.batch_size, run, records, what, track)
        run.finish()
    bias = from_responses(read_answers(run), seed=config.seed)
    numbers = numbers_of_bias(bias)
    numbers["groups"] = _groups(subject, split, bias, config, run, overwrite, track)
    run.write_json(METRICS, numbers)
    return numbers


def read_answers(run: Run) -> list[Response]:
    """The answers that a run holds."""
    return [
        Response(record["id"], record["shape"], record["texture"], record["response"])
        for batch in run.records()
        for record in batch
    ]


def numbers_of_bias(bias: ShapeBias) -> Numbers:
    """What is said of a shape bias in JSON."""
    return {
        "overall": bias.overall,
        "interval": bias.interval,
        "images": bias.decisions.images,
        "decided": bias.decisions.shape + bias.decisions.texture,
        "categories": {
            name: {
                "bias": found.bias,
                "interval": found.interval,
                "shape": found.shape,
                "texture": found.texture,
                "other": found.other,
            }
            for name, found in bias.categories.items()
        },
    }


def _groups(
    subject: Subject,
    split: Split,
    bias: ShapeBias,
    config: ShapeBiasConfig,
    run: Run,
    overwrite: bool,
    track: Track,
) -> Numbers:
    """Category → "shape" and "texture" → receptive field of that group; a group without images is absent."""
    by_id = {example.id: example for example in split}
    found: Numbers = {}
    for category in chosen_categories(bias, config.group):
        found[category] = {}
        for cue, ids in groups_of(bias, category).items():
            name = f"group-{category}-{cue}-{config.erf_size}-{config.group_images}.npz"
            if overwrite:
                (run.folder / name).unlink(missing_ok=True)
            if not ids:
                continue
            examples = [by_id[one] for one in ids[: config.group_images]]
            field = erf_of_examples(
                subject.view,
                split,
                examples,
                subject.preprocess(config.erf_size, "bicubic"),
                config.erf_batch_size,
                run.folder / name,
                f"receptive field of {subject.label}, {category} by {cue}",
                track,
            )
            found[category][cue] = numbers_of(field)
    return found


def chosen_categories(bias: ShapeBias, wanted: Sequence[str]) -> list[str]:
    """The categories whose groups are compared.

    Args:
        bias: of the network.
        wanted: names; "all" for the images of all categories; "none" for none; "auto" for clock, or where
            there is no such category the one with most images in its smaller group.

    Raises:
        InputError: a category that there is not.
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


def draw(found: dict[str, Numbers], out: Path, published: bool) -> list[Path]:
    """The bias by category and overall, and r(t) of the groups of each category.

    Args:
        found: label → numbers.
        out: folder of the figures.
        published: whether the stimuli are those for which people and networks were published.
    """
    written = save_figure(figures.shape_bias(found, PUBLISHED if published else None), out / "shape-bias")
    categories = dict.fromkeys(name for numbers in found.values() for name in numbers["groups"])
    for category in categories:
        both = {
            label: numbers["groups"][category]
            for label, numbers in found.items()
            if numbers["groups"].get(category)
        }
        if both:
            written += save_figure(erf_figures.groups(both, category), out / f"erf-groups-{category}")
    return written


def headline(numbers: Numbers) -> dict[str, Any]:
    """The numbers that the comparison shows."""
    return {"shape_bias": numbers["overall"], "shape_bias_interval": numbers["interval"]}
