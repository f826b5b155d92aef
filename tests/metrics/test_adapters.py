"""heatbox metrics as torchmetrics metrics."""

import numpy as np
import pytest
import torch

from heatbox.metrics import (
    BoxMetrics,
    EnergyPointingGame,
    LocalizationScores,
    MaxBoxAcc,
    MaxBoxAccV2,
    MaxBoxAccV3,
    PointingGame,
    PxAP,
)

torchmetrics = pytest.importorskip("torchmetrics")


def scene(count=6):
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.random((count, 224, 224), np.float32))
    boxes = [np.sort(rng.integers(0, 224, (2, 2, 2)), axis=1).reshape(2, 4) for _ in range(count)]
    return maps, boxes, [(224, 224)] * count


def adapted():
    from heatbox.metrics.adapters import TorchMetric

    metrics = {
        "v1": MaxBoxAcc(),
        "v2": MaxBoxAccV2(),
        "v3": MaxBoxAccV3(),
        "pointing": PointingGame(tolerance=15),
        "energy": EnergyPointingGame(),
        "all": LocalizationScores(),
    }
    return {name: TorchMetric(one) for name, one in metrics.items()}, metrics


def test_a_collection_gives_the_scores_of_the_metrics():
    wrapped, _ = adapted()
    _, own = adapted()
    collection = torchmetrics.MetricCollection(wrapped, compute_groups=False)
    maps, boxes, sizes = scene()
    for part in (slice(0, 2), slice(2, 6)):
        collection.update(maps[part], boxes[part], sizes[part])
    found = collection.compute()
    for one in own.values():
        one.update(maps, boxes, sizes)
    assert len(found) >= len(own)
    for name in ("v1", "v2", "v3"):
        assert float(wrapped[name].compute()["accuracy"]) == pytest.approx(own[name].compute().accuracy)
    assert float(wrapped["pointing"].compute()["value"]) == pytest.approx(own["pointing"].compute().value)
    everything, direct = wrapped["all"].compute(), own["all"].compute()
    assert set(everything) == set(direct)
    for name, one in direct.items():
        assert float(everything[name]) == pytest.approx(one.value)


def test_forward_reset_and_masks():
    from heatbox.metrics.adapters import TorchMetric

    maps, boxes, sizes = scene(2)
    metric = TorchMetric(EnergyPointingGame())
    first = metric(maps[:1], boxes[:1], sizes[:1])
    second = metric(maps[1:], boxes[1:], sizes[1:])
    mean = (float(first["value"]) + float(second["value"])) / 2
    assert float(metric.compute()["value"]) == pytest.approx(mean)
    metric.reset()
    masks = (maps > 0.7).to(torch.uint8)
    metric.update(maps, masks=masks)
    assert float(metric.compute()["value"]) > 30
    pixels = TorchMetric(PxAP())
    pixels.update(maps, masks)
    assert float(pixels.compute()["pxap"]) == pytest.approx(100)
    assert BoxMetrics([MaxBoxAcc()])  # has a collection of its own, without torchmetrics
