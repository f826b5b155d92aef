"""The pixel scores against plain procedures, written from the definitions, pixel by pixel."""

import math

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from heatbox.errors import InputError
from heatbox.metrics import (
    EnergyPointingGame,
    InsideOutsideAUC,
    LocalizationScores,
    MapIoU,
    PointingGame,
    RelevanceRank,
    TopKIntersection,
)
from heatbox.metrics import functional as F
from heatbox.metrics.localization_scores import SCORES, map_scores
from helpers.awkward_maps import random_map

LEVELS = 16320
SIDE = 24


def maps_of(count=24, side=SIDE):
    """Smooth, noisy, stepped, constant and empty maps, and maps whose maximum is not 1."""
    rng = np.random.default_rng(0)
    found = [cv2.GaussianBlur(rng.random((side, side)), (0, 0), 3) for _ in range(count // 2)]
    found += [np.round(rng.random((side, side)) * 6) / 6 for _ in range(count // 4)]
    found += [rng.random((side, side)) * 0.37 for _ in range(count - len(found) - 3)]
    found += [np.zeros((side, side)), np.full((side, side), 0.4), np.eye(side)]
    return np.stack(found).astype(np.float32)


def truth_of(count, width=60, height=48):
    rng = np.random.default_rng(1)
    boxes = [
        np.sort(rng.uniform(0, 1, (int(rng.integers(1, 4)), 2, 2)), axis=1).reshape(-1, 4)
        * [width, height, width, height]
        for _ in range(count)
    ]
    boxes[0] = np.array([[0, 0, width, height]])  # nothing outside
    boxes[1] = np.array([[10.1, 10.1, 10.2, 10.3]])  # no centre of a pixel
    return boxes, [(width, height)] * count


def written_mask(boxes, size, side=SIDE):
    mask = np.zeros((side, side), np.uint8)

    def centres(low, high, whole):
        found = [x for x in range(side) if low <= (x + 0.5) * whole / side < high]
        return found or [min(int((low + high) / 2 * side / whole), side - 1)]

    for x0, y0, x1, y1 in boxes:
        for y in centres(y0, y1, size[1]):
            for x in centres(x0, x1, size[0]):
                mask[y, x] = 1
    return mask


def levels_of(one, mask):
    top = float(one[mask <= 1].max())
    exact = one.astype(np.float64) * (LEVELS / top if top else 0)
    return np.floor(np.where(one == top, LEVELS if top else 0, exact)).astype(int)


def among_first(level, inside, wanted):
    """Expected number inside of the `wanted` brightest, the order of equals being random."""
    hits = 0.0
    for value in sorted(set(level.tolist()), reverse=True):
        here = inside[level == value]
        taken = min(wanted, len(here))
        hits += here.mean() * taken
        wanted -= taken
        if wanted == 0:
            return hits
    raise AssertionError


def written_scores(one, mask, size, tolerance=15, k=1000, quantile=0.8):
    """All scores of one map, by loops over pixels."""
    height, width = mask.shape
    used = mask <= 1
    x, inside, level = one[used].astype(np.float64), mask[used] == 1, levels_of(one, mask)[used]
    if not inside.any():
        return dict.fromkeys(SCORES, math.nan)
    share = inside.mean()
    places = np.argwhere(used)
    best = places[x == x.max()]
    hits = [mask[y, c] == 1 for y, c in best]
    objects = np.argwhere(mask == 1)
    scale = np.array([size[1] / height, size[0] / width])
    near = [np.hypot(*((objects - p) * scale).T).min() <= tolerance for p in best]
    pairs = [(1.0 if a > b else 0.5 if a == b else 0.0) for a in level[inside] for b in level[~inside]]

    def overlap(foreground):
        return (foreground & inside).sum() / (foreground | inside).sum()

    grey = level // 64
    between = [grey[grey > t].size * grey[grey <= t].size for t in range(255)]
    spread = [n and n * (grey[grey > t].mean() - grey[grey <= t].mean()) ** 2 for t, n in enumerate(between)]
    order = np.sort(level)[::-1]
    last = order[max(math.ceil((1 - quantile) * len(level)), 1) - 1]
    k = min(k, len(level))
    return {
        "pointing_game": np.mean(hits),
        "pointing_game_tolerant": np.mean(near),
        "energy_pointing_game": x[inside].sum() / x.sum() if x.sum() else share,
        "relevance_rank": among_first(level, inside, inside.sum()) / inside.sum(),
        "top_k_intersection": among_first(level, inside, k) / k,
        "auc": np.mean(pairs) if pairs else math.nan,
        "iou_half": overlap(level >= LEVELS / 2),
        "iou_otsu": overlap(grey > int(np.argmax(spread))),
        "iou_quantile": overlap(level >= last),
    }


def require_scores(found, expected):
    for name in SCORES:
        np.testing.assert_allclose(found[name], [one[name] for one in expected], rtol=1e-9, err_msg=name)


def test_scores_against_boxes_are_those_of_the_written_definitions():
    maps = maps_of()
    boxes, sizes = truth_of(len(maps))
    masks = [written_mask(b, s) for b, s in zip(boxes, sizes, strict=True)]
    expected = [written_scores(m, t, s, 6, 50) for m, t, s in zip(maps, masks, sizes, strict=True)]
    found = map_scores(maps, boxes, sizes, tolerance=6, k=50)
    require_scores(found, expected)
    assert np.isnan(found["auc"]).sum() == 1
    level = np.stack([levels_of(m, t) for m, t in zip(maps, masks, strict=True)])
    for i, at in enumerate(np.arange(100) / 100):
        foreground, inside = level >= at * LEVELS - 1e-9, np.stack(masks) == 1
        iou = (foreground & inside).sum((1, 2)) / (foreground | inside).sum((1, 2))
        np.testing.assert_allclose(found.curve[:, i], iou, rtol=1e-6)


def test_scores_against_masks_leave_ignored_pixels_out():
    maps = [random_map(seed, SIDE).astype(np.float32) for seed in range(40)]
    rng = np.random.default_rng(2)
    masks = [rng.choice([0, 1, 255], m.shape, p=[0.85, 0.05, 0.1]).astype(np.uint8) for m in maps]
    masks[3][:] = np.where(masks[3] == 1, 0, masks[3])  # no object
    sizes = [(int(w), int(h)) for w, h in rng.integers(20, 90, (40, 2))]
    expected = [written_scores(m, t, s, 5, 30) for m, t, s in zip(maps, masks, sizes, strict=True)]
    require_scores(map_scores(maps, image_sizes=sizes, masks=masks, tolerance=5, k=30), expected)


def test_a_map_of_more_pixels_than_16_bits_count_is_scored_alike():
    side = 280
    one = np.random.default_rng(0).random((1, side, side), np.float32)
    mask = np.zeros((side, side), np.uint8)
    mask[40:200, 30:250] = 1
    found = map_scores(one, masks=[mask])
    level = levels_of(one[0], mask)
    assert found["relevance_rank"][0] == pytest.approx(
        among_first(level.ravel(), mask.ravel() == 1, mask.sum()) / mask.sum()
    )
    assert found["auc"][0] == pytest.approx(roc_auc_score(mask.ravel(), level.ravel()), rel=1e-12)


def test_the_auc_is_that_of_the_values_themselves_but_for_ties_of_levels():
    maps = np.stack([(m - m.min()) / (m.max() - m.min()) for m in maps_of()[:12]])
    boxes, sizes = truth_of(12)
    masks = [written_mask(b, s) for b, s in zip(boxes, sizes, strict=True)]
    found = F.auc(maps, boxes, sizes)
    for one, mask, value in list(zip(maps, masks, found, strict=True))[2:]:
        assert value == pytest.approx(roc_auc_score(mask.ravel(), one.ravel()), abs=1e-4)


def test_otsus_threshold_is_opencvs():
    for seed in range(40):
        one = cv2.GaussianBlur(np.random.default_rng(seed).random((40, 40)).astype(np.float32), (0, 0), 4)
        one = (one - one.min()) / (one.max() - one.min())
        mask = np.zeros((40, 40), np.uint8)
        mask[5:25, 10:30] = 1
        binary = cv2.threshold((one * 255).astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
        expected = ((binary == 1) & (mask == 1)).sum() / ((binary == 1) | (mask == 1)).sum()
        assert F.map_iou(one[None], masks=[mask], threshold="otsu")[0] == pytest.approx(expected)


def test_each_function_returns_its_column():
    maps, (boxes, sizes) = maps_of(), truth_of(24)
    found = map_scores(maps, boxes, sizes, tolerance=15, k=40)
    functions = {
        "pointing_game": F.pointing_game(maps, boxes, sizes),
        "pointing_game_tolerant": F.pointing_game(maps, boxes, sizes, tolerance=15),
        "energy_pointing_game": F.energy_pointing_game(maps, boxes, sizes),
        "relevance_rank": F.relevance_rank(maps, boxes, sizes),
        "top_k_intersection": F.top_k_intersection(maps, boxes, sizes, k=40),
        "auc": F.auc(maps, boxes, sizes),
        "iou_half": F.map_iou(maps, boxes, sizes),
        "iou_otsu": F.map_iou(maps, boxes, sizes, threshold="otsu"),
        "iou_quantile": F.map_iou(maps, boxes, sizes, threshold="quantile"),
    }
    assert list(functions) == list(SCORES)
    for name, values in functions.items():
        np.testing.assert_array_equal(values, found[name], err_msg=name)
    np.testing.assert_array_equal(F.relevance_mass(maps, boxes, sizes), found["energy_pointing_game"])
    curve = F.iou_curve(maps, boxes, sizes, thresholds=[0.2, 0.5])
    np.testing.assert_allclose(curve[:, 1], found["iou_half"])
    assert found.to_pandas().shape == (24, len(SCORES))


def test_ties_of_the_largest_value_are_counted_as_asked():
    one = np.zeros((1, 10, 10))
    one[0, [2, 4, 6, 8], 5] = 1
    box = [np.array([[0, 3, 10, 5]])]  # contains the second of the four
    assert F.pointing_game(one, box, [(10, 10)])[0] == 0.25
    assert F.pointing_game(one, box, [(10, 10)], ties="any")[0] == 1
    assert F.pointing_game(one, box, [(10, 10)], ties="first")[0] == 0


def test_any_kind_of_map_and_number_of_threads_gives_the_same():
    maps, (boxes, sizes) = maps_of(40), truth_of(40)
    expected = map_scores(maps, boxes, sizes, threads=1)
    for given in (maps.astype(np.float64), torch.from_numpy(maps), list(maps), maps[:, :, ::-1][:, :, ::-1]):
        np.testing.assert_array_equal(map_scores(given, boxes, sizes, threads=3).values, expected.values)
    assert np.isnan(map_scores(-np.zeros((1, 4, 4)), boxes[:1], sizes[:1])["auc"]).all()
    assert map_scores(np.zeros((0, 4, 4)), [], []).values.shape == (0, len(SCORES))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heatmaps": np.full((1, 8, 8), 2.0)}, "heatmap 0: values lie in"),
        ({"heatmaps": np.full((1, 8, 8), np.nan)}, "heatmap 0: contains 64 NaN"),
        ({"boxes": None, "image_sizes": None}, "expected boxes with image_sizes, or masks"),
        ({"image_sizes": None}, "image_sizes are missing"),
        ({"boxes": [np.zeros((0, 4))]}, "4. xyxy with K >= 1"),
        ({"boxes": []}, "expected as many of each"),
        ({"k": 0}, "k is 0, expected 1 or more"),
        ({"quantile": 1.0}, "quantile is 1.0"),
        ({"tolerance": -1}, "tolerance -1"),
        ({"boxes": None, "masks": [np.zeros((4, 4), np.uint8)]}, "has shape"),
        ({"boxes": None, "masks": [np.full((8, 8), 7, np.uint8)]}, "values other than 0, 1 and 255"),
        ({"boxes": None, "masks": [np.zeros((8, 8))]}, "values of float64"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(change, words):
    given = {
        "heatmaps": np.zeros((1, 8, 8)),
        "boxes": [np.array([[0, 0, 4, 4]])],
        "image_sizes": [(8, 8)],
    } | change
    with pytest.raises(InputError, match=words):
        map_scores(given.pop("heatmaps"), **given)


# ------------------------------------------------------------------------------------------------- as metrics


def test_metrics_give_the_mean_of_the_defined_values():
    maps, (boxes, sizes) = maps_of(), truth_of(24)
    metric = LocalizationScores(k=40)
    for begin in range(0, 24, 7):
        part = slice(begin, begin + 7)
        metric.update(maps[part], boxes[part], sizes[part])
    found, expected = metric.compute(), map_scores(maps, boxes, sizes, k=40)
    for name in SCORES:
        np.testing.assert_array_equal(found[name].values, expected[name])
        assert found[name].value == pytest.approx(np.nanmean(expected[name]) * 100)
    assert (found["auc"].images, found["auc"].undefined, found["iou_half"].undefined) == (24, 1, 0)
    assert metric.all().best == int(expected.curve.astype(float).mean(0).argmax())
    single = {
        "pointing_game": PointingGame(),
        "pointing_game_tolerant": PointingGame(tolerance=15),
        "energy_pointing_game": EnergyPointingGame(),
        "relevance_rank": RelevanceRank(),
        "top_k_intersection": TopKIntersection(k=40),
        "auc": InsideOutsideAUC(),
        "iou_half": MapIoU(),
        "iou_otsu": MapIoU("otsu"),
        "iou_quantile": MapIoU("quantile"),
    }
    for name, one in single.items():
        assert one(maps, boxes, sizes).value == found[name].value


def test_metrics_merge_save_and_refuse_others_settings():
    maps, (boxes, sizes) = maps_of(), truth_of(24)
    whole, first, second = LocalizationScores(), LocalizationScores(), LocalizationScores()
    whole.update(maps, boxes, sizes)
    first.update(maps[:9], boxes[:9], sizes[:9])
    second.update(maps[9:], boxes[9:], sizes[9:])
    first.merge(second)
    np.testing.assert_array_equal(first.all().values, whole.all().values)
    loaded = LocalizationScores()
    loaded.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(loaded.all().curve, whole.all().curve)
    with pytest.raises(InputError, match="no image has been scored"):
        LocalizationScores().compute()
    with pytest.raises(InputError, match="settings"):
        first.merge(LocalizationScores(k=7))
    with pytest.raises(InputError, match="settings"):
        MapIoU("otsu").merge(MapIoU("half"))
    with pytest.raises(InputError, match="threshold is 'best'"):
        MapIoU("best")
    with pytest.raises(InputError, match="quantile is 2"):
        LocalizationScores(quantile=2)


# -------------------------------------------------------------------------------------------------- peers


def test_values_are_those_of_quantus_where_it_defines_the_same():
    """Values are distinct: ties are counted otherwise there."""
    quantus = pytest.importorskip("quantus")
    rng = np.random.default_rng(0)
    levels = np.stack([rng.permutation(LEVELS)[: SIDE * SIDE] for _ in range(20)])
    maps = (levels / levels.max(1, keepdims=True)).reshape(-1, SIDE, SIDE).astype(np.float32)
    masks = np.zeros((20, SIDE, SIDE), np.uint8)
    for mask in masks:
        x, y = rng.integers(0, 12, 2)
        mask[y : y + int(rng.integers(3, 12)), x : x + int(rng.integers(3, 12))] = 1
    same = {
        "pointing_game": quantus.PointingGame,
        "energy_pointing_game": quantus.RelevanceMassAccuracy,
        "relevance_rank": quantus.RelevanceRankAccuracy,
        "top_k_intersection": lambda **given: quantus.TopKIntersection(k=40, **given),
        "auc": quantus.AUC,
    }
    found = map_scores(maps, masks=masks, k=40)
    for name, make in same.items():
        metric = make(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
        values = metric.evaluate_batch(
            x_batch=maps[:, None], a_batch=maps[:, None].astype(float), s_batch=masks[:, None]
        )
        np.testing.assert_allclose(found[name], np.asarray(values, float), rtol=2e-6, err_msg=name)
