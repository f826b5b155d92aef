"""Thresholds and maps chosen without ground truth: by pseudo-boxes, and by agreement between maps.

*Thresholds.* The mean box of a random walk (`heatbox.inference.boxes.MEAN_OF`) needs no threshold. It is
taken for the ground truth of its image, and the threshold of every map, the walk's own included, is the one
at which MaxBoxAcc and MaxBoxAccV2 against these boxes are highest.

*Maps.* At their pseudo thresholds, boxes of the maps are compared with each other. The IoU of a map's boxes
with those of the other maps, averaged over images and maps, is corrected for chance: with p that mean and e
the same with the other maps' boxes of *other* images, the agreement is (p - e) / (1 - e), as Cohen's kappa
("A Coefficient of Agreement for Nominal Scales", 1960) is of two raters. Boxes that do not depend on the
image have an agreement of 0. docs/thresholds.md has what both lose.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from heatbox._utils.devices import available_cores
from heatbox.boxes.contours import Protocol
from heatbox.boxes.ops import REFERENCE_FRAME, REFERENCE_SIDE, box_iou, scaled_truth
from heatbox.config import MetricName
from heatbox.errors import InputError
from heatbox.evaluation.run import Run
from heatbox.evaluation.scorers import RECORDS_AT_A_TIME
from heatbox.evaluation.summary import LARGEST, SplitScore
from heatbox.inference.boxes import frame_boxes, map_to_boxes
from heatbox.inference.confidence import is_large

SHIFTS = 7
"""Other images whose boxes the chance agreement is of."""
FEWEST_MAPS = 3
"""Of two maps the agreement is the same, so that neither can be chosen."""
AGREEMENT_IMAGES = 2000
"""Images that the agreement is computed on at most, evenly spaced in the run."""


@dataclass(frozen=True)
class PseudoScores:
    """The scores of maps against pseudo-boxes in place of the ground truth.

    Attributes:
        source: name of the map whose mean boxes they are.
        scores: map → its scores on the images that have a pseudo-box.
        right: (N,) booleans, whether each pseudo-box reaches IoU .5 with an object; empty if unknown.
        agreement: map → chance-corrected agreement with the other maps; empty if there are too few.
    """

    source: str
    scores: Mapping[str, SplitScore]
    right: np.ndarray
    agreement: Mapping[str, float]


def pseudo_source(methods: Sequence[str], metrics: Sequence[MetricName], where: object) -> str | None:
    """The map that pseudo-boxes are made of, if they are asked for: the first random walk, or map of the
    foreground, of a run.

    Raises:
        InputError: they were asked for by name, and there is no such map.
    """
    if not {"pseudo_boxes", "all"} & set(metrics):
        return None
    found = next((name for name in methods if is_large(name)), None)
    if found is None and "pseudo_boxes" in metrics:
        raise InputError(
            f"{where}: pseudo-boxes are mean boxes of a random walk, but the maps are {', '.join(methods)}; "
            "add walk to --method"
        )
    return found


def pseudo_box(raw_map: Any, protocol: Protocol = "reference", normalize: str = "min-max") -> np.ndarray:
    """(K, 4) float64 xyxy, the mean box of a map in the 224 x 224 frame; K is 0 where the map is constant."""
    return map_to_boxes(raw_map, REFERENCE_FRAME, "mean", protocol=protocol, normalize=normalize)


def is_right(box: np.ndarray, boxes: np.ndarray, size: Sequence[float], protocol: Protocol) -> bool:
    """Whether the IoU of a box in the 224 x 224 frame with one of an image reaches one half, as the protocol
    compares them."""
    truth = scaled_truth(boxes, size, REFERENCE_FRAME, protocol)
    inclusive = protocol == "reference"
    ends = np.minimum(box, REFERENCE_SIDE - 1) if inclusive else box
    return bool(box_iou(ends[None], truth, inclusive=inclusive).max(initial=0) >= 0.5)


def threshold_box(raw_map: Any, threshold: float, protocol: Protocol, normalize: str) -> np.ndarray:
    """(4,) box of the largest contour in the 224 x 224 frame, (0, 0, 1, 1) if there is none."""
    found = frame_boxes(raw_map, threshold, "largest", protocol, normalize)
    return found[0].astype(np.float64) if len(found) else np.array([0.0, 0.0, 1.0, 1.0])


def agreement(boxes: Mapping[Any, np.ndarray]) -> dict[Any, float]:
    """Chance-corrected agreement of the boxes of each map with those of the others.

    Args:
        boxes: map → (N, 4) float64 xyxy, one box of each image; images in the same order.

    Returns:
        map → at most 1; 0 of boxes that do not depend on the image. Maps with the same boxes count as one.
        Empty for less than three maps, or one image.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> corner = rng.uniform(0, 60, (100, 2))
        >>> seen = np.concatenate([corner, corner + 50], 1)
        >>> found = agreement({"a": seen, "b": seen + 1, "same": np.tile([20.0, 20, 90, 90], (100, 1))})
        >>> {name: round(value, 1) for name, value in found.items()}
        {'a': 0.5, 'b': 0.5, 'same': 0.0}
    """
    found = {each.tobytes(): each for each in boxes.values()}
    images = len(next(iter(boxes.values()), ()))
    if len(found) < FEWEST_MAPS or images < 2:
        return {}
    shifts = sorted({round(images * k / (SHIFTS + 1)) % images for k in range(1, SHIFTS + 1)} - {0}) or [1]
    agreeing = {}
    for name, own in found.items():
        others = [each for other, each in found.items() if other != name]
        same = np.mean([_ious(own, each).mean() for each in others])
        chance = np.mean([_ious(own, np.roll(each, k, axis=0)).mean() for each in others for k in shifts])
        agreeing[name] = float((same - chance) / (1 - chance)) if chance < 1 else 0.0
    return {name: agreeing[each.tobytes()] for name, each in boxes.items()}


def _ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) IoU of each box with the one at the same place."""
    shared = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    inside = np.maximum(shared, 0).prod(1)
    areas = [(one[:, 2:] - one[:, :2]).prod(1) for one in (first, second)]
    return np.asarray(inside / (areas[0] + areas[1] - inside))


def agreement_of(
    run: Run, scores: Mapping[str, SplitScore], protocol: Protocol, normalize: str, ids: Sequence[str]
) -> dict[str, float]:
    """Agreement of the boxes of a run's maps, each at the threshold that its score is best at."""
    boxes = boxes_at_best(run, scores, protocol, normalize, some_of(ids))
    return agreement({name: np.array([*each.values()]) for name, each in boxes.items()})


def some_of(ids: Sequence[str]) -> set[str]:
    """The images that an agreement is computed on."""
    return set(ids[:: -(-len(ids) // AGREEMENT_IMAGES)])


def boxes_at_best(
    run: Run, scores: Mapping[str, SplitScore], protocol: Protocol, normalize: str, ids: Container[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Map → id → (4,) box in the 224 x 224 frame at the threshold that its MaxBoxAcc is best at.

    Args:
        run: the run.
        scores: map → its scores.
        protocol: how maps are binarized.
        normalize: how maps are brought to [0, 1].
        ids: of the images.
    """
    at = {name: float(one.scores[LARGEST].threshold[one.half]) for name, one in scores.items()}
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in scores}
    for batch in run.records(RECORDS_AT_A_TIME):
        some = [record for record in batch if record["id"] in ids]
        for name, threshold in at.items():
            box_of = partial(threshold_box, threshold=threshold, protocol=protocol, normalize=normalize)
            boxes = boxes_of_maps(box_of, [record[f"map_{name}"] for record in some])
            found[name] |= {record["id"]: box for record, box in zip(some, boxes, strict=True)}
    return found


def boxes_of_maps(work: Callable[[np.ndarray], np.ndarray], maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The box that `work` makes of each map, on all cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(work, maps))
