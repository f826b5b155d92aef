"""MaxBoxAccV3: contours matched with ground-truth boxes one to one."""

import numpy as np
import pytest

from heatbox.errors import InputError
from heatbox.metrics import BoxMetrics, MaxBoxAcc, MaxBoxAccV2, MaxBoxAccV3
from heatbox.metrics.functional import max_box_acc_v2, max_box_acc_v3
from helpers.awkward_maps import random_map
from helpers.brute_force import iou, reference_levels

SIDE, THRESHOLDS = 40, 50


def scene(count, most):
    rng = np.random.default_rng(3)
    maps = [random_map(seed, SIDE) for seed in range(count)]
    numbers = rng.integers(1, most + 1, count)
    frames = [np.sort(rng.integers(0, SIDE, (int(number), 2, 2)), 1) for number in numbers]
    return maps, [one.reshape(-1, 4).astype(float) for one in frames]


def written_matches(boxes, truth):
    """IoUs of the greedy one-to-one matching; None where equal IoUs leave it open."""
    table, found = iou(boxes, truth, 1), []
    for _ in range(len(truth)):
        best = table.max()
        places = np.argwhere(table == best)
        if best >= 0.3 and len(places) > 1:
            return None
        found.append(best)
        table[places[0][0]] = table[:, places[0][1]] = 0
    return np.array(found)


def test_matches_are_those_of_the_written_procedure():
    compared = 0
    maps, truth = scene(30, 4)
    for one, boxes in zip(maps, truth, strict=True):
        found = MaxBoxAccV3(thresholds=THRESHOLDS, threads=1)
        with pytest.warns(UserWarning, match="224 x 224"):
            found.update([one], [boxes], [(224, 224)])
        levels, top = reference_levels(one, "all")
        for k in range(THRESHOLDS):
            level = int(k * (1 / THRESHOLDS) * top)
            contours = levels.get(level, np.zeros((1, 4), int))
            matches = written_matches(contours, boxes)
            if matches is None:
                continue
            compared += len(boxes) > 1
            expected = [(matches >= required).sum() for required in (0.3, 0.5, 0.7)]
            assert found.correct[:, k].tolist() == expected
        assert found.images == len(boxes)
    assert compared > 300


def test_with_one_box_an_image_it_is_the_second_version():
    maps = [np.kron(random_map(seed, 28)[:28, :28], np.ones((8, 8)))[:224, :224] for seed in range(8)]
    maps = [np.pad(one, [(0, 224 - side) for side in one.shape]) for one in maps]
    boxes = [one[:1] * 5 for one in scene(8, 1)[1]]
    given = maps, boxes, [(224, 224)] * 8
    third, second = max_box_acc_v3(*given), max_box_acc_v2(*given)
    np.testing.assert_array_equal(third.correct, second.correct)
    assert third.accuracy == second.accuracy
    twice = maps, [np.repeat(one, 2, axis=0) for one in boxes], given[2]
    assert max_box_acc_v3(*twice).images == 16
    metrics = BoxMetrics({"V2": MaxBoxAccV2(), "V3": MaxBoxAccV3()})
    metrics.update(*given)
    assert metrics.compute()["V3"].accuracy == third.accuracy
    assert metrics.compute()["V2"].accuracy == second.accuracy


def test_two_objects_need_two_boxes():
    heatmap = np.zeros((1, 224, 224), np.float32)
    heatmap[0, 20:80, 20:80] = 1
    heatmap[0, 120:200, 120:200] = 0.6
    boxes = [np.array([[20, 20, 80, 80], [120, 120, 200, 200]])]
    score = max_box_acc_v3(heatmap, boxes, [(224, 224)])
    assert score.accuracy == 100
    assert score.at(0.8).tolist() == [50, 50, 50]  # there only the brighter one is left
    assert score.images == 2


def test_it_is_of_the_reference_protocol():
    with pytest.raises(InputError, match="MaxBoxAccV3 is defined for the reference protocol"):
        MaxBoxAcc(0.5, "each", "exact")
