"""Accuracy and localization scores of a model during its training, over all of its processes."""

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


def validate(
    model: nn.Module,
    split: Split,
    preprocess: Preprocess,
    methods: Sequence[str] = (),
    batch_size: int = 32,
    fabric: Any = None,
    track: Track = silent,
) -> dict[str, Any]:
    """Classification accuracy, and the scores of maps of the ground-truth class at their best thresholds.

    Args:
        model: a classifier; its mode is restored.
        split: the images; with `methods`, all with boxes.
        preprocess: image → input.
        methods: maps to score; without any, only the classification is evaluated.
        batch_size: images per forward pass.
        fabric: a Lightning Fabric over whose processes the images are sharded; the counts equal those of a
            single process.
        track: progress display.

    Returns:
        "top1" and "top5" in percent, and for every method "MaxBoxAcc", its "threshold", and "MaxBoxAccV2".
    """
    device = placement(model)[0]
    rank, world = (fabric.global_rank, fabric.world_size) if fabric is not None else (0, 1)
    shard = split.examples[rank::world]
    view = ClassifierView(model) if methods else None
    scores = {name: BoxMetrics([MaxBoxAcc(), MaxBoxAccV2()]) for name in methods}
    ranks = [np.zeros(0, dtype=np.int64)]
    with eval_mode(model), torch.inference_mode():
        for examples, images in track(
            preprocessed(split, shard, preprocess, batch_size),
            f"validating on {split.name}",
            -(-len(shard) // batch_size),
        ):
            images = images.to(device, memory_format=torch.channels_last)
            labels = torch.tensor([example.label for example in examples], device=device)
            features, logits = view(images) if view is not None else (images, model(images))
            ranks.append(label_rank(logits.float().cpu().numpy(), labels.cpu().numpy()))
            if view is None:
                continue
            inputs = MapInputs(view, images, features, labels, "fold")
            for name, metrics in scores.items():
                maps = find_method(name)(inputs).float().cpu().numpy()  # (B, h, w)
                metrics.update(
                    [normalize_heatmap(one, REFERENCE_SIDE) for one in maps],
                    [example.boxes for example in examples],
                    [example.size for example in examples],
                )
    counts = rank_counts(np.concatenate(ranks))
    if fabric is not None:
        counts = sum_over_processes(counts, fabric)
    found: dict[str, Any] = dict(topk_accuracy(counts))
    for name, metrics in scores.items():
        largest, every = (metrics.all_reduce(fabric) if world > 1 else metrics).compute()
        found[name] = {
            "MaxBoxAcc": largest.accuracy,
            "threshold": float(largest.threshold[0]),
            "MaxBoxAccV2": every.accuracy,
        }
    return found
