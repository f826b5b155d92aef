"""Average precision as COCO defines it, compared with pycocotools."""

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from heatbox.data.formats.coco import to_coco, to_coco_results
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.metrics.coco_ap import coco_average_precision


def random_splits(seed, images=30, classes=3):
    """True and found boxes, the latter moved, missing, of other classes, and too many."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(images):
        count = int(rng.integers(0, 4))
        corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 40, (count, 2))
        boxes, kinds = np.hstack([corner, corner + side]), rng.integers(0, classes, count)
        kept = rng.random(count) < 0.8
        moved = boxes[kept] + rng.normal(0, 3, (kept.sum(), 4))
        extra = np.tile(rng.uniform(0, 60, (int(rng.integers(0, 3)), 2)), 2)
        extra[:, 2:] += 20
        every = np.vstack([moved, extra])
        labels = np.r_[kinds[kept], rng.integers(0, classes, len(extra))]
        scores = rng.permutation(10_000)[: len(every)] / 10_000 + number * 1e-7
        truth.append(Example(f"{number}", -1, (100, 100), boxes, (), kinds))
        found.append(Example(f"{number}", -1, (100, 100), every, (), labels, scores))
    return found, truth


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed, capsys):
    found, truth = random_splits(seed)
    names = ["a", "b", "c"]
    coco = COCO()
    coco.dataset = to_coco(Split("t", truth, names, None))
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(to_coco_results(Split("f", found, names, None))), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = coco_average_precision(
        [(one.boxes, one.box_labels, one.box_scores) for one in found],
        [(one.boxes, one.box_labels) for one in truth],
    )
    assert ours.mean() == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert ours[0] == pytest.approx(evaluation.stats[1], abs=1e-9)


def test_images_and_arrays_must_match():
    box = np.array([[0.0, 0, 1, 1]])
    assert np.isnan(coco_average_precision([(box, [0], [1.0])], [(box[:0], [])])).all()
    with pytest.raises(InputError, match="boxes of 1 images and ground truth of 0"):
        coco_average_precision([(box, [0], [1.0])], [])
    with pytest.raises(InputError, match="image 0: boxes, classes and confidences differ"):
        coco_average_precision([(box, [0], [])], [(box, [0])])
