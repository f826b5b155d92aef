"""How complex a feature map is: the number of components that its channels span.

CAM Back Again, section 4.5 and supplement 14: the cumulative explained variance of a PCA of each image's
channels, and the error with which a learned dictionary reconstructs channels of unseen images.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from heatbox._utils import processes
from heatbox._utils.extras import require
from heatbox.analysis.config import ComplexityConfig
from heatbox.data.files.remote import shown
from heatbox.data.types import Example
from heatbox.errors import InputError
from heatbox.evaluation.run import METRICS, Record, Run
from heatbox.maps.pc1 import ChannelNorm
from heatbox.models.spec import as_input
from heatbox.visualization.figures import complexity as figures
from heatbox.visualization.figures.style import save_figure

if TYPE_CHECKING:
    from heatbox.analysis.runner import Analysis, ComparedModel

_ROUNDING = 1e-5
"""Fraction of the channels' energy below which their variance is rounding of float32 sums."""


def explained_variance(features: Tensor, channel_norm: ChannelNorm = "minmax") -> Tensor:
    """Fraction of the variance explained by each principal component of an image's feature map.

    The PCA is that of PC1: channels are samples and pixels variables, each channel scaled to [0, 1] first;
    constant channels are left out.

    Args:
        features: (B, C, h, w).
        channel_norm: "minmax" scales each channel to [0, 1]; None takes the raw values, so that strong
            channels weigh more.

    Returns:
        (B, h * w) float32, descending, summing to 1; NaN for an image with nothing to decompose.

    Raises:
        InputError: not four dimensions, an empty axis, or values that are not finite.
    """
    if features.ndim != 4 or 0 in features.shape:
        raise InputError(
            f"features have shape {tuple(features.shape)}, expected (B, C, h, w), none of them 0"
        )
    if channel_norm not in ("minmax", None):
        raise InputError(f"channel_norm is {channel_norm!r}, expected 'minmax' or None")
    samples = features.detach().float().flatten(2)  # (B, C, P)
    low, high = samples.amin(2, keepdim=True), samples.amax(2, keepdim=True)
    if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise InputError("features contain values that are not finite")
    varies = high > low
    scale = torch.where(varies, 1 / (high - low), 0.0) if channel_norm == "minmax" else varies.float()
    shift = -low * scale if channel_norm == "minmax" else torch.zeros_like(low)
    samples = torch.addcmul(shift, samples, scale)  # constant channels become zeros
    kept = varies.sum(1, keepdim=True).clamp_min(1)
    mean = samples.sum(1, keepdim=True) / kept
    if samples.shape[2] <= samples.shape[1]:
        # Centring the sum of products instead of the samples saves passes over them.
        products = samples.mT @ samples
        gram = products - kept * (mean.mT @ mean)
        size = products.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
    else:
        centred = (samples - mean) * varies
        gram = centred @ centred.mT
        size = samples.square().sum((1, 2))[:, None]
    values = torch.linalg.eigvalsh(gram).flip(1).clamp_min(0)
    values = torch.nn.functional.pad(values, (0, max(0, samples.shape[2] - values.shape[1])))
    total = values.sum(1, keepdim=True)
    decomposable = total > _ROUNDING * size
    return torch.where(decomposable, values / torch.where(decomposable, total, 1), torch.nan)


def components_for(explained: np.ndarray, share: float) -> np.ndarray:
    """(N,) components that explain at least the fraction `share` of each row of (N, P) variance."""
    cumulative = np.nan_to_num(np.asarray(explained, dtype=np.float64)).cumsum(1)
    reached = cumulative >= share - 1e-6
    return np.where(reached.any(1), reached.argmax(1) + 1, cumulative.shape[1])


# -------------------------------------------------------------------------------------- dictionary learning


def sample_channels(features: Tensor, count: int, grid: int, seeds: Sequence[int]) -> Tensor:
    """Draw channels of each image, averaged to a common grid and normalized.

    The same sampling for models of any width and resolution: `count` channels per image, drawn among those
    that vary, pooled to `grid` x `grid`, mean subtracted, scaled to unit length.

    Args:
        features: (B, C, h, w), h and w not below `grid`.
        count: channels to draw per image; if fewer vary, they are repeated.
        grid: side of the pooled maps.
        seeds: one per image, so that an image gives the same draw in any batch.

    Returns:
        (B, count, grid * grid) float32; zeros for an image in which no channel varies.

    Raises:
        InputError: maps smaller than the grid.
    """
    if min(features.shape[2:]) < grid:
        raise InputError(f"feature maps of {tuple(features.shape[2:])} cannot be averaged to {grid} x {grid}")
    pooled = torch.nn.functional.adaptive_avg_pool2d(features.detach().float(), grid).flatten(2)
    pooled = pooled - pooled.mean(2, keepdim=True)
    length = pooled.norm(dim=2)  # (B, C)
    size = features.detach().float().abs().amax((2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
    varies = length > 1e-5 * size * grid
    scores = torch.stack(
        [torch.rand(features.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    ).to(features.device)
    order = torch.where(varies, scores, -1.0).argsort(1, descending=True)
    available = varies.sum(1, keepdim=True)
    place = torch.arange(count, device=features.device) % available.clamp_min(1)
    drawn = order.gather(1, place)[..., None].expand(-1, -1, pooled.shape[2])
    unit = pooled.gather(1, drawn) / length.gather(1, drawn[..., 0]).clamp_min(1e-30)[..., None]
    return torch.where((available > 0)[..., None], unit, 0.0)


@dataclass(frozen=True)
class Reconstruction:
    """How well dictionaries of some sizes reconstruct maps of unseen images.

    Attributes:
        atoms: (A,) sizes of the dictionaries.
        error: (A,) mean over unseen maps of the fraction of their energy in the residual, in [0, 1].
        seen_error: (A,) the same on the maps that the dictionary was learned from.
        interval: (A, 2) 95% interval of `error` over resampled unseen images.
        learned_from, unseen: number of maps.
        nonzero: maximum number of atoms per map.
    """

    atoms: np.ndarray
    error: np.ndarray
    seen_error: np.ndarray
    interval: np.ndarray
    learned_from: int
    unseen: int
    nonzero: int


def reconstruction_error(
    learn: np.ndarray, unseen: np.ndarray, atoms: Sequence[int], nonzero: int = 3, seed: int = 0
) -> Reconstruction:
    """Reconstruct unseen maps from learned dictionaries by orthogonal matching pursuit (supplement 14).

    Args:
        learn: (N, K, P) maps to learn from, K per image, of unit length.
        unseen: (M, K, P) maps of other images.
        atoms: sizes of the dictionaries.
        nonzero: maximum number of atoms in a map's code; the source does not state its own.
        seed: of the learning.

    Raises:
        InputError: scikit-learn is not installed, or there is too little to learn from.
    """
    require("analysis", "dictionary learning", "sklearn")
    from sklearn.decomposition import MiniBatchDictionaryLearning

    for name, maps in (("learned from", learn), ("to be reconstructed", unseen)):
        if maps.ndim != 3 or not maps.size:
            raise InputError(f"maps {name} have shape {maps.shape}, expected (images, channels, pixels)")
    known = _nonzero_rows(learn)
    if not len(known) or min(atoms) < 1 or nonzero < 1:
        raise InputError(
            f"{len(known)} maps to learn from, {list(atoms)} atoms and {nonzero} of them in a code: too few"
        )
    errors, seen = [], []
    for number in atoms:
        learner = MiniBatchDictionaryLearning(
            n_components=number,
            max_iter=20,
            batch_size=256,
            transform_algorithm="omp",
            transform_n_nonzero_coefs=min(nonzero, number),
            random_state=seed,
        ).fit(known)
        errors.append(_residual(learner, unseen))
        seen.append(float(np.mean(_residual(learner, known[:, None]))))
    per_image = np.stack(errors)  # (A, M)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(per_image.shape[1], np.full(per_image.shape[1], 1 / per_image.shape[1]), 2000)
    drawn = per_image @ counts.T / per_image.shape[1]
    return Reconstruction(
        np.asarray(atoms),
        per_image.mean(1),
        np.array(seen),
        np.quantile(drawn, [0.025, 0.975], axis=1).T,
        len(known),
        unseen.shape[0] * unseen.shape[1],
        nonzero,
    )


def _nonzero_rows(maps: np.ndarray) -> np.ndarray:
    rows = maps.reshape(-1, maps.shape[-1])
    return rows[np.abs(rows).any(1)]


def _residual(learner: object, maps: np.ndarray) -> np.ndarray:
    """(N,) mean over an image's maps of the fraction of energy in the residual of the code."""
    rows = maps.reshape(-1, maps.shape[-1])
    rebuilt = learner.transform(rows) @ learner.components_  # type: ignore[attr-defined]
    energy = (rows**2).sum(1)
    left = ((rows - rebuilt) ** 2).sum(1) / np.where(energy > 0, energy, 1)
    return left.reshape(maps.shape[:2]).mean(1)


# ---------------------------------------------------------------------------------------- over a data set

Numbers = dict[str, Any]
_BAND = (0.1, 0.9)


def prepare(analysis: Analysis, config: ComplexityConfig) -> ComplexityConfig:
    """The config with a grid that no model's feature map is smaller than.

    Raises:
        InputError: fewer than two images, or a model whose map has a single position along a side.
    """
    if len(analysis.images) < 2:
        raise InputError(
            f"{shown(config.data)}: has one image; dictionaries need some to learn from and some unseen"
        )
    grid = config.grid
    for model in analysis.models:
        side = model.feature_side()
        if side < 2:
            raise InputError(f"{model.label}: its feature map has one position a side; pass a larger --size")
        grid = min(grid, side)
        analysis.release(model)
    return replace(config, grid=grid)


def measure(analysis: Analysis, model: ComparedModel, config: ComplexityConfig) -> Numbers:
    """Explained variance of every image, and dictionaries learned from half of the images.

    Raises:
        InputError: as `reconstruction_error`.
    """
    names = ("data", "limit", "channel_norm", "channels_an_image", "grid")
    run = analysis.start(model, "complexity", {name: getattr(config, name) for name in names})
    analysis.fill(run, model, partial(_records, model, config), "complexity")
    numbers = processes.from_first(partial(numbers_of, run, config))
    run.write_json(METRICS, numbers)
    return numbers


def _records(
    model: ComparedModel, config: ComplexityConfig, examples: Sequence[Example], images: Tensor
) -> list[Record]:
    norm = None if config.channel_norm == "none" else config.channel_norm
    with torch.inference_mode():
        features = model.view.features(as_input(model.view.model, images)).float()
        pooled = torch.nn.functional.adaptive_avg_pool2d(features, config.grid)
        own, common = (explained_variance(maps, norm).cpu().numpy() for maps in (features, pooled))
        seeds = [zlib.crc32(f"{config.seed} {example.id}".encode()) for example in examples]
        drawn = sample_channels(features, config.channels_an_image, config.grid, seeds).cpu().numpy()
    height, width = features.shape[2:]
    return [
        {"id": example.id, "explained": own[i], "explained_grid": common[i], "sample": drawn[i],
         "height": height, "width": width}
        for i, example in enumerate(examples)
    ]  # fmt: skip


def numbers_of(run: Run, config: ComplexityConfig) -> Numbers:
    """Curves and errors of the records of a finished run."""
    records = [record for batch in run.records() for record in batch]
    own, common = (np.stack([record[key] for record in records]) for key in ("explained", "explained_grid"))
    side = (records[0]["height"], records[0]["width"])
    sample = np.stack([record["sample"] for record in records])
    # Every other image, so that both halves contain all classes of a data set sorted by class.
    found = reconstruction_error(sample[::2], sample[1::2], config.atoms, config.nonzero, config.seed)
    return {
        "own": _curve(own, side),
        "grid": _curve(common, (config.grid, config.grid)),
        "reconstruction": {**asdict(found), "grid": config.grid},
    }


def _curve(explained: np.ndarray, side: tuple[int, int]) -> Numbers:
    known = explained[~np.isnan(explained).any(1)]
    if not len(known):
        raise InputError("the feature maps of all images are constant: there is no variance to explain")
    cumulative = known.astype(np.float64).cumsum(1)
    low, high = np.quantile(cumulative, _BAND, axis=0)
    return {
        "mean": cumulative.mean(0),
        "low": low,
        "high": high,
        "map": side,
        "images": len(known),
        "first": float(cumulative[:, 0].mean()),
        "components_for_90": float(components_for(known, 0.9).mean()),
    }


def draw(analysis: Analysis, found: dict[str, Numbers], config: ComplexityConfig) -> list[Path]:
    """Explained variance, and reconstruction error."""
    errors = {label: numbers["reconstruction"] for label, numbers in found.items()}
    written = save_figure(figures.explained_variance(found), analysis.figures / "explained-variance")
    return written + save_figure(figures.reconstruction(errors), analysis.figures / "reconstruction")


def headline(numbers: Numbers) -> Numbers:
    """The numbers of the comparison."""
    return {
        "pc1_explained": numbers["grid"]["first"],
        "components_for_90": numbers["grid"]["components_for_90"],
        "reconstruction_error": float(numbers["reconstruction"]["error"][-1]),
    }
