"""Class activation maps by the sign of the class weights, and the thresholds at which maps score best.

CAM Back Again, supplement 11 and 12 (Fig. 2, 15): channels of negative weight are also active on the object,
so that CAM without them localizes better. One measurement of each model is used for these figures and for the
curves of `heatbox.analysis.thresholds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from heatbox._utils import processes
from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import DataConfig, MapsConfig
from heatbox.analysis.runner import with_classes_of
from heatbox.analysis.thresholds import threshold_curve
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.config import EvaluateConfig
from heatbox.data.files.images import open_for_network
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.images import require_same_labels
from heatbox.evaluation.predict import make_maps, save_scores
from heatbox.evaluation.predict import prepare as prepare_maps
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.inference.boxes import place_map
from heatbox.maps.cam import Signs, cam
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input
from heatbox.visualization.figures import maps as figures
from heatbox.visualization.figures.style import save_figure
from heatbox.visualization.overlay import (
    TRUTH_COLOUR,
    Cell,
    contact_sheet,
    draw_boxes,
    image_grid,
    overlay,
    save_png,
    save_sheet,
)

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis, ComparedModel

Numbers = dict[str, Any]
SIGNS: tuple[Signs, ...] = ("positive", "negative", "all")
SIGNED = ("cam", "cam-positive", "cam-negative")
METHODS = (*SIGNED, "pc1")
AREA_THRESHOLDS = np.arange(20) / 20
_HALF = 10  # index of .5


def activated_area(maps: Tensor | np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction of each map that lies above a fraction of its own range.

    Args:
        maps: (N, h, w), any range; each is scaled to [0, 1] by its extremes first. A constant map counts as
            zeros.
        thresholds: (T,) in [0, 1).

    Returns:
        (N, T) float64: the area that binarizing the map at each threshold would keep.

    Raises:
        InputError: not (N, h, w).
    """
    values = torch.as_tensor(maps).detach().double().cpu()
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"maps have shape {tuple(values.shape)}, expected (N, h, w), none of them 0")
    flat = values.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scaled = torch.where(high > low, (flat - low) / torch.where(high > low, high - low, 1), 0)
    ordered = scaled.sort(1).values
    wanted = torch.as_tensor(thresholds, dtype=torch.float64).expand(len(flat), -1).contiguous()
    below = torch.searchsorted(ordered, wanted, right=True)
    return (1 - below / flat.shape[1]).numpy()


# ---------------------------------------------------------------------------------------- over a data set


def prepare(analysis: Analysis, config: MapsConfig) -> MapsConfig:
    """Refuse images whose classes are not those of every model."""
    analysis.match(config)
    return config


def measure(analysis: Analysis, model: ComparedModel, config: MapsConfig) -> Numbers:
    """Make and score the maps of one model.

    Returns:
        "scores" (see `heatbox.evaluation.summary.table_of`), "areas" (see `areas_of`) and "curves" (method →
        score at every threshold).

    Raises:
        InputError: images without boxes, or as `heatbox.evaluation.predict.evaluate`.
    """
    run = Run(model.folder / "maps")
    # Without model_options, which 0.1.0 did not record here: its folders are resumed.
    spec = {name: value for name, value in vars(model.spec).items() if name != "model_options"}
    asked = EvaluateConfig(
        **spec,
        data=config.data,
        metadata=config.metadata,
        method=METHODS,
        target=config.target,
        norm=config.norm,
        thresholds=config.thresholds,
        limit=config.limit,
        batch_size=config.batch_size,
    )
    run.start(asked, config.seed, resume=not analysis.overwrite)
    images = analysis.images_of(model, config)
    if config.target == "label":
        require_same_labels(run, images)
    # Decided once: a process that comes later could find what the first has written since.
    if processes.from_first(lambda: run.finished and (run.folder / METRICS).exists()):
        scores = run.metrics()
    else:
        ready = prepare_maps(asked, model.view.model, images)
        make_maps(ready, run, analysis.track)
        work = partial(
            save_scores, run, None, ready.config, ready.config.method, ready.function, analysis.track
        )
        scores = processes.from_first(work)
    numbers = {
        "scores": scores,
        "areas": processes.from_first(partial(areas_of, run, analysis.track)),
        "curves": {
            name: asdict(threshold_curve(scores["methods"][name], scores["images"])) for name in METHODS
        },
    }
    run.write_json("instruments.json", {key: numbers[key] for key in ("areas", "curves")})
    return numbers


def areas_of(run: Run, track: Track = silent) -> Numbers:
    """Area of each signed map at each threshold, and of the boxes, as fractions of the image."""
    areas: dict[str, list[np.ndarray]] = {name: [] for name in SIGNED}
    objects: list[float] = []
    for batch in track(run.records(64), "activated areas", -(-len(run) // 64)):
        objects += [_covered(record) for record in batch]
        for name, found in areas.items():
            maps = np.stack([normalize_heatmap(record[f"map_{name}"], REFERENCE_SIDE) for record in batch])
            found.append(activated_area(maps, AREA_THRESHOLDS))
    whole = {name: np.concatenate(found) for name, found in areas.items()}
    both = np.stack([whole["cam"][:, _HALF], whole["cam-positive"][:, _HALF]])  # (2, N)
    counts = np.random.default_rng(0).multinomial(
        both.shape[1], np.full(both.shape[1], 1 / both.shape[1]), 2000
    )
    drawn = both @ counts.T
    ratios = drawn[0] / np.maximum(drawn[1], 1e-12)
    return {
        "thresholds": AREA_THRESHOLDS,
        "area": {name: found.mean(0) for name, found in whole.items()},
        "ratio": float(both[0].sum() / max(both[1].sum(), 1e-12)),
        "ratio_interval": np.quantile(ratios, [0.025, 0.975]),
        "shrunk_share": float((both[0] < both[1]).mean()),
        "object": float(np.mean(objects)),
        "images": both.shape[1],
    }


def _covered(record: Record) -> float:
    """Fraction of the image under the union of the boxes, on a grid of 224 x 224."""
    scale = REFERENCE_SIDE / np.tile([record["width"], record["height"]], 2)
    mask = np.zeros((REFERENCE_SIDE, REFERENCE_SIDE), bool)
    for x1, y1, x2, y2 in (record["boxes"] * scale).round().astype(int):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
    return float(mask.mean())


def draw(analysis: Analysis, found: dict[str, Numbers], config: MapsConfig) -> list[Path]:
    """Scores and areas of maps from positive weights, negative weights and all; a contact sheet per model."""
    scores = {
        label: {
            name: {**numbers["scores"]["methods"][name], "images": numbers["scores"]["images"]}
            for name in SIGNED
        }
        | {"images": numbers["scores"]["images"]}
        for label, numbers in found.items()
    }
    written = save_figure(figures.signed_scores(scores), analysis.figures / "signed-cam-scores")
    areas = {label: numbers["areas"] for label, numbers in found.items()}
    written += save_figure(figures.signed_areas(areas), analysis.figures / "signed-cam-areas")
    for model in analysis.models:
        path = analysis.figures / f"signed-cam-{model.folder.name}.png"
        records = {model.label: Run(model.folder / "maps").records()}
        sheet = contact_sheet(records, analysis.images, SIGNED, config.examples, 160)
        written.append(save_png(sheet, path))
    return written


def draw_thresholds(analysis: Analysis, found: dict[str, Numbers], config: MapsConfig) -> list[Path]:
    """Score against threshold, CAM and PC1."""
    curves = {
        method: {label: numbers["curves"][method] for label, numbers in found.items()}
        for method in ("cam", "pc1")
    }
    return save_figure(figures.threshold_curves(curves), analysis.figures / "thresholds")


def headline(numbers: Numbers) -> Numbers:
    """The numbers of the comparison."""
    methods = numbers["scores"]["methods"]
    return {
        "cam_MaxBoxAcc": methods["cam"]["MaxBoxAcc"],
        "cam_MaxBoxAcc_interval": methods["cam"]["MaxBoxAcc_interval"],
        "cam_MaxBoxAccV2": methods["cam"]["MaxBoxAccV2"],
        "cam_MaxBoxAccV2_interval": methods["cam"]["MaxBoxAccV2_interval"],
        "pc1_MaxBoxAccV2": methods["pc1"]["MaxBoxAccV2"],
        "cam_threshold": methods["cam"]["threshold"],
        "pc1_threshold": methods["pc1"]["threshold"],
        "area_all_over_positive": numbers["areas"]["ratio"],
    }


# ----------------------------------------------------------------------------------- one image in detail


@dataclass(frozen=True)
class SignedCam:
    """The CAM of one image by the sign of the class weights (supplement 11 and 12, Fig. 2 and 15).

    Attributes:
        weights: (2n,) class weights in descending order: the n highest, then the n lowest.
        channels: (2n, h, w) their feature maps.
        maps: "positive", "negative" and "all" → (h, w) CAM from channels of that sign of the weight.
    """

    weights: np.ndarray
    channels: np.ndarray
    maps: dict[Signs, np.ndarray]


def signed_cam(view: ClassifierView, image: Tensor, target: int, count: int = 3) -> SignedCam:
    """The channels of highest and of lowest weight for a class, and CAM from each sign of the weights.

    Args:
        view: of the model.
        image: (3, H, W), preprocessed.
        target: the class.
        count: number n of channels of each kind.
    """
    with torch.inference_mode():
        features, _ = view(image[None])
        targets = torch.tensor([target], device=features.device)
        weights, _ = view.class_weights(features, targets)
        order = weights[0].argsort(descending=True)
        chosen = torch.cat([order[:count], order[-count:]])
        maps = {signs: cam(features, weights, signs)[0].cpu().numpy() for signs in SIGNS}
    return SignedCam(weights[0, chosen].cpu().numpy(), features[0, chosen].float().cpu().numpy(), maps)


def draw_signed_cam(
    models: Sequence[ComparedModel], split: Split, config: DataConfig, path: Path, side: int = 112
) -> Path:
    """A sheet with a row per model: the first image, its channels, and CAM from each sign of the weights.

    Raises:
        InputError: a model whose head cannot be traced, or labels it has no class for.
    """
    rows = [_row(model, with_classes_of(model, split, config).examples[0], split, side) for model in models]
    count = (len(rows[0]) - 1 - len(SIGNS)) // 2
    headings = ["image", "channels of highest weight w", *[""] * (count - 1)]
    headings += ["channels of lowest weight w", *[""] * (count - 1)]
    headings += ["CAM from weights that are", *[""] * (len(SIGNS) - 1)]
    words = "each channel and map over its own range, violet lowest, yellow highest; white: ground truth"
    return save_sheet(image_grid(rows, side, words, headings), path)


def _row(model: ComparedModel, example: Example, split: Split, side: int) -> list[Cell]:
    image, network = split.open_image(example), model.view.model
    preprocess = model.spec.preprocess(network)
    opened = open_for_network(split.open_image, preprocess.channels)(example)
    extent = preprocess.extent(image.size)
    inputs = as_input(network, preprocess(opened))
    found = signed_cam(model.view, inputs, example.label)
    small = image.resize((side, side), Image.Resampling.BILINEAR)
    truth = example.boxes * side / np.tile(example.size, 2)

    def shown(raw: np.ndarray, words: str) -> Cell:
        whole = raw if preprocess.crop_pct is None else place_map(raw, extent, (side, side))
        return Cell(draw_boxes(overlay(small, normalize_heatmap(whole, side)), truth, TRUTH_COLOUR), words)

    cells = [Cell(draw_boxes(small, truth, TRUTH_COLOUR), model.label)]
    cells += [
        shown(one, f"w {weight:+.2f}") for one, weight in zip(found.channels, found.weights, strict=True)
    ]
    return cells + [shown(found.maps[signs], signs) for signs in SIGNS]
