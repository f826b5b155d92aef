"""Scores of the pixels of a map against the boxes or the mask of its object: one value per image and score.

With x the map, m its maximum and G the pixels of the object (any of its boxes or instances), averaged over
images:

*Pointing game* (Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, section 4.1): a
hit if the largest value lies in G, or with tolerance within 15 pixels of the image from it; #hits / (#hits +
#misses).

*Energy-based pointing game* (Wang et al., "Score-CAM", CVPR Workshops 2020, section 4.3), the *relevance mass
accuracy* of Arras et al. ("CLEVR-XAI", Information Fusion 2022, equations 1 and 2): sum of x over G / sum of
x.

*Relevance rank accuracy* (Arras et al., equations 3 and 4): of the |G| largest values, the fraction that lies
in G.

*Top-k intersection* (Theiner et al., "Interpretable Semantic Photo Geolocation", WACV 2022, equation 1): of
the k largest values, the fraction that lies in G.

*AUC* (Fawcett, "An introduction to ROC analysis", 2006, section 7): the probability that a random pixel of G
has a larger value than a random pixel outside.

*IoU* of G and {x >= t}: t a fixed fraction of m, Otsu's threshold ("A Threshold Selection Method from
Gray-Level Histograms", 1979) or a quantile of the pixels.

A pixel belongs to a box if its centre, scaled to the image, lies in it; a side of a box that no centre lies
in has the pixel at its middle. Ignored pixels of a mask (255) count nowhere. Values are float32, and compared
at the 16,320 levels floor(16320 x / m): pixels of one level tie. Ties count in expectation, as if their order
was drawn at random, so that a constant map has the object's fraction of the pixels as its pointing game, mass
and rank, and an AUC of .5; so has a map of zeros. A score is NaN where the ground truth leaves it undefined:
an image without a pixel of the object, and for the AUC one without a pixel outside. That does not depend on
the map, and these images are left out of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from heatbox._utils.checks import as_array, check_choice, check_integer, check_length, check_number
from heatbox._utils.devices import available_cores
from heatbox.boxes.batch import Workspaces, map_chunks
from heatbox.boxes.contours import check_heatmap, check_thresholds, threshold_grid
from heatbox.boxes.ops import covered_pixels, stack_boxes
from heatbox.errors import InputError
from heatbox.metrics._arguments import as_maps, check_threads, data_frame

if TYPE_CHECKING:
    import pandas

Ties = Literal["mean", "any", "first"]

TOLERANCE = 15.0
"""Of the pointing game, in pixels of the image."""
TOP_K = 1000
"""Pixels of the top-k intersection."""
QUANTILE = 0.8
"""Of the pixels of a map, below the threshold of `iou_quantile`."""
CURVE = 100
"""Thresholds of the IoU curve, fractions 0, .01 ... .99 of the map's maximum."""

COLUMNS = ("any", "mean", "first", "tolerant", "mass", "rank", "top_k", "auc", "otsu", "quantile")
"""Columns of the compiled scores of one map."""

SCORES = (
    "pointing_game",
    "pointing_game_tolerant",
    "energy_pointing_game",
    "relevance_rank",
    "top_k_intersection",
    "auc",
    "iou_half",
    "iou_otsu",
    "iou_quantile",
)
"""Names of the scores: `iou_half` is the IoU at half the maximum."""


@dataclass(frozen=True)
class MapScores:
    """The pixel scores of N maps.

    Attributes:
        values: (N, len(SCORES)) float64 in [0, 1], columns in the order of `SCORES`; NaN where undefined.
        curve: (N, T) float32, IoU of the object and the pixels of at least each fraction of the map's
            maximum.
        thresholds: (T,) these fractions.
    """

    values: np.ndarray
    curve: np.ndarray
    thresholds: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        """(N,) values of one score of `SCORES`."""
        return np.asarray(self.values[:, SCORES.index(name)])

    @property
    def best(self) -> int:
        """Index of the one threshold at which the mean IoU over the images is largest, the smallest of
        equals."""
        defined = self.curve[~np.isnan(self.curve[:, 0])].astype(np.float64)
        return int(defined.mean(0).argmax()) if len(defined) else 0

    def to_pandas(self) -> pandas.DataFrame:
        """One row per image, one column per score.

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(dict(zip(SCORES, self.values.T, strict=True)))


def map_scores(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    tolerance: float = TOLERANCE,
    k: int = TOP_K,
    quantile: float = QUANTILE,
    thresholds: int = CURVE,
    threads: int | None = None,
) -> MapScores:
    """Every pixel score of some maps, in one pass over them.

    Args:
        heatmaps: (N, H, W) in [0, 1], an array, a tensor on any device, or N maps of any sizes.
        boxes: for each image a (K, 4) xyxy array in pixels of the original image.
        image_sizes: for each image its original (width, height). With masks, (0, 0) is an unknown size, for
            which the score with tolerance is NaN; without any sizes, the tolerance is in pixels of the map.
        masks: in place of boxes, for each image an (H, W) mask of 0 background, 1 object, 255 ignored, of the
            map's size.
        tolerance: of `pointing_game_tolerant`, in pixels of the image.
        k: pixels of the top-k intersection; all pixels of a map that has fewer.
        quantile: fraction of the pixels below the threshold of `iou_quantile`.
        thresholds: number of evenly spaced thresholds of the IoU curve.
        threads: threads to use; all cores by default.

    Raises:
        InputError: something is malformed, numbers differ, or an argument is out of range.
        TypeError: an argument of a wrong type.

    Examples:
        >>> heatmap = np.zeros((1, 224, 224))
        >>> heatmap[0, 56:112, 56:168] = 1.0
        >>> scores = map_scores(heatmap, [np.array([[0, 0, 250, 500]])], [(500, 500)])
        >>> scores["energy_pointing_game"]
        array([0.5])
    """
    grid = threshold_grid(thresholds)
    at = np.unique([*grid, 0.5])
    columns, curve = _scored(heatmaps, boxes, image_sizes, masks, at, threads, tolerance, k, quantile)
    half = curve[:, np.searchsorted(at, 0.5)]
    values = np.stack([half if name == "iou_half" else columns[:, _COLUMN[name]] for name in SCORES], axis=1)
    return MapScores(values, curve[:, np.searchsorted(at, grid)].astype(np.float32), grid)


_COLUMN = {
    "pointing_game": COLUMNS.index("mean"),
    "pointing_game_tolerant": COLUMNS.index("tolerant"),
    "energy_pointing_game": COLUMNS.index("mass"),
    "relevance_rank": COLUMNS.index("rank"),
    "top_k_intersection": COLUMNS.index("top_k"),
    "auc": COLUMNS.index("auc"),
    "iou_otsu": COLUMNS.index("otsu"),
    "iou_quantile": COLUMNS.index("quantile"),
}


def _workspace(height: int, width: int) -> tuple[np.ndarray, ...]:
    from heatbox.metrics._pixels import workspace

    return workspace(height, width)


_WORKSPACES = Workspaces(_workspace)


def _scored(
    heatmaps: Any,
    boxes: Sequence[Any] | None,
    image_sizes: Sequence[Sequence[float]] | None,
    masks: Any,
    at: np.ndarray,
    threads: int | None,
    tolerance: float = TOLERANCE,
    k: int = TOP_K,
    quantile: float = QUANTILE,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, len(COLUMNS)) scores, and the IoU (N, T) at ascending fractions of the maximum; see
    `map_scores`."""
    from heatbox.metrics._pixels import LEVELS, score_pixels

    maps = as_maps(heatmaps)
    check_integer(k, "k")
    check_number(quantile, "quantile", "a fraction in [0, 1)")
    check_number(tolerance, "tolerance", "a number of pixels, 0 or more")
    if not 0 <= quantile < 1 or not 0 <= tolerance < np.inf:
        raise InputError(
            f"quantile is {quantile} and tolerance {tolerance}, expected one in [0, 1) and one of 0 or more"
        )
    pixels = _truth_of(maps, boxes, image_sizes, masks)
    options = np.array([k, quantile, tolerance], np.float64)
    levels = np.ceil(np.asarray(at) * LEVELS - 1e-9).astype(np.int64)
    columns, curve = np.zeros((len(maps), len(COLUMNS))), np.zeros((len(maps), len(levels)))

    def score(chunk: tuple[int, int]) -> None:
        begin, end = chunk
        shape = np.shape(maps[begin])  # that of all maps of the chunk, as their type is
        if len(shape) != 2 or 0 in shape or np.asarray(maps[begin]).dtype.kind not in "fiub":
            check_heatmap(maps[begin], f"heatmap {begin}")
        batch = np.require(np.asarray(maps[begin:end]), np.float32, ("C", "W"))
        with _WORKSPACES.lend(shape) as work:
            bad = score_pixels(
                batch,
                batch.view(np.uint32),
                *pixels(begin, end, shape),
                options,
                levels,
                work,
                columns[begin:end],
                curve[begin:end],
            )
        if bad >= 0:
            check_heatmap(batch[bad], f"heatmap {begin + bad}")
            raise InputError(f"heatmap {begin + bad}: its mask has values other than 0, 1 and 255")

    chunks = list(map_chunks(maps))
    threads = min(check_threads(threads) or available_cores(), len(chunks))
    if threads <= 1:
        for chunk in chunks:
            score(chunk)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(score, chunks))
    if masks is not None and image_sizes is not None and len(columns):
        unknown = ~(np.asarray(image_sizes, np.float64) > 0).all(1)
        columns[unknown, COLUMNS.index("tolerant")] = np.nan
    return columns, curve


Truth = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Masks, boxes as ranges of pixels, the first box of each image, image sizes, as the kernel takes them."""


def _truth_of(
    maps: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[Any] | None,
    image_sizes: Sequence[Sequence[float]] | None,
    masks: Any,
) -> Callable[[int, int, tuple[int, ...]], Truth]:
    """A function of (begin, end, (height, width)) that returns masks, boxes, starts and sizes for the
    kernel."""
    if (boxes is None) == (masks is None):
        raise InputError("expected boxes with image_sizes, or masks")
    check_length(
        masks if boxes is None else boxes, "masks" if boxes is None else "boxes", "one for each image"
    )
    if boxes is not None and image_sizes is None:
        raise InputError("image_sizes are missing, expected (width, height) for each image")
    if image_sizes is not None:
        check_length(image_sizes, "image_sizes", "(width, height) for each image")
    numbers = [len(one) for one in (maps, boxes, masks, image_sizes) if one is not None]
    if len(set(numbers)) > 1:
        words = " and ".join(map(str, numbers))
        raise InputError(f"got {words} heatmaps, boxes or masks, and sizes; expected as many of each")
    none = np.zeros((0, 4), np.int64)
    if boxes is not None and image_sizes is not None:
        stacked, sizes, starts = (
            stack_boxes(boxes, image_sizes) if len(boxes) else (none, none[:, :2], none[:, 0])
        )

        def of_boxes(begin: int, end: int, shape: tuple[int, ...]) -> Truth:
            firsts = starts[begin : end + 1]
            each = np.repeat(sizes[begin:end], np.diff(firsts), axis=0)
            ranges = covered_pixels(stacked[firsts[0] : firsts[-1]], each, shape[::-1])
            return np.zeros((1, *shape), np.uint8), ranges, firsts - firsts[0], sizes[begin:end]

        return of_boxes

    def of_masks(begin: int, end: int, shape: tuple[int, ...]) -> Truth:
        found = [as_array(masks[i]) for i in range(begin, end)]
        for i, one in enumerate(found, begin):
            if one.shape != shape:
                raise InputError(
                    f"heatmap {i}: has shape {shape} but its mask {one.shape}, expected the same"
                )
            if one.dtype.kind not in "iub":
                raise InputError(f"heatmap {i}: its mask has values of {one.dtype}, expected 0, 1 and 255")
        sizes = image_sizes[begin:end] if image_sizes is not None else [shape[::-1]] * len(found)
        of_image = np.asarray(sizes, np.float64).reshape(-1, 2)
        if not (np.isfinite(of_image) & (of_image >= 0)).all():
            raise InputError("an image size is not two numbers of 0 or more, expected (width, height)")
        of_image = np.where(
            (of_image > 0).all(1, keepdims=True), of_image, shape[::-1]
        )  # unknown: see _scored
        return np.stack(found).astype(np.uint8), none, none[:, 0], of_image

    return of_masks


# ------------------------------------------------------------------------------------------------ one score
# each


def pointing_game(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    tolerance: float = 0,
    ties: Ties = "mean",
    threads: int | None = None,
) -> np.ndarray:
    """Whether the largest value of each map lies in the object (Zhang et al., ECCV 2016, section 4.1).

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.
        tolerance: distance between the centres of the largest pixel and of one of the object, in pixels of
            the
            image, up to which it hits; the published game has 15.
        ties: of several largest pixels, the fraction that hits ("mean", what a random one scores on average),
            whether any does ("any", as in Quantus) or whether the first one in raster order does ("first",
            as `argmax` picks it). With a tolerance only "mean".

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`, or other ties.

    Examples:
        >>> heatmap = np.zeros((1, 100, 100))
        >>> heatmap[0, 50, 50] = 1.0
        >>> box = [np.array([[60, 40, 80, 60]])]
        >>> pointing_game(heatmap, box, [(100, 100)]), pointing_game(heatmap, box, [(100, 100)], tolerance=15)
        (array([0.]), array([1.]))
    """
    check_choice(ties, "ties", get_args(Ties))
    if tolerance and ties != "mean":
        raise InputError(f"ties is {ties!r}, expected 'mean' with a tolerance")
    columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads, tolerance)
    return columns[:, COLUMNS.index("tolerant" if tolerance else ties)]


def energy_pointing_game(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """Fraction of the sum of each map that lies in the object (Wang et al., Score-CAM, section 4.3).

    The relevance mass accuracy of Arras et al. (equations 1 and 2) is the same.

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`.
    """
    columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads)
    return columns[:, COLUMNS.index("mass")]


relevance_mass = energy_pointing_game


def relevance_rank(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """Of as many largest values as the object has pixels, the fraction in it (Arras et al., equations 3 and
    4).

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`.
    """
    columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads)
    return columns[:, COLUMNS.index("rank")]


def top_k_intersection(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    k: int = TOP_K,
    threads: int | None = None,
) -> np.ndarray:
    """Fraction of the k largest values that lies in the object (Theiner et al., WACV 2022, equation 1).

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.
        k: number of pixels; of a map that has fewer, all of them.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`.
    """
    columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads, k=k)
    return columns[:, COLUMNS.index("top_k")]


def auc(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    threads: int | None = None,
) -> np.ndarray:
    """Area under the ROC curve of each map as a score of its pixels, inside against outside (Fawcett 2006).

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.

    Returns:
        (N,) float64 in [0, 1]; NaN where no pixel lies outside the object.

    Raises:
        InputError: as `map_scores`.
    """
    columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads)
    return columns[:, COLUMNS.index("auc")]


def iou_curve(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    thresholds: int | Sequence[float] | np.ndarray = CURVE,
    threads: int | None = None,
) -> np.ndarray:
    """IoU of the object and the pixels of at least a fraction of each map's maximum.

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.
        thresholds: a number of evenly spaced fractions, or ascending fractions in [0, 1).

    Returns:
        (N, T) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`.
    """
    grid = threshold_grid(thresholds) if isinstance(thresholds, int) else check_thresholds(thresholds)
    if grid.ndim != 1 or (np.diff(grid) < 0).any():
        raise InputError(f"thresholds are {thresholds}, expected ascending fractions in [0, 1)")
    return _scored(heatmaps, boxes, image_sizes, masks, grid, threads)[1]


def map_iou(
    heatmaps: Any,
    boxes: Sequence[Any] | None = None,
    image_sizes: Sequence[Sequence[float]] | None = None,
    *,
    masks: Any = None,
    threshold: float | Literal["otsu", "quantile"] = 0.5,
    quantile: float = QUANTILE,
    threads: int | None = None,
) -> np.ndarray:
    """IoU of the object and the foreground of each map.

    Args:
        heatmaps, boxes, image_sizes, masks, threads: as for `map_scores`.
        threshold: a fraction of the map's maximum, one for all maps; "otsu" for the one that separates the
            8-bit levels floor(255 x / m) of each map best, the foreground being above it, as in OpenCV;
            "quantile" for a quantile of the pixels of each map, the foreground being the others.
        quantile: fraction of the pixels that are background with "quantile".

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        InputError: as `map_scores`.
    """
    if isinstance(threshold, str):
        check_choice(threshold, "threshold", ("otsu", "quantile"))
        columns, _ = _scored(heatmaps, boxes, image_sizes, masks, np.zeros(0), threads, quantile=quantile)
        return columns[:, COLUMNS.index(threshold)]
    return iou_curve(heatmaps, boxes, image_sizes, masks=masks, thresholds=[threshold], threads=threads)[:, 0]
