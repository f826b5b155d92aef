"""Average precision of boxes with confidences, as the COCO evaluation defines it (Lin et al., ECCV 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heatbox.boxes.ops import box_iou
from heatbox.errors import InputError

COCO_IOU = np.arange(50, 100, 5) / 100
_RECALLS = np.linspace(0, 1, 101)


def coco_average_precision(
    found: Sequence[tuple[Any, Any, Any]],
    truth: Sequence[tuple[Any, Any]],
    iou: Sequence[float] | np.ndarray = COCO_IOU,
) -> np.ndarray:
    """Average precision at some IoUs, averaged over the classes that the ground truth contains.

    In each image the boxes of a class are matched with those of the ground truth from the most confident on;
    each takes the free box of highest IoU. Precision is made monotonous and averaged over 101 recalls. Unlike
    in COCO's evaluation the number of boxes per image is not limited; there are no crowds.

    Args:
        found: for each image the boxes (K, 4) xyxy, half-open, their classes (K,) and confidences (K,).
        truth: for each image the true boxes (N, 4) and their classes (N,).
        iou: least IoU of a match, one or several.

    Returns:
        (len(iou),) float64 in [0, 1]; NaN if the ground truth has no box.

    Raises:
        InputError: another number of images, or arrays of other lengths in one of them.
    """
    if len(found) != len(truth):
        raise InputError(f"boxes of {len(found)} images and ground truth of {len(truth)}, expected as many")
    ours = [(np.reshape(one[0], (-1, 4)), np.asarray(one[1]), np.asarray(one[2], float)) for one in found]
    theirs = [(np.reshape(one[0], (-1, 4)), np.asarray(one[1])) for one in truth]
    for index, arrays in enumerate(zip(ours, theirs, strict=True)):
        if any(len({len(array) for array in one}) > 1 for one in arrays):
            raise InputError(f"image {index}: boxes, classes and confidences differ in number")
    classes = np.unique(np.concatenate([np.zeros(0, int), *(kinds for _, kinds in theirs)]))
    levels = np.asarray(iou, dtype=np.float64)
    if not len(classes):
        return np.full(len(levels), np.nan)
    every = [_of_class(ours, theirs, label, levels) for label in classes.tolist()]
    return np.asarray(np.mean(every, axis=0))


def _of_class(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    truth: Sequence[tuple[np.ndarray, np.ndarray]],
    label: int,
    iou: np.ndarray,
) -> np.ndarray:
    """(T,) average precision of one class."""
    scores, hits, total = [np.zeros(0)], [np.zeros((len(iou), 0), bool)], 0
    for (boxes, kinds, confidence), (true_boxes, true_kinds) in zip(found, truth, strict=True):
        own, wanted = kinds == label, true_boxes[true_kinds == label]
        total += len(wanted)
        if own.any():
            order = np.argsort(-confidence[own], kind="stable")
            scores.append(confidence[own][order])
            hits.append(_matched(box_iou(boxes[own][order], wanted, inclusive=False), iou))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.concatenate(hits, axis=1)[:, order].cumsum(1)  # (T, K)
    recall, precision = right / total, right / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(precision, ((0, 0), (0, 1)))  # precision 0 at recalls that are not reached
    at = [np.searchsorted(row, _RECALLS, side="left") for row in recall]
    return np.array([row[places].mean() for row, places in zip(padded, at, strict=True)])


def _matched(overlap: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """(T, K) bool: which of K boxes in order of confidence are matched, at each IoU; `overlap` is (K, N)."""
    right = np.zeros((len(iou), len(overlap)), bool)
    for t, least in enumerate(iou):
        free = np.ones(overlap.shape[1], bool)
        for k, row in enumerate(overlap):
            best = np.where(free, row, -1)
            if len(best) and best.max() >= min(least, 1 - 1e-10):
                free[int(best.argmax())] = False
                right[t, k] = True
    return right
