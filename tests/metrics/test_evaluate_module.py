"""The module of Hugging Face's evaluate against heatbox's own scores."""

import numpy as np
import pytest

from heatbox.metrics import BoxMetrics, MaxBoxAcc, MaxBoxAccV2

evaluate = pytest.importorskip("evaluate")


def test_scores_are_those_of_the_metrics(tmp_path):
    from heatbox.metrics import evaluate_module

    generator = np.random.default_rng(0)
    heatmaps = generator.random((6, 14, 14)).repeat(16, 1).repeat(16, 2).astype(np.float32)
    boxes = [
        np.array([[10.0, 20.0, 150.0, 160.0], [0.0, 0.0, 40.0, 60.0]])[: 1 + index % 2] for index in range(6)
    ]
    sizes = [(200, 180 + index) for index in range(6)]
    metrics = BoxMetrics([MaxBoxAcc(thresholds=100), MaxBoxAccV2(thresholds=100)])
    metrics.update(heatmaps, boxes, sizes)
    one, two = metrics.compute()
    loaded = evaluate.load(evaluate_module.__file__, cache_dir=str(tmp_path / "modules"))
    for module in (evaluate_module.Localization(cache_dir=str(tmp_path)), loaded):
        for part in (slice(0, 4), slice(4, 6)):
            references = [one.tolist() for one in boxes[part]]
            module.add_batch(predictions=heatmaps[part], references=references, image_sizes=sizes[part])
        found = module.compute(thresholds=100)
        assert found["max_box_acc"] == one.accuracy
        assert found["max_box_acc_v2"] == two.accuracy
        assert found["threshold"] == one.threshold
