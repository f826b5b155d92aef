"""Scores of a classification: accuracy of each class, confusion matrix, average precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from heatbox.metrics.functional import label_rank, rank_counts, topk_accuracy


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Number of images of each class (row) that are taken for each class (column).

    Args:
        labels: (N,) class indices.
        predicted: (N,) class indices.
        num_classes: number of classes K.

    Returns:
        (K, K) int64.

    Examples:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under precision over recall, the sum of ``(R_n - R_{n-1}) P_n`` over the thresholds.

    Equal scores are one threshold, so that the result does not depend on the order of the images.

    Args:
        scores: (N,), higher for images that more likely are of the class.
        positive: (N,) bool, whether they are.

    Returns:
        in [0, 1]; NaN if no image is of the class.

    Examples:
        >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])).__round__(3)
        0.833
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked, right = np.asarray(scores)[order], np.asarray(positive, bool)[order]
    if not right.any():
        return float("nan")
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(right)[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def single_label_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores of a classification of images of one class each.

    Args:
        logits: (N, K).
        labels: (N,) class indices.

    Returns:
        "top1" and "top5" in percent; "balanced", the mean of the classes' accuracies in percent;
        "per_class", for each class "images", "accuracy" (fraction of its images that are taken for it) and
        "precision" (fraction of the images taken for it that are of it), both in percent, None where there
        is no such image; and "confusion", (K, K) as `confusion_matrix`. All accuracies are None without
        images.
    """
    classes = logits.shape[1]
    matrix = confusion_matrix(labels, logits.argmax(1) if len(logits) else labels, classes)
    right, of_class, taken = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    accuracy = [_percent(*pair) for pair in zip(right, of_class, strict=True)]
    known = [one for one in accuracy if one is not None]
    ranks = rank_counts(label_rank(logits, labels))
    return {
        **(topk_accuracy(ranks) if len(logits) else {"top1": None, "top5": None}),
        "balanced": float(np.mean(known)) if known else None,
        "per_class": [
            {"images": int(of_class[k]), "accuracy": accuracy[k], "precision": _percent(right[k], taken[k])}
            for k in range(classes)
        ],
        "confusion": matrix,
    }


def multi_label_scores(logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Scores of a classification in which each class is decided alone; a class is found at a logit above 0.

    Args:
        logits: (N, K), of which the sigmoid is the probability of a class.
        targets: (N, K) bool, whether an image is of a class.

    Returns:
        "mAP", the mean of the classes' average precisions; "top1", how often the class of the highest logit
        is one of the image's classes, among images of at least one; "balanced", the mean over the classes of
        the mean of recall and specificity; all in percent and None where there are no images for it.
        "per_class", for each class "images", "AP", "recall" and "precision" in percent; and "confusion", (K,
        2, 2) with ``[[true negatives, false positives], [false negatives, true positives]]`` for each class.
    """
    targets, found = np.asarray(targets, bool), logits > 0
    counts = np.array(
        [[(~targets & ~found).sum(0), (~targets & found).sum(0)],
         [(targets & ~found).sum(0), (targets & found).sum(0)]]
    ).transpose(2, 0, 1)  # fmt: skip
    rows, balanced = [], []
    for k, ((negative, wrong), (missed, right)) in enumerate(counts):
        precision = average_precision(logits[:, k], targets[:, k]) if len(logits) else float("nan")
        rows.append(
            {
                "images": int(missed + right),
                "AP": None if np.isnan(precision) else 100 * precision,
                "recall": _percent(right, missed + right),
                "precision": _percent(right, wrong + right),
            }
        )
        halves = [_percent(right, missed + right), _percent(negative, negative + wrong)]
        balanced += [np.mean([one for one in halves if one is not None])] if None not in halves else []
    some = targets.any(1)
    best = logits[some].argmax(1) if some.any() else np.zeros(0, np.int64)
    precisions = [row["AP"] for row in rows if row["AP"] is not None]
    return {
        "mAP": float(np.mean(precisions)) if precisions else None,
        "top1": _percent(targets[some, best].sum(), some.sum()),
        "balanced": float(np.mean(balanced)) if balanced else None,
        "per_class": rows,
        "confusion": counts,
    }


def _percent(part: float, whole: float) -> float | None:
    return 100 * float(part) / float(whole) if whole else None
