"""Effective receptive field: which input pixels the centre of the last feature map depends on.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016,
measured as Ding et al. do for RepLKNet (CVPR 2022) and CAM Back Again after them (supplement 10): the
gradient of the central position's activations with respect to the input, averaged over images, and the
smallest centred square that contains a fraction t of it.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.checks import as_numbers, check_integer, check_length, check_module
from heatbox._utils.io import write_atomically
from heatbox._utils.progress import Track, silent
from heatbox.analysis.config import ErfConfig, FieldConfig
from heatbox.config import ModelOptions
from heatbox.data.loader import preprocessed
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.predict import run_inference
from heatbox.evaluation.run import METRICS, Record
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, eval_mode
from heatbox.visualization.figures import erf as figures
from heatbox.visualization.figures.style import save_figure
from heatbox.visualization.overlay import evenly_spaced

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis, ComparedModel

PUBLISHED_THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
"""The fractions t in the tables of the source."""

THRESHOLDS = np.arange(1, 100) / 100
"""The fractions t of the curve r(t), over which its area is taken: .01, .02, ..., .99."""

PUBLISHED_SIZE = 1024
"""Side of the input in the source, in pixels; images are resized to it with bicubic interpolation."""

CHECKPOINT_FROM = 2**19
"""Input pixels of a batch from which activations are recomputed instead of kept: half a 1024 x 1024 image."""

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of a model, averaged over some images.

    Attributes:
        contribution: (H, W) float64, mean contribution of each input pixel, not below 0.
        images: number of images in the mean.
        skipped: number of images left out because their gradient was not finite.
    """

    contribution: np.ndarray
    images: int
    skipped: int = 0

    def fractions(self, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Fraction of the total that each square around the centre (H // 2, W // 2) contains.

        Args:
            log: take log10(x + 1) first, as RepLKNet's code does; SLaK's figures do not.

        Returns:
            sides 3, 5, ... in pixels of the squares that lie within the input, and their fractions in [0, 1].
            The largest square of an even input leaves out the first row and column, as the source's does.

        Raises:
            InputError: the contribution is not an (H, W) array of finite values from 0 on.
        """
        values = np.asarray(self.contribution, dtype=np.float64)
        if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
            raise InputError(
                "a contribution is a finite (H, W) array without negative values; "
                f"this has shape {values.shape}"
            )
        values = np.log10(values + 1) if log else values
        height, width = values.shape
        rows, columns = abs(np.arange(height) - height // 2), abs(np.arange(width) - width // 2)
        ring = np.maximum(rows[:, None], columns[None])  # the square on whose rim each pixel lies
        reach = min(height, width) // 2
        held = np.bincount(ring.ravel(), values.ravel(), minlength=reach)[:reach].cumsum()
        total = values.sum()
        fractions = held / total if total > 0 else np.zeros(reach)
        return 2 * np.arange(1, max(reach, 1)) + 1, fractions[1:]

    def side(self, t: float, log: bool = True) -> int | None:
        """Side in pixels of the smallest centred square that contains *more* than the fraction t.

        Returns:
            an odd number from 3 on, or None if no square within the input does.

        Raises:
            InputError: a fraction outside [0, 1], or as `fractions`.
        """
        sides, fractions = self.fractions(log)
        index = int(np.searchsorted(fractions, _checked(t), side="right"))
        return int(sides[index]) if index < len(sides) else None

    def area_ratio(self, t: Any, log: bool = True) -> Any:
        """Area of the smallest centred square that contains more than the fraction t, over the input's.

        Args:
            t: a fraction in [0, 1], or an array of them.
            log: take log10(x + 1) of the contribution first.

        Returns:
            r(t) in (0, 1], a float for a float and an array for an array; 1 if no square within the input
            does.

        Raises:
            InputError: a fraction outside [0, 1], or as `fractions`.
        """
        sides, fractions = self.fractions(log)
        wanted = _checked(t)
        ratios = np.append(sides**2 / np.asarray(self.contribution).size, 1.0)
        found = ratios[np.searchsorted(fractions, wanted, side="right")]
        return float(found) if wanted.ndim == 0 else found

    def curve(self, log: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The fractions t and the area ratios r(t), both (99,)."""
        return THRESHOLDS, self.area_ratio(THRESHOLDS, log)

    def auc(self, log: bool = True) -> float:
        """Area under r(t) by the trapezoid rule over t = .01, .02, ..., .99 (so at most .98)."""
        ratios = self.area_ratio(THRESHOLDS, log)
        return float(((ratios[1:] + ratios[:-1]) / 2 * np.diff(THRESHOLDS)).sum())

    def gaussian(self) -> GaussianFit:
        """The isotropic Gaussian about the centre of the input that fits the contribution best."""
        return fit_gaussian(self.contribution)


def _checked(t: Any) -> np.ndarray:
    wanted = as_numbers(t, "t", "fractions in [0, 1]")
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise InputError(f"t is {t}, expected fractions in [0, 1]")
    return wanted


@dataclass(frozen=True)
class GaussianFit:
    """A least-squares fit of ``amplitude * exp(-d^2 / (2 sigma^2))``, d the distance to a fixed centre.

    Attributes:
        sigma: radius in pixels.
        amplitude: in units of the map.
        explained: fraction of the map's sum of squares that the Gaussian explains, in [0, 1]; a low value
            means that the map is not Gaussian, and sigma should not be interpreted.
    """

    sigma: float
    amplitude: float
    explained: float


def fit_gaussian(values: np.ndarray, centre: tuple[float, float] | None = None) -> GaussianFit:
    """Fit an isotropic Gaussian about a given centre.

    For a given sigma the best amplitude has a closed form, so only sigma is searched for: on a coarse
    logarithmic grid, then by golden-section search. The Gaussian separates into rows and columns.

    Args:
        values: (H, W), finite, not all zero.
        centre: (row, column) in pixels; by default (H // 2, W // 2), the centre of the receptive field's
            squares.

    Raises:
        InputError: not such a map.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all() or not found.any():
        raise InputError(
            f"a Gaussian is fitted to a finite (H, W) map that is not all zero; got shape {found.shape}"
        )
    height, width = found.shape
    row, column = (height // 2, width // 2) if centre is None else centre
    rows, columns = (np.arange(height) - row) ** 2, (np.arange(width) - column) ** 2
    energy = float((found**2).sum())

    def overlap(log_sigma: float) -> tuple[float, float]:
        """<map, gaussian> and <gaussian, gaussian>."""
        down, across = (np.exp(-0.5 * squares / np.exp(2 * log_sigma)) for squares in (rows, columns))
        return float(down @ found @ across), float((down**2).sum() * (across**2).sum())

    def explained(log_sigma: float) -> float:
        with_map, with_self = overlap(log_sigma)
        return with_map**2 / with_self / energy

    grid = np.linspace(np.log(0.3), np.log(2.0 * max(height, width)), 48)
    best = int(np.argmax([explained(one) for one in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(40):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if explained(left) >= explained(right) else (left, high)
    middle = (low + high) / 2
    with_map, with_self = overlap(middle)
    return GaussianFit(float(np.exp(middle)), with_map / with_self, explained(middle))


def effective_receptive_field(
    model: nn.Module | ClassifierView,
    images: Tensor | Sequence[Image.Image],
    size: int | None = None,
    batch_size: int = 1,
) -> ReceptiveField:
    """Measure the effective receptive field of a model.

    Args:
        model: any model with a last feature map, see `feature_function`.
        images: (B, 3, H, W) preprocessed, or PIL images, which are resized to a square with bicubic
            interpolation and normalized with the mean and std of the model's timm config.
        size: side of that square in pixels, 1024 by default; not used for a tensor.
        batch_size: images per forward pass.

    Returns:
        the mean contribution, with its measures as methods:
        ``effective_receptive_field(model, images).area_ratio(0.5)``.

    Raises:
        InputError: no image, images of a wrong shape, or gradients that are finite for none of them.
        TypeError: no model, images that are neither a tensor nor PIL images, or sizes that are no integers.
    """
    network = _module(model)
    check_module(network, "model")
    features_of, total = feature_function(model), RunningErf()
    for batch in _batches(network, images, size, batch_size):
        total.append(
            [{"id": "", "contribution": one} for one in contributions(network, batch, None, features_of)]
        )
    return total.mean()


def _batches(
    network: nn.Module, images: Tensor | Sequence[Image.Image], size: int | None, batch_size: int
) -> Iterator[Tensor]:
    check_integer(batch_size, "batch_size")
    if size is not None:
        check_integer(size, "size")
    check_length(images, "images", "a tensor (B, 3, H, W) or PIL images")
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
        yield from images.split(batch_size)  # type: ignore[no-untyped-call]
        return
    preprocess = ModelOptions().preprocess(network, size or PUBLISHED_SIZE, "bicubic")
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        if not all(isinstance(image, Image.Image) for image in chosen):
            raise TypeError("images are neither a tensor (B, 3, H, W) nor a sequence of PIL images")
        yield torch.stack([preprocess(image) for image in chosen])


# ------------------------------------------------------------------------------- gradients of the input


def contributions(
    model: nn.Module | ClassifierView,
    images: Tensor,
    positions: Sequence[tuple[int, int]] | None = None,
    features_of: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Contribution of each input pixel to the central position of the last feature map, per image.

    The activations of the position are rectified and summed over channels; their gradient with respect to
    the input is rectified and summed over colours.

    Args:
        model: any model with a last feature map.
        images: (B, 3, H, W), preprocessed, in one forward pass.
        positions: (row, column) cells of the feature map (h, w) instead of the central one, (h // 2, w // 2).
        features_of: images → feature map; by default `feature_function` of the model.

    Returns:
        (B, H, W) float32; with `positions` (P, B, H, W).

    Raises:
        InputError: images or positions that do not fit.
    """
    features_of = features_of or feature_function(model)
    if not isinstance(images, Tensor) or images.ndim != 4 or 0 in images.shape:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images have shape {shape}, expected (B, 3, H, W), none of them 0")
    with input_gradients(_module(model), images) as inputs:
        features = features_of(inputs)  # (B, C, h, w)
        height, width = features.shape[2:]
        cells = [(height // 2, width // 2)] if positions is None else list(positions)
        found = []
        for index, (row, column) in enumerate(cells):
            if not (0 <= row < height and 0 <= column < width):
                raise InputError(f"position {(row, column)} is outside the feature map {(height, width)}")
            activation = features[:, :, row, column].relu().sum()
            (gradient,) = torch.autograd.grad(activation, inputs, retain_graph=index + 1 < len(cells))
            found.append(gradient.detach().relu().sum(1).float().cpu().numpy())
    return found[0] if positions is None else np.stack(found)


def feature_function(model: nn.Module | ClassifierView) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, H, W) → last feature map (B, C, h, w), before a final norm that belongs to the head.

    This is the map of `ClassifierView.features`. For a model without a head that `ClassifierView` can trace
    (no classifier, or a head of another kind) it is the output of `forward_features`.

    Raises:
        InputError: there is no such map.
    """
    if isinstance(model, ClassifierView):
        return model.features
    try:
        return ClassifierView(model).features
    except InputError:
        own = getattr(model, "forward_features", None)
        if not callable(own):
            raise

        def features(images: Tensor) -> Tensor:
            value = own(images)
            if not isinstance(value, Tensor) or value.ndim != 4:
                raise InputError(f"{type(model).__name__}.forward_features returns no map (B, C, h, w)")
            return value

        return features


def _module(model: nn.Module | ClassifierView) -> nn.Module:
    return model.model if isinstance(model, ClassifierView) else model


@contextmanager
def input_gradients(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Prepare a model for gradients of its input alone; yields the images as a leaf that requires grad.

    Inside, the model is in eval mode, no parameter accumulates a gradient, and for large inputs activations
    are recomputed in the backward pass if the model supports it (`set_grad_checkpointing`), so that memory
    grows with one block, not with the depth. The model's own state is restored on exit.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    flags = [
        (module, module.grad_checkpointing)
        for module in model.modules()
        if isinstance(getattr(module, "grad_checkpointing", None), bool)
    ]
    switch = getattr(model, "set_grad_checkpointing", None)
    leaf = as_input(model, images.detach()).clone().requires_grad_()
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        if leaf.shape[0] * leaf.shape[2] * leaf.shape[3] >= CHECKPOINT_FROM and callable(switch):
            # timm raises these for models that cannot recompute; such a model keeps its activations.
            with suppress(AssertionError, NotImplementedError):
                switch(True)
        with eval_mode(model), torch.enable_grad():
            yield leaf
    finally:
        for module, flag in flags:
            module.grad_checkpointing = flag
        for parameter in parameters:
            parameter.requires_grad_(True)


# ------------------------------------------------------------------- positions other than the central one


@dataclass(frozen=True)
class ReceptiveFieldGrid:
    """Receptive fields of a grid of positions of the last feature map.

    Attributes:
        rows, columns: (R,) and (K,) cells of the feature map, whose size is `feature_size`.
        contribution: (R, K, H, W) float64, mean over images.
        feature_size: (h, w) of the feature map.
        images: number of images in the mean.
    """

    rows: np.ndarray
    columns: np.ndarray
    contribution: np.ndarray
    feature_size: tuple[int, int]
    images: int

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """Pixel (row, column) of the input under the middle of a cell."""
        (height, width), (h, w) = self.contribution.shape[2:], self.feature_size
        return (row + 0.5) * height / h - 0.5, (column + 0.5) * width / w - 0.5

    def gaussians(self) -> list[list[GaussianFit]]:
        """The Gaussian fit of each position, about the middle of its cell."""
        return [
            [
                fit_gaussian(self.contribution[i, k], self.centre(row, column))
                for k, column in enumerate(self.columns)
            ]
            for i, row in enumerate(self.rows)
        ]

    def mass_centres(self) -> np.ndarray:
        """(R, K, 2) pixel (row, column) of the centre of mass of each position's contribution."""
        height, width = self.contribution.shape[2:]
        total = self.contribution.sum((2, 3))
        total = np.where(total > 0, total, np.nan)
        down = (self.contribution.sum(3) @ np.arange(height)) / total
        across = (self.contribution.sum(2) @ np.arange(width)) / total
        return np.stack([down, across], axis=-1)


def receptive_field_grid(
    model: nn.Module | ClassifierView, batches: Iterable[Tensor], grid: int = 5
) -> ReceptiveFieldGrid:
    """Receptive fields of an evenly spaced grid of positions.

    One forward pass per batch and one backward pass per position; several processes share the positions, see
    `heatbox._utils.processes`.

    Args:
        model: any model with a last feature map.
        batches: of preprocessed images (B, 3, H, W), all of one size.
        grid: positions along each side, the outermost ones included.

    Raises:
        InputError: no image, or a grid without a position.
    """
    if grid < 1:
        raise InputError(f"a grid of {grid} positions along a side is empty, expected 1 or more")
    network, features_of = _module(model), feature_function(model)
    total: Any = 0.0
    count = 0
    rows = columns = np.zeros(0, int)
    cells: Sequence[tuple[int, int]] = []
    for batch in batches:
        if not count:
            with input_gradients(network, batch[:1]) as one, torch.no_grad():
                size = features_of(one).shape[2:]
            rows, columns = (np.array(evenly_spaced(side, grid)) for side in size)
            cells = processes.own_part(list(itertools.product(rows.tolist(), columns.tolist())))
        if cells:
            maps = contributions(network, batch, cells, features_of)  # (P, B, H, W)
            total = total + maps.sum(1, dtype=np.float64)
        count += len(batch)
    if not count:
        raise InputError("there is no image to measure the receptive fields on")
    every = np.concatenate([one for one in processes.gathered(total if cells else None) if one is not None])
    mean = every.reshape(len(rows), len(columns), *every.shape[1:]) / count
    return ReceptiveFieldGrid(rows, columns, mean, (size[0], size[1]), count)


# --------------------------------------------------------------------------- over a data set, resumable

FIELD = "contribution.npz"
Numbers = dict[str, Any]


@dataclass
class RunningErf:
    """The sum of the contributions of some images, in one .npz file that is rewritten as it grows.

    Args:
        path: the file; the images that it already contains are kept. None for a sum in memory.

    Raises:
        InputError: the file is damaged.
    """

    path: Path | None = None

    def __post_init__(self) -> None:
        self.total: np.ndarray | None = None
        self.ids: list[str] = []
        self.skipped: list[str] = []
        if self.path is not None and self.path.exists():
            try:
                with np.load(self.path) as file:
                    self.total, self.ids = file["total"], file["ids"].tolist()
                    self.skipped = file["skipped"].tolist()
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"{self.path}: is damaged ({error}); delete it to measure its images again"
                ) from error

    def done(self) -> set[str]:
        """Ids of the images added so far, and of those skipped."""
        return {*self.ids, *self.skipped}

    def append(self, records: Sequence[Record]) -> None:
        """Add the (H, W) "contribution" of some images and write the file; those not finite are skipped."""
        if not records:
            return
        maps = np.stack([record["contribution"] for record in records])
        finite = np.isfinite(maps).all((1, 2))
        total = np.zeros(maps.shape[1:]) if self.total is None else self.total
        for record, one, good in zip(records, maps, finite, strict=True):
            (self.ids if good else self.skipped).append(record["id"])
            if good:  # one after the other, so that the sum does not depend on how many come at a time
                total += one
        self.total = total
        if self.path is not None:
            stream = io.BytesIO()
            ids, skipped = np.array(self.ids, dtype=str), np.array(self.skipped, dtype=str)
            np.savez(stream, total=self.total, ids=ids, skipped=skipped)
            write_atomically(self.path, stream.getvalue())

    def mean(self) -> ReceptiveField:
        """The mean over the images added so far.

        Raises:
            InputError: there is none, or none with a finite gradient.
        """
        if self.total is None:
            raise InputError("there is no image to measure the receptive field on")
        if not self.ids:
            raise InputError(f"the gradients of all {len(self.skipped)} images contain NaN or infinity")
        return ReceptiveField(self.total / len(self.ids), len(self.ids), len(self.skipped))


def erf_of_examples(
    model: ComparedModel,
    split: Split,
    examples: Sequence[Example],
    config: FieldConfig,
    path: Path,
    what: str,
    track: Track = silent,
) -> ReceptiveField:
    """The mean receptive field over some examples of a split; images that `path` contains are not repeated.

    The file is written after every batch, which is cheap beside a backward pass.
    """
    store = RunningErf(path)

    def records(chosen: Sequence[Example], images: Tensor) -> list[Record]:
        maps = contributions(model.view, images)
        return [{"id": one.id, "contribution": maps[index]} for index, one in enumerate(chosen)]

    path.parent.mkdir(parents=True, exist_ok=True)
    images = replace(split, examples=list(examples))
    preprocess = model.spec.preprocess(model.view.model, config.erf_size, "bicubic")
    size = config.erf_batch_size
    run_inference(images, preprocess, size, store, records, what, track, shard_size=1)
    return processes.from_first(store.mean)


def numbers_of(found: ReceptiveField) -> Numbers:
    """A receptive field in JSON: the published fractions, the curve, its area, a Gaussian."""
    height, width = found.contribution.shape
    numbers: Numbers = {"images": found.images, "skipped": found.skipped, "size": [height, width]}
    for log in (True, False):
        fractions, ratios = found.curve(log)
        numbers["log" if log else "linear"] = {
            "auc": found.auc(log),
            "side": {f"{t:g}": found.side(t, log) for t in PUBLISHED_THRESHOLDS},
            "area_ratio": {f"{t:g}": found.area_ratio(t, log) for t in PUBLISHED_THRESHOLDS},
            "t": fractions,
            "r": ratios,
        }
    if found.contribution.any():
        fit = found.gaussian()
        numbers["gaussian"] = {"sigma": fit.sigma, "explained": fit.explained}
    return numbers


def measure(analysis: Analysis, model: ComparedModel, config: ErfConfig) -> Numbers:
    """The receptive field of one model, of the centre and of a grid of positions.

    Returns:
        `numbers_of` the central one, with "positions" if a grid was asked for.

    Raises:
        InputError: an argument out of range, or images that cannot be used.
    """
    for name in ("erf_size", "erf_images", "erf_batch_size", "erf_grid_images"):
        check_integer(getattr(config, name), name.replace("_", " "))
    options = {"data": config.data, "erf_size": config.erf_size, "erf_images": config.erf_images}
    run = analysis.start(model, "erf", options)
    if analysis.overwrite:
        (run.folder / FIELD).unlink(missing_ok=True)
    examples = analysis.images.take(config.erf_images).examples
    what = f"receptive field of {model.label}"
    numbers = numbers_of(
        erf_of_examples(model, analysis.images, examples, config, run.folder / FIELD, what, analysis.track)
    )
    before = run.metrics().get("positions") if (run.folder / METRICS).exists() else None
    wanted = [config.erf_grid, config.erf_grid_images]
    if before and before.get("asked") == wanted:
        numbers["positions"] = before
    elif config.erf_grid > 0:
        some = analysis.images.take(config.erf_grid_images).examples
        preprocess = model.spec.preprocess(model.view.model, config.erf_size, "bicubic")
        coming = (images for _, images in preprocessed(analysis.images, some, preprocess, 1))
        tracked = analysis.track(coming, f"positions of {model.label}", len(some))
        found = receptive_field_grid(model.view, tracked, config.erf_grid)
        numbers["positions"] = {"asked": wanted, **_numbers_of_grid(found)}
    run.write_json(METRICS, numbers)
    return numbers


def _numbers_of_grid(found: ReceptiveFieldGrid) -> Numbers:
    fits = found.gaussians()
    return {
        "rows": found.rows,
        "columns": found.columns,
        "sigma": np.array([[fit.sigma for fit in row] for row in fits]),
        "explained": np.array([[fit.explained for fit in row] for row in fits]),
        "mass_centre": found.mass_centres(),
        "feature_size": found.feature_size,
        "size": found.contribution.shape[2:],
        "images": found.images,
    }


def draw(analysis: Analysis, found: dict[str, Numbers], config: ErfConfig) -> list[Path]:
    """Heatmaps with the squares, the curves of all models on one plot, the radius of each position."""
    out = analysis.figures
    maps = {
        model.label: (RunningErf(model.folder / "erf" / FIELD).mean().contribution, found[model.label])
        for model in analysis.models
    }
    written = save_figure(figures.heatmaps(maps), out / "erf-heatmaps")
    written += save_figure(figures.curves(found), out / "erf-curves")
    grids = {label: numbers["positions"] for label, numbers in found.items() if "positions" in numbers}
    if grids:
        written += save_figure(figures.positions(grids), out / "erf-positions")
    return written


def headline(numbers: Numbers) -> Numbers:
    """The numbers of the comparison."""
    return {
        "erf_auc": numbers["log"]["auc"],
        "erf_area_at_half": numbers["log"]["area_ratio"]["0.5"],
        "erf_gaussian_radius_px": numbers.get("gaussian", {}).get("sigma"),
    }
