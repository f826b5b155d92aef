"""Accuracy and localization scores of a network during its training, over all processes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from heatbox._utils.progress import Track, silent
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.data.loader import preprocessed
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Split
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.registry import MapInputs, find_method
from heatbox.metrics.base import sum_over_processes
from heatbox.metrics.collection import BoxMetrics
from heatbox.metrics.functional import label_rank, rank_counts, topk_accuracy
from heatbox.metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV2
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import eval_mode, placement


def assess(
    model: nn.Module,
    split: Split,
    preprocess: Preprocess,
    methods: Sequence[str] = (),
    batch_size: int = 32,
    fabric: Any = None,
    track: Track = silent,
) -> dict[str, Any]:
    """Classification accuracy, and the scores of maps of the ground-truth class, at their best thresholds.

    Args:
        model: a classifier; its mode is put back.
        split: the images; with `methods`, all with boxes.
        preprocess: picture → input.
        methods: maps to score; without any, only the classification is looked at.
        batch_size: images a forward pass.
        fabric: a Lightning Fabric whose processes share the images; counts are those of one process.
        track: how to show progress.

    Returns:
        "top1" and "top5" in percent, and for every method "MaxBoxAcc", its "threshold", and "MaxBoxAccV2".
    """
    device = placement(model)[0]
    rank, world = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    mine = split.examples[rank::world]
    view = ClassifierView(model) if methods else None
    scores = {name: BoxMetrics([MaxBoxAcc(), MaxBoxAccV2()]) for name in methods}
    ranks = [np.zeros(0, dtype=np.int64)]
    with eval_mode(model), torch.inference_mode():
        for examples, images in track(
            preprocessed(split, mine, preprocess, batch_size),
            f"assessing {split.name}",
            -(-len(mine) // batch_size),
        ):
            images = images.to(device, memory_format=torch.channels_last)
            labels = torch.tensor([example.label for example in examples], device=device)
            features, logits = view(images) if view is not None else (images, model(images))
            ranks.append(label_rank(logits.float().cpu().numpy(), labels.cpu().numpy()))
            if view is None:
                continue
            inputs = MapInputs(view, images, features, labels, "fold")
            for name, metrics in scores.items():
                maps = find_method(name)(inputs).float().cpu().numpy()
                metrics.update(
                    [normalize_heatmap(one, REFERENCE_SIDE) for one in maps],
                    [example.boxes for example in examples],
                    [example.size for example in examples],
                )
    return _accuracy(np.concatenate(ranks), fabric) | {
        name: _scored(metrics.all_reduce(fabric) if world > 1 else metrics)
        for name, metrics in scores.items()
    }


def _accuracy(ranks: np.ndarray, fabric: Any) -> dict[str, float]:
    counts = rank_counts(ranks)
    return topk_accuracy(counts if fabric is None else sum_over_processes(counts, fabric))


def _scored(metrics: BoxMetrics) -> dict[str, float]:
    largest, every = metrics.compute()
    return {
        "MaxBoxAcc": largest.accuracy,
        "threshold": float(largest.threshold[0]),
        "MaxBoxAccV2": every.accuracy,
    }
