"""MaxBoxAcc and MaxBoxAccV2 as a module of Hugging Face's evaluate.

`evaluate.load` takes the path of this file, `heatbox.metrics.evaluate_module.__file__`; the class can also be
used directly. Importing this module requires evaluate, which heatbox does not install. evaluate keeps the
maps of all images on disk until `compute`; `heatbox.metrics` scores each batch as it comes.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from heatbox.boxes.ops import REFERENCE_FRAME
from heatbox.metrics import BoxMetrics, MaxBoxAcc, MaxBoxAccV2

_BATCH = 256
_SIDE = REFERENCE_FRAME[0]


class Localization(evaluate.Metric):  # type: ignore[misc]
    """MaxBoxAcc (Zhou et al. 2016) and MaxBoxAccV2 (Choe et al. 2020, section 4.2).

    `predictions` are heatmaps (N, 224, 224) in [0, 1], `references` the boxes of each image, (K, 4) xyxy in
    its pixels, and `image_sizes` (N, 2) width and height. `compute(thresholds=1000)` returns "max_box_acc"
    and "max_box_acc_v2" in percent, and "threshold", the best of MaxBoxAcc.

    Examples:
        >>> metric = Localization()  # doctest: +SKIP
        >>> metric.add_batch(predictions=heatmaps, references=boxes, image_sizes=sizes)  # doctest: +SKIP
        >>> metric.compute()  # doctest: +SKIP
    """

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="https://github.com/clovaai/wsolevaluation",
            inputs_description=Localization.__doc__ or "",
            features=datasets.Features(
                {
                    "predictions": datasets.Array2D((_SIDE, _SIDE), "float32"),
                    "references": datasets.Sequence(datasets.Sequence(number)),
                    "image_sizes": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(
        self, predictions: Any, references: Any, image_sizes: Any, thresholds: int = 1000
    ) -> dict[str, float]:
        metrics = BoxMetrics([MaxBoxAcc(thresholds=thresholds), MaxBoxAccV2(thresholds=thresholds)])
        for first in range(0, len(image_sizes), _BATCH):
            part = slice(first, first + _BATCH)
            boxes = [np.array(one, np.float64) for one in references[part]]
            metrics.update(np.array(predictions[part], np.float32), boxes, image_sizes[part])
        first_score, second = metrics.compute()
        return {
            "max_box_acc": first_score.accuracy,
            "max_box_acc_v2": second.accuracy,
            "threshold": first_score.threshold,
        }
