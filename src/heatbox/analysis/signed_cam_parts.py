"""What a class activation map is made of: channels of high and of low weight, and the maps that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from heatbox.analysis.config import DataConfig
from heatbox.analysis.subjects import Subject, check_labels
from heatbox.data.types import Example, Split
from heatbox.maps.cam import Signs, cam
from heatbox.maps.normalize import normalize_heatmap
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input
from heatbox.visualization.overlay import TRUTH_COLOUR, Cell, draw_boxes, image_grid, overlay, save_sheet

SIGNS: tuple[Signs, ...] = ("positive", "negative", "all")


@dataclass(frozen=True)
class Parts:
    """The parts of one image's CAM (supplement 11 and 12, Fig. 2 and 15).

    Attributes:
        weights: (2n,) class weights: the n highest from the highest down, then the n lowest, the lowest last.
        channels: (2n, h, w) their feature maps.
        maps: "positive", "negative" and "all" → (h, w) CAM from channels of that sign of the weight.
    """

    weights: np.ndarray
    channels: np.ndarray
    maps: dict[Signs, np.ndarray]


def parts_of(view: ClassifierView, image: torch.Tensor, target: int, count: int = 3) -> Parts:
    """The channels of highest and of lowest weight of an image's class, and what CAM makes of all of them.

    Args:
        view: of the network.
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
    return Parts(weights[0, chosen].cpu().numpy(), features[0, chosen].float().cpu().numpy(), maps)


def draw_parts(
    subjects: Sequence[Subject], split: Split, config: DataConfig, path: Path, side: int = 112
) -> Path:
    """A sheet with a row a network: the first image, its channels, and CAM from each sign of the weights.

    Raises:
        InputError: a network that cannot be seen through, or labels it has no class for.
    """
    check_labels(subjects, split, config)
    rows = [_row(subject, split, split.examples[0], side) for subject in subjects]
    count = (len(rows[0]) - 1 - len(SIGNS)) // 2
    headings = ["image", "channels of highest weight w", *[""] * (count - 1)]
    headings += ["channels of lowest weight w", *[""] * (count - 1)]
    headings += ["CAM from weights that are", *[""] * (len(SIGNS) - 1)]
    words = "each channel and map over its own range, violet lowest, yellow highest; white: ground truth"
    return save_sheet(image_grid(rows, side, words, headings), path)


def _row(subject: Subject, split: Split, example: Example, side: int) -> list[Cell]:
    picture = split.open_image(example)
    parts = parts_of(subject.view, as_input(subject.view.model, subject.preprocess()(picture)), example.label)
    small = picture.resize((side, side), Image.Resampling.BILINEAR)
    truth = example.boxes * side / np.tile(example.size, 2)

    def shown(raw: np.ndarray, words: str) -> Cell:
        return Cell(draw_boxes(overlay(small, normalize_heatmap(raw, side)), truth, TRUTH_COLOUR), words)

    cells = [Cell(draw_boxes(small, truth, TRUTH_COLOUR), subject.label)]
    cells += [
        shown(one, f"w {weight:+.2f}") for one, weight in zip(parts.channels, parts.weights, strict=True)
    ]
    return cells + [shown(parts.maps[signs], signs) for signs in SIGNS]
