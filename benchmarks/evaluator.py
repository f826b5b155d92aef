"""Time the box metrics against the reference procedure, and compare their counts.

    uv run python benchmarks/evaluator.py [--real FOLDER_OF_NPY] [--reference DIR] [--images 20]

For each kind of map, the same heatmaps are scored with a plain implementation of the reference procedure
(1000 thresholds, `cv2.findContours`, one metric after the other) and with heatbox (both metrics in one pass),
alternately and on one thread each. The counts are compared, and medians of processor time, which other load
on the machine hardly affects, and their ratios are printed. Then the box metrics alone are compared with the
box metrics, MaxBoxAccV3 and every pixel score together. `--reference` is a checkout of the reference
evaluator, which is then timed as well. `--real` is a folder of `.npy` maps of any size. Also measured: two
threads against one, the start of a second process, memory for a stream of maps, PxAP and the bootstrap.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from heatbox.boxes._kernels.score import score_maps, workspace
from heatbox.boxes.contours import threshold_grid
from heatbox.boxes.ops import stack_truth
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.bootstrap import best_threshold_interval, bootstrap_interval
from heatbox.metrics.collection import BoxMetrics
from heatbox.metrics.functional import V2_IOU
from heatbox.metrics.map_score import LocalizationScores
from heatbox.metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV3
from heatbox.metrics.pxap import PxAP

TOGETHER = 64
"""Maps of an update; `heatbox score` takes 256."""
THRESHOLDS = list(np.arange(0, 1, 0.001))


# --- the reference procedure, written plainly -----------------------------------------------------------


def plain_boxes(heatmap: np.ndarray, every: bool) -> list[np.ndarray]:
    """Boxes at each of 1000 thresholds."""
    height, width = heatmap.shape
    image = np.expand_dims((heatmap * 255).astype(np.uint8), 2)
    boxes = []
    for threshold in THRESHOLDS:
        level = int(threshold * np.max(image))
        binary = cv2.threshold(src=image, thresh=level, maxval=255, type=cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(image=binary, mode=cv2.RETR_TREE, method=cv2.CHAIN_APPROX_SIMPLE)[0]
        if len(contours) == 0:
            boxes.append(np.zeros((1, 4), int))
            continue
        chosen = contours if every else [max(contours, key=cv2.contourArea)]
        rows = []
        for contour in chosen:
            x, y, w, h = cv2.boundingRect(contour)
            rows.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
        boxes.append(np.asarray(rows))
    return boxes


def plain_iou(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K) IoU with inclusive ends."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.prod(np.maximum(high - low + 1, 0), axis=2)
    areas = [np.prod(b[:, 2:] - b[:, :2] + 1, axis=1) for b in (boxes, truth)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def plain_counts(heatmap: np.ndarray, truth: np.ndarray, every: bool) -> np.ndarray:
    """(3, 1000) correctness of one image: IoU .3 .5 .7."""
    boxes = plain_boxes(heatmap.astype(np.float64), every)
    best = plain_iou(np.concatenate(boxes), truth).max(1)
    image = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes])
    at_threshold = np.zeros(len(boxes))
    np.maximum.at(at_threshold, image, best)
    return at_threshold[None] >= np.array(V2_IOU)[:, None]


def plain_both(heatmap: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return plain_counts(heatmap, truth, False), plain_counts(heatmap, truth, True)


def reference_both(folder: Path) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The reference evaluator itself, from a checkout of its version with several contours."""
    vars(np).update(float=float, int=int)  # it was written for an older NumPy
    sys.path.insert(0, str(folder))
    import evaluation

    def one(heatmap: np.ndarray, truth: np.ndarray, every: bool) -> np.ndarray:
        evaluator = evaluation.BoxEvaluator.__new__(evaluation.BoxEvaluator)
        evaluator.cam_threshold_list, evaluator.iou_threshold_list = THRESHOLDS, [30, 50, 70]
        evaluator.multi_contour_eval, evaluator.cnt = every, 0
        evaluator.num_correct = {iou: np.zeros(len(THRESHOLDS)) for iou in (30, 50, 70)}
        evaluator.gt_bboxes = {"image": truth.tolist()}
        evaluator.accumulate(heatmap.astype(np.float64), "image")
        return np.stack([evaluator.num_correct[iou] for iou in (30, 50, 70)])

    return lambda heatmap, truth: (one(heatmap, truth, False), one(heatmap, truth, True))


# --- maps -----------------------------------------------------------------------------------------------


def smooth_maps(count: int, rng: np.random.Generator) -> np.ndarray:
    """Like class activation maps: a 14 x 14 map with a peak, blurred noise around it, resized."""
    y, x = np.mgrid[:14, :14] / 13
    low = []
    for _ in range(count):
        centre = rng.uniform(0.2, 0.8, 2)
        noise = cv2.GaussianBlur(rng.normal(size=(14, 14)), (0, 0), 1.2)
        low.append(noise + 1.5 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 0.08))
    return normalize_heatmap(np.array(low, np.float32))


def kinds(count: int, real: Path | None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = smooth_maps(count, rng)
    few = max(count // 10, 1)
    noisy = normalize_heatmap(smooth[:few] + rng.normal(size=smooth[:few].shape).astype(np.float32) * 0.1)
    found = {"smooth": smooth}
    if real is not None:
        loaded = [np.load(p, allow_pickle=False) for p in sorted(real.rglob("*.npy"))]
        maps = [m for one in loaded for m in (one if one.ndim == 3 else one[None])]
        pick = np.linspace(0, len(maps) - 1, min(count, len(maps))).astype(int)
        found["real"] = np.concatenate([normalize_heatmap(maps[i][None]) for i in pick])
    low = rng.random((count, 12, 12), np.float32)
    found["structured"] = normalize_heatmap(low)
    found["noisy"] = noisy
    found["white noise"] = rng.random((few, 224, 224), np.float32)
    return found


def truth_of(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [
        np.sort(rng.integers(0, 224, (int(rng.integers(1, 3)), 2, 2)), axis=1).reshape(-1, 4)
        for _ in range(count)
    ]


# --- measurements ---------------------------------------------------------------------------------------


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def processor_seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def both(threads: int = 1) -> list[MaxBoxAcc]:
    return [MaxBoxAcc(V2_IOU, "largest", threads=threads), MaxBoxAcc(V2_IOU, "all", threads=threads)]


def share_of_python(maps: np.ndarray, repeats: int = 9) -> float:
    """Fraction of the time of an update with `TOGETHER` maps that is not spent in compiled code."""
    maps = np.resize(maps, (TOGETHER, *maps.shape[1:]))
    truth, sizes = truth_of(len(maps)), [(224, 224)] * len(maps)
    boxes, starts = stack_truth(truth, sizes)
    levels, work = threshold_grid(1000), workspace(224, 224)
    curves, tops = np.zeros((len(maps), 2, 256)), np.zeros(len(maps), np.int64)
    iou, counts = (np.array(V2_IOU),) * 2, tuple(np.zeros((3, 1000), np.int64) for _ in range(2))
    none, each = np.zeros(0), np.zeros((1, 0, 256), np.uint8)

    def compiled() -> None:
        score_maps(maps, boxes, starts, iou, levels, work, curves, tops, counts, none, each)

    def whole() -> None:
        BoxMetrics(both()).update(maps, truth, sizes)

    compiled(), whole()
    spent = [(processor_seconds(compiled), processor_seconds(whole)) for _ in range(repeats)]
    inside, total = np.min(spent, axis=0)
    return max(0.0, 1 - inside / total)


def compare(maps: np.ndarray, slow: dict[str, Callable], repeats: int = 5) -> dict[str, float]:
    """Median ms an image of each procedure; every image is scored by all of them in turn."""
    truth, sizes = truth_of(len(maps)), [(224, 224)] * len(maps)
    times: dict[str, list[float]] = {name: [] for name in [*slow, "heatbox"]}
    expected = {name: np.zeros((2, 3, 1000), int) for name in slow}
    for i, one in enumerate(maps):
        for name, call in slow.items():
            begin = time.process_time()
            expected[name] += np.array(call(one, truth[i]), int)
            times[name].append(time.process_time() - begin)
        batch = np.repeat(one[None], 16, axis=0)
        for _ in range(repeats):
            spent = processor_seconds(
                lambda b=batch, i=i: BoxMetrics(both()).update(b, [truth[i]] * 16, sizes[:1] * 16)
            )
            times["heatbox"].append(spent / 16)
    metrics = both()
    BoxMetrics(metrics).update(maps, truth, sizes)
    for name, counts in expected.items():
        for metric, count in zip(metrics, counts, strict=True):
            assert (metric.correct == count).all(), f"counts differ from {name}: {metric.contours}"
    return {name: float(np.median(spent)) * 1e3 for name, spent in times.items()}


def together(maps: np.ndarray, repeats: int = 9) -> tuple[float, float, float]:
    """Median ms an image of the box metrics, of these with all other scores, and the ratio, of `TOGETHER`
    maps."""
    maps = np.resize(maps, (TOGETHER, *maps.shape[1:]))
    truth, sizes = truth_of(len(maps)), [(224, 224)] * len(maps)
    kinds: dict[str, list[float]] = {"boxes": [], "all": []}

    def every() -> None:
        BoxMetrics([*both(), MaxBoxAccV3(threads=1)]).update(maps, truth, sizes)
        LocalizationScores(threads=1).update(maps, truth, sizes)

    every()
    for _ in range(repeats):
        spent = processor_seconds(lambda: BoxMetrics(both()).update(maps, truth, sizes))
        kinds["boxes"].append(spent / len(maps) * 1e3)
        kinds["all"].append(processor_seconds(every) / len(maps) * 1e3)
    ratio = float(np.median(np.array(kinds["all"]) / kinds["boxes"]))
    return float(np.median(kinds["boxes"])), float(np.median(kinds["all"])), ratio


def two_threads(maps: np.ndarray, repeats: int = 9) -> tuple[float, float, float, float]:
    """Best elapsed and best processor seconds for 256 maps, with one thread and with two, in turns."""
    big = np.concatenate([maps] * (-(-256 // len(maps))))[:256]
    truth, sizes = truth_of(256), [(224, 224)] * 256
    spent: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(repeats):
        for threads in spent:
            begin = time.process_time()
            elapsed = seconds(lambda t=threads: BoxMetrics(both(t)).update(big, truth, sizes))
            spent[threads].append((elapsed, time.process_time() - begin))
    (one, one_busy), (two, two_busy) = (np.min(rows, axis=0) for rows in spent.values())
    return one, two, one_busy, two_busy


COLD_START = """
import time
begin = time.perf_counter()
import numpy as np
from heatbox.metrics.max_box_acc import MaxBoxAcc
imported = time.perf_counter()
metric = MaxBoxAcc((.3, .5, .7), "all")
heatmaps = np.random.default_rng(0).random((1, 224, 224), np.float32)
metric.update(heatmaps, [np.array([[9, 9, 99, 99]])], [(224, 224)])
print(imported - begin, time.perf_counter() - imported)
"""


def cold_start() -> tuple[float, float]:
    """Least seconds for import and first score in a new process, with compiled code already on disk."""
    runs = [
        subprocess.run([sys.executable, "-c", COLD_START], capture_output=True, text=True, check=True)
        for _ in range(4)
    ]
    rows = np.array([[float(v) for v in run.stdout.split()] for run in runs[1:]])
    return float(rows[:, 0].min()), float(rows[:, 1].min())


STREAM = """
import resource, sys, time
import numpy as np
from heatbox.evaluation.score import score_stream
from heatbox.evaluation.scorers import BoxScorer
maps, count, every = np.load(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "every"
truth = np.array([[40, 30, 150, 190]])
items = ((str(i), maps[i % len(maps)].copy(), truth, (224, 224)) for i in range(count))
begin = time.perf_counter()
if every:
    scorer = BoxScorer(pixels=True, each=True)
    while batch := [item for _, item in zip(range(256), items)]:
        ids, some, boxes, sizes = zip(*batch)
        scorer.record(ids, scorer.update(some, boxes, sizes, return_iou=True))
    scorer.compute()
else:
    score_stream(items)
elapsed, used = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
print(elapsed, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def stream(count: int, maps: np.ndarray, every: bool) -> tuple[float, float, float]:
    """Seconds, processor seconds and resident peak in MB of a process that scores a stream of maps."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/maps.npy", maps)
        arguments = [sys.executable, "-c", STREAM, f"{folder}/maps.npy", str(count)]
        arguments.append("every" if every else "boxes")
        run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    spent, busy, peak = (float(v) for v in run.stdout.split())
    return spent, busy, peak


def pxap(maps: np.ndarray) -> tuple[float, float]:
    """Median ms an image of two np.histogram calls and of heatbox, masks already at 224."""
    masks = (np.random.default_rng(0).random((len(maps), 224, 224)) < 0.3).astype(np.uint8)
    edges = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
    plain, ours = [], []
    metric = PxAP(threads=1)
    metric.update(maps, masks)
    total = np.zeros((2, 1002), np.int64)
    for one, mask in zip(maps, masks, strict=True):
        value = one.astype(np.float64)
        begin = time.process_time()
        total += [np.histogram(value[mask == c], bins=edges)[0] for c in (0, 1)]
        plain.append(time.process_time() - begin)
    for _ in range(5):
        ours.append(processor_seconds(lambda: metric.update(maps, masks)) / len(maps))
    assert (metric.histogram == 6 * total).all(), "PxAP histograms differ"
    return float(np.median(plain)) * 1e3, float(np.median(ours)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of the reference evaluator")
    parser.add_argument("--real", type=Path, help="folder of .npy maps of any size")
    parser.add_argument("--images", type=int, default=20, help="maps of each kind")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of maps (none to skip this part)")
    parser.add_argument("--stream", type=int, default=50_000, help="maps in the stream")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    slow = {"plain": plain_both}
    if arguments.reference:
        slow["reference"] = reference_both(arguments.reference)
    maps_of = kinds(arguments.images, arguments.real)
    BoxMetrics(both()).update(maps_of["smooth"][:1], truth_of(1), [(224, 224)])
    print(
        "MaxBoxAcc and MaxBoxAccV2 together, 1000 thresholds, one thread; ms of processor time; counts equal"
    )
    for kind, maps in maps_of.items():
        if arguments.kinds is not None and kind not in arguments.kinds:
            continue
        found = compare(maps, slow)
        ours = found.pop("heatbox")
        said = "  ".join(f"{name} {ms:.1f} (x{ms / ours:.0f})" for name, ms in found.items())
        print(
            f"  {kind:12s} heatbox {ours:.3f}, of it Python {share_of_python(maps):.1%}  {said}", flush=True
        )
    for kind, maps in maps_of.items():
        if arguments.kinds is None or kind in arguments.kinds:
            boxes, everything, ratio = together(maps)
            print(f"  {kind:12s} boxes {boxes:.3f}, with every other score {everything:.3f} (x{ratio:.2f})")
    one, two, one_busy, two_busy = two_threads(maps_of["smooth"])
    print(
        f"threads: 256 maps in {one * 1e3:.0f} ms with one, {two * 1e3:.0f} with two "
        f"({one / two / 2:.0%} efficient); "
        f"processor time {one_busy * 1e3:.0f} and {two_busy * 1e3:.0f} ms ({one_busy / two_busy:.0%})"
    )
    imported, first = cold_start()
    print(f"second process: import {imported:.2f} s, first score {first:.2f} s")
    for every, words in ((False, "MaxBoxAcc and MaxBoxAccV2"), (True, "every score, with outcomes")):
        spent, busy, peak = stream(arguments.stream, maps_of["smooth"], every)
        print(
            f"stream of {arguments.stream} maps, {words}: {spent:.1f} s, processor time {busy:.1f} s, "
            f"peak {peak:.0f} MB resident"
        )
    plain, ours = pxap(maps_of["smooth"])
    print(f"PxAP: np.histogram {plain:.2f} ms an image, heatbox {ours:.3f} (x{plain / ours:.0f})")
    rng = np.random.default_rng(0)
    bits = rng.random((50_000, 3)) < 0.6
    print(f"bootstrap, 10,000 resamples of 50,000 images: {seconds(lambda: bootstrap_interval(bits)):.2f} s")
    start = rng.integers(0, 1000, (50_000, 3, 1))
    curves = (np.arange(1000) >= start) & (np.arange(1000) < start + 300)
    best_threshold_interval(curves[:100], 10)
    spent = seconds(lambda: best_threshold_interval(curves))
    print(f"bootstrap with the threshold chosen again in each resample: {spent:.1f} s")


if __name__ == "__main__":
    main()
