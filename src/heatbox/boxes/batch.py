"""Best IoU of a batch of heatmaps at every level, on all cores: the fast path of the reference protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock

import numpy as np

from heatbox._utils.devices import available_cores
from heatbox.boxes.contours import check_heatmap

MAPS_PER_CALL = 16
"""Maps per task of a thread: enough to make scheduling cheap, few enough to balance the load."""


class Workspaces:
    """A pool of the buffers that a thread needs for maps of one size.

    Args:
        make: (height, width) → the buffers.
    """

    def __init__(self, make: Callable[[int, int], tuple]) -> None:
        self._make, self._lock = make, Lock()
        self._idle: list[tuple[tuple[int, int], tuple]] = []

    @contextmanager
    def lend(self, shape: tuple[int, int]) -> Iterator[tuple]:
        """Buffers that no other thread uses meanwhile."""
        with self._lock:
            found = next((i for i, (of, _) in enumerate(self._idle) if of == shape), None)
            work = None if found is None else self._idle.pop(found)[1]
        work = self._make(*shape) if work is None else work
        try:
            yield work
        finally:
            with self._lock:
                self._idle = [(shape, work), *self._idle][: 2 * available_cores()]


def _workspace(height: int, width: int) -> tuple:
    from heatbox.boxes._kernels.score import workspace

    return workspace(height, width)


_WORKSPACES = Workspaces(_workspace)


def score_batch(
    heatmaps: Sequence[np.ndarray] | np.ndarray,
    truth: np.ndarray,
    starts: np.ndarray,
    iou: tuple[np.ndarray, np.ndarray],
    thresholds: np.ndarray,
    threads: int | None = None,
    return_iou: bool = False,
    each: np.ndarray | None = None,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """How many heatmaps reach each IoU at each threshold, and the best IoU of each heatmap there.

    Args:
        heatmaps: N maps (H, W) in [0, 1], of any sizes.
        truth: (K, 4) integer-valued boxes, xyxy, in the frame in which boxes are compared.
        starts: (N + 1,) the boxes of map i are truth[starts[i]:starts[i + 1]].
        iou: the required IoUs for the largest contour and for all contours; none skips those contours.
        thresholds: (T,) in [0, 1).
        threads: threads to use; all cores by default.
        return_iou: return the best IoUs as well.
        each: required IoUs of the one-to-one matches of contours and ground-truth boxes; by default none.

    Returns:
        (N, 2, T) float64 best IoU with the ground truth of the largest contour's box and of any contour's, or
        (0, 2, T); counts (I, T) int64 for the largest contour and for all contours; and (N, J, T) uint8, the
        ground-truth boxes that are matched at each of the J IoUs of `each`.

    Raises:
        InputError: a heatmap is malformed; the message has its index in the batch.
    """
    from heatbox.boxes._kernels.score import score_maps

    threads = threads or available_cores()
    # At every 8-bit level: threshold tau cuts at level int(tau * top).
    curves, tops = np.zeros((len(heatmaps), 2, 256)), np.zeros(len(heatmaps), np.int64)
    each = np.zeros(0) if each is None else np.asarray(each, np.float64)
    matched = np.zeros((len(heatmaps) if len(each) else 1, len(each), 256), np.uint8)
    chunks = list(map_chunks(heatmaps))

    def score(chunk: tuple[int, int]) -> list[np.ndarray]:
        """Score heatmaps begin:end, which have one shape, into `curves` and `tops`; returns their counts."""
        begin, end = chunk
        maps = np.asarray(heatmaps[begin:end])
        if maps.ndim != 3 or 0 in maps.shape:
            check_heatmap(maps[0], f"heatmap {begin}")
        if maps.dtype not in (np.float32, np.float64):
            maps = maps.astype(np.float32 if maps.dtype == np.float16 else np.float64)
        # One memory layout, so that the kernel is not compiled again for read-only or strided maps.
        maps = np.require(maps, requirements=("C", "W"))
        counts = tuple(np.zeros((len(values), len(thresholds)), np.int64) for values in iou)
        boxes, firsts = truth[starts[begin] : starts[end]], starts[begin : end + 1] - starts[begin]
        with _WORKSPACES.lend(maps.shape[1:]) as work:
            rest = (
                work,
                curves[begin:end],
                tops[begin:end],
                counts,
                each,
                matched[begin:end] if len(each) else matched,
            )
            score_maps(maps, boxes, firsts, iou, thresholds, *rest)
        if (malformed := tops[begin:end] < 0).any():
            i = int(np.argmax(malformed))
            check_heatmap(maps[i], f"heatmap {begin + i}")
        return list(counts)

    if threads == 1 or len(chunks) == 1:
        counts = [score(chunk) for chunk in chunks]
    else:
        with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
            counts = list(pool.map(score, chunks))
    sums = [sum((c[k] for c in counts), np.zeros((len(iou[k]), len(thresholds)), np.int64)) for k in (0, 1)]
    levels = (thresholds[None] * tops[:, None]).astype(np.int64)[:, None]
    matches = np.zeros((len(heatmaps), 0, len(thresholds)), np.uint8)
    if len(each):
        matches = np.stack([one[:, at] for one, at in zip(matched, levels[:, 0], strict=True)])
    if not return_iou:
        return np.zeros((0, 2, len(thresholds))), sums, matches
    return np.take_along_axis(curves, levels.repeat(2, 1), axis=2), sums, matches


def map_chunks(heatmaps: Sequence[np.ndarray] | np.ndarray) -> Iterator[tuple[int, int]]:
    """Split a batch into (begin, end) of maps of one shape and type, at most `MAPS_PER_CALL`."""

    def layout(heatmap: np.ndarray) -> tuple:
        return np.shape(heatmap), getattr(heatmap, "dtype", None)

    if isinstance(heatmaps, np.ndarray):
        yield from (
            (begin, min(begin + MAPS_PER_CALL, len(heatmaps)))
            for begin in range(0, len(heatmaps), MAPS_PER_CALL)
        )
        return
    begin = 0
    for end in range(1, len(heatmaps) + 1):
        last = end == len(heatmaps)
        if last or end - begin == MAPS_PER_CALL or layout(heatmaps[end]) != layout(heatmaps[begin]):
            yield begin, end
            begin = end
