"""Foreground head: a small network that learns what objects look like from the maps of a collection.

The map of one image has errors of its own. A head of about ten thousand weights, fitted on frozen features of
all images to reproduce their maps, cannot follow these errors and averages them away. No boxes and no labels
are needed beyond those that the maps were made with, and a fitted head is applied to new images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from heatbox._utils.checks import check_integer, check_number, check_tensor, kind_of
from heatbox.errors import InputError
from heatbox.maps.random_walk import on_grid, random_walk
from heatbox.models.checkpoints import read_safetensors, write_safetensors

CLIP = 4.0
"""Standardised features are clipped to ±CLIP standard deviations, so that rare values do not dominate."""

POSITIONS = 25_000
"""Positions on which a projection is fitted at most, evenly spaced over images and positions."""

HIDDEN = 64
"""Units of a member of a head."""

STEPS = 60
"""Gradient steps of a member. The fit is stopped early: a head that fits the maps closely learns their errors
(docs/foreground.md)."""

PLACES = 6
"""Channels of the position in the image that a member reads beside the components."""

_PLACE_SCALE = 1.5  # about the spread of a component

DROPOUT = 0.2
"""Fraction of the channels of an image that are set to 0 in a step of the fit."""

BATCH, RATE, DECAY = 32, 2e-3, 1e-2
"""Images per step, learning rate and weight decay of the fit (AdamW)."""

KIND = "foreground-head"
FITTED_ON = ("model", "layers", "grid", "seeds", "images")
"""What a saved head says about its fit: the model, the layers and grid of the features, the method of the
seed maps, and the number of images."""


class Projection(nn.Module):
    """Features standardised per channel, then reduced to a few uncorrelated components of unit variance.

    Attributes:
        mean, std: (C,) of the features.
        components: (D, C), the principal axes of the standardised features, each divided by its deviation.
        offset: (D,), the component of the mean of the standardised features.
        layers: (L,) int64, the number of channels of each of the maps that the features consist of.
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    offset: Tensor
    layers: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, components: Tensor, offset: Tensor, layers: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("layers", torch.tensor([len(mean)]) if layers is None else layers)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("components", components)
        self.register_buffer("offset", offset)

    @property
    def channels(self) -> int:
        """Number of channels C that it takes."""
        return self.components.shape[1]

    @property
    def dims(self) -> int:
        """Number of components D that it returns."""
        return self.components.shape[0]

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features, any float dtype → (N, D, h, w) float32.

        Raises:
            InputError: another shape or number of channels.
            TypeError: not a tensor of real numbers.
        """
        _check_features(features, self.channels)
        return F.conv2d(self._standardised(features), self.components[..., None, None], -self.offset)

    def restore(self, projected: Tensor, count: int) -> list[Tensor]:
        """The first maps that the features consist of, as far as their components describe them.

        Args:
            projected: (N, D, h, w) that the projection returned, any float dtype.
            count: number of maps.

        Returns:
            `count` maps (N, C_i, h, w) float32; fewer if the features consist of fewer.
        """
        sizes = self.layers[:count].tolist()
        channels = sum(sizes)
        components = self.components / self.components.square().sum(1, keepdim=True)
        offset = self.offset.view(1, -1, 1, 1)
        found = F.conv2d(projected.float() + offset, components[:, :channels].mT[..., None, None])
        shape = (1, -1, 1, 1)
        found = found * self.std[:channels].view(shape) + self.mean[:channels].view(shape)
        return list(found.split(sizes, 1))

    def _standardised(self, features: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        return ((features.float() - self.mean.view(shape)) / self.std.view(shape)).clamp_(-CLIP, CLIP)


def fit_projection(features: Tensor, dims: int = 128, layers: Sequence[int] | None = None) -> Projection:
    """Fit a projection to features: whitened principal components of the standardised channels.

    Computed in float64 from at most `POSITIONS` positions, without random numbers.

    Args:
        features: (N, C, h, w) features of some images, any float dtype. A few hundred images are enough.
        dims: number of components; at most as many as there are channels are kept, and none without variance.
        layers: number of channels of each map that the features consist of, see `collection_features`; by
            default one map of all.

    Raises:
        InputError: another shape, values that are not finite, or features without any variance.
        TypeError: not a tensor of real numbers.
    """
    _check_features(features)
    check_integer(dims, "dims")
    layers = [features.shape[1]] if layers is None else list(layers)
    if sum(layers) != features.shape[1]:
        raise InputError(f"layers are {layers}, expected {features.shape[1]} channels in all")
    samples, channels, height, width = features.shape
    cells = height * width
    total = samples * cells
    chosen = torch.arange(0, total, -(-total // POSITIONS))
    image, cell = chosen // cells, chosen % cells
    rows = features[image, :, cell // width, cell % width].double()  # (P, C)
    if not bool(torch.isfinite(rows).all()):
        bad = int(image[(~torch.isfinite(rows)).any(1).nonzero()[0, 0]])
        raise InputError(f"the features of image {bad} are not finite")
    mean, std = rows.mean(0), rows.std(0, correction=0)
    std = std + 1e-3 * std.mean()  # channels that hardly vary are not blown up
    if not bool(std.max() > 0):
        raise InputError(f"all {channels} channels of the features are constant: there is nothing to learn")
    rows = ((rows - mean) / std).clamp_(-CLIP, CLIP)
    centre = rows.mean(0)
    rows -= centre
    values, axes = torch.linalg.eigh(rows.mT @ rows / len(rows))
    kept = int((values > 1e-6 * values[-1]).sum())
    order = torch.arange(channels - 1, channels - 1 - min(dims, kept), -1)
    axes = axes[:, order]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have no sign
    components = (axes / values[order].sqrt()).mT
    offset = (components @ centre).float()
    return Projection(
        mean.float(), std.float(), components.float().contiguous(), offset, torch.tensor(layers)
    )


class ForegroundHead(nn.Module):
    """An ensemble of small networks that tell the foreground from the background at every position.

    They read the components of the position's features, and where in the image it is: |x|, |y|, y, x², y² and
    x² + y², with x and y from -1 to 1. A mirrored image has the mirrored map.

    `fit_foreground` makes one; the weights of a new one are not initialised.

    Args:
        projection: of the features.
        members: number of networks; their outputs are averaged.
        hidden: units of each.

    Attributes:
        fitted_on: what it was fitted on, for a head read from a file.
    """

    def __init__(self, projection: Projection, members: int = 3, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.projection = projection
        self.members = nn.ModuleList(
            nn.Sequential(
                skip_init(nn.Conv2d, projection.dims + PLACES, hidden, 1),
                nn.ReLU(),
                skip_init(nn.Conv2d, hidden, 1, 1),
            )
            for _ in range(members)
        )
        self.fitted_on: dict[str, str] = {}

    @property
    def channels(self) -> int:
        """Number of channels C of the features that it takes."""
        return self.projection.channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features → (N, h, w) logits, the mean of the members."""
        return self.logits(self.projection(features))

    def logits(self, projected: Tensor) -> Tensor:
        """(N, D, h, w) of the projection → (N, h, w) logits, the mean of the members."""
        inputs = _with_places(projected)
        return torch.stack([member(inputs)[:, 0] for member in self.members]).mean(0)

    def save(self, path: str | Path, **fitted_on: object) -> None:
        """Write the head as safetensors, atomically.

        Args:
            path: the file.
            **fitted_on: what it was fitted on: each of `FITTED_ON`, and any more; saved as text.

        Raises:
            InputError: one of `FITTED_ON` is missing, or the file cannot be written.
        """
        if missing := [name for name in FITTED_ON if name not in fitted_on]:
            raise InputError(f"what the head was fitted on lacks {', '.join(missing)}")
        from heatbox import __version__

        about = {name: str(value) for name, value in fitted_on.items()}
        write_safetensors(path, self.state_dict(), {**about, "kind": KIND, "heatbox": __version__})


def load_foreground(path: str | Path) -> ForegroundHead:
    """Read a head that `ForegroundHead.save` wrote.

    Raises:
        InputError: no such file, or a file that is not a whole head.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the safetensors file of a foreground head")
    state, about = read_safetensors(path)
    missing = [name for name in (*FITTED_ON, "heatbox") if name not in about]
    if about.get("kind") != KIND or missing:
        lacks = f", its metadata lacks {', '.join(missing)}" if about.get("kind") == KIND else ""
        raise InputError(f"{path}: is not a foreground head{lacks}, expected a foreground.safetensors")
    head = _empty_head(state, path)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors are not those of a foreground head") from error
    for name, tensor in head.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} is not finite")
    if not bool((head.projection.layers > 0).all()):
        raise InputError(f"{path}: projection.layers is not positive")
    if not bool((head.projection.std > 0).all()):
        raise InputError(f"{path}: projection.std is not positive")
    head.fitted_on = {name: value for name, value in about.items() if name not in ("kind", "format")}
    return head.eval()


def _empty_head(state: dict[str, Tensor], path: Path) -> ForegroundHead:
    """A head of the sizes that its tensors have."""
    components, first = state.get("projection.components"), state.get("members.0.0.weight")
    if components is None or first is None or components.ndim != 2 or first.ndim != 4:
        raise InputError(f"{path}: has no tensors of a foreground head")
    dims, channels = components.shape
    members = sum(name.endswith(".0.weight") for name in state)
    layers = state.get("projection.layers")
    if layers is None or layers.ndim != 1 or layers.dtype != torch.int64 or int(layers.sum()) != channels:
        raise InputError(f"{path}: its layers are not those of {channels} channels")
    empty = Projection(
        torch.zeros(channels), torch.ones(channels), torch.zeros(dims, channels), torch.zeros(dims), layers
    )
    return ForegroundHead(empty, members, len(first))


def fit_foreground(
    features: Tensor,
    seeds: Tensor,
    *,
    projection: Projection | None = None,
    seed: int = 0,
    members: int = 3,
    steps: int = STEPS,
    threshold: float = 0.5,
    counts: Tensor | None = None,
) -> ForegroundHead:
    """Fit a head to the maps of a collection.

    A position is foreground where the map, scaled to [0, 1] for each image, exceeds the threshold. The
    members start from different weights and draw images in different order. The number of steps does not
    depend on the number of images, and images are read a batch at a time: `features` may be memory-mapped.

    Args:
        features: (N, C, h, w) features of the images, see `collection_features`, any float dtype. With
            `projection`, what it returned for them, (N, D, h, w).
        seeds: (N, h, w) maps of the images in any range, any float dtype; another grid is interpolated.
            Constant maps are not learned from.
        projection: of the features; by default one is fitted to them.
        seed: of all random numbers; the same inputs give the same head.
        members: number of networks in the head.
        steps: number of gradient steps of each.
        threshold: value of the scaled map above which a position is foreground.
        counts: (N,) int64, how often each image is drawn before any is drawn again; by default once.

    Returns:
        The head, in eval mode, on the CPU.

    Raises:
        InputError: shapes that do not match, values that are not finite, only constant maps, or an argument
            out of range.
        TypeError: not tensors of real numbers.
    """
    for name, value in (("members", members), ("steps", steps)):
        check_integer(value, name)
    check_integer(seed, "seed", 0)
    check_number(threshold, "threshold", "a number from 0 to 1")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold}, expected from 0 to below 1")
    _check_features(features, projection.dims if projection is not None else None)
    varied, targets = _targets(seeds, features, threshold)
    if counts is not None:
        if counts.shape != (len(features),) or counts.dtype != torch.int64 or bool((counts < 0).any()):
            raise InputError(f"counts are not ({len(features)},) int64 of 0 or more")
        varied = varied.repeat_interleave(counts[varied])
        if not len(varied):
            raise InputError("the seeds of all images that are drawn are constant: there is nothing to learn")
    projected = features if projection is not None else None
    if projection is None:
        projection = fit_projection(features)
        projected = torch.cat([projection(part) for part in features.split(BATCH)])
    assert projected is not None
    head = ForegroundHead(projection, members)
    for index, member in enumerate(head.members):
        generator = torch.Generator().manual_seed(seed * 1000 + index)
        _fit_member(member, projected, targets, varied, steps, generator)
    return head.eval()


def _targets(seeds: Tensor, features: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Indices of the images whose map is not constant, and (N, h, w) targets."""
    check_tensor(seeds, "seeds", "(N, h, w)")
    if seeds.ndim != 3 or len(seeds) != len(features) or 0 in seeds.shape:
        raise InputError(f"the seeds have shape {tuple(seeds.shape)}, expected ({len(features)}, h, w)")
    finite = torch.isfinite(seeds).flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(f"the seed of image {int((~finite).nonzero()[0])} is not finite")
    scaled = _scaled(_resized(seeds.detach().cpu(), features.shape[2:]))
    varied = (scaled.amax((1, 2)) > 0).nonzero()[:, 0]
    if not len(varied):
        raise InputError(f"the seeds of all {len(seeds)} images are constant: there is nothing to learn")
    return varied, (scaled > threshold).float()


def _fit_member(
    member: nn.Module,
    projected: Tensor,
    targets: Tensor,
    images: Tensor,
    steps: int,
    generator: torch.Generator,
) -> None:
    """Train one network on the images in place."""
    for layer in member.modules():
        if isinstance(layer, nn.Conv2d):  # initialised as in PyTorch
            bound = layer.weight[0].numel() ** -0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            assert layer.bias is not None
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    optimizer = torch.optim.AdamW(member.parameters(), RATE, weight_decay=DECAY)
    order = torch.empty(0, dtype=torch.long)
    with torch.enable_grad():
        for _ in range(steps):
            while len(order) < min(BATCH, len(images)):
                order = torch.cat([order, images[torch.randperm(len(images), generator=generator)]])
            chosen, order = order[:BATCH], order[BATCH:]
            x, y = projected[chosen].float(), targets[chosen]
            x = _with_places(x)
            x = x * (torch.rand(*x.shape[:2], 1, 1, generator=generator) >= DROPOUT) / (1 - DROPOUT)
            loss = F.binary_cross_entropy_with_logits(member(x)[:, 0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def foreground(head: ForegroundHead, features: Tensor, *, projected: bool = False) -> Tensor:
    """Apply a head to features of any images.

    Args:
        head: of `fit_foreground` or `load_foreground`.
        features: (N, C, h, w) of the layers and on the grid that the head was fitted on, any float dtype.
        projected: whether they are (N, D, h, w), what the head's projection returned.

    Returns:
        (N, h, w) float32 in [0, 1]: how probable foreground is at each position. Maps of several heads are
        averaged with `average_maps`.

    Raises:
        InputError: features of another number of channels.
        TypeError: not a tensor of real numbers.
    """
    _check_features(features, head.projection.dims if projected else head.channels)
    parts = features.split(BATCH)
    return torch.cat([head.logits(part.float()) if projected else head(part) for part in parts]).sigmoid()


def foreground_walk(found: Tensor, seed: Tensor, features: Sequence[Tensor]) -> Tensor:
    """A random walk of a class map that starts on the foreground.

    With P the map of the head and s the seed, both scaled to [0, 1], and T a step of `random_walk`, the map
    is sqrt(P · scaled(T(s · sqrt(P)))). One step is enough: the head already joins the parts of the object.

    Args:
        found: (B, h, w) map of a head, see `foreground`.
        seed: (B, h_s, w_s) class map that the walk starts from, any range; its grid is that of the walk.
        features: feature maps (B, C_i, h_i, w_i) of middle layers, as for `random_walk`.

    Returns:
        (B, h_s, w_s) float32 in [0, 1].

    Raises:
        InputError: shapes that do not match, or values that are not finite.
        TypeError: not tensors of real numbers.
    """
    for name, one in (("found", found), ("seed", seed)):
        check_tensor(one, name, "(B, h, w)")
        if one.ndim != 3 or 0 in one.shape[1:]:
            raise InputError(f"{name} has shape {tuple(one.shape)}, expected (B, h, w)")
    if len(found) != len(seed):
        raise InputError(f"there are {len(found)} maps of a head and {len(seed)} seeds, expected as many")
    prior = _scaled(_resized(found, seed.shape[1:]))
    walked = random_walk(_scaled(seed) * prior.sqrt(), features, steps=1)
    return (prior * _scaled(walked)).sqrt()


def average_maps(maps: Sequence[Tensor]) -> Tensor:
    """Mean of several maps of the same images, each scaled to [0, 1] by its own extremes.

    Used for a head and a walk, and for several networks. Maps are interpolated to the finest of their grids.

    Args:
        maps: (N, h_i, w_i) each, any range and float dtype.

    Returns:
        (N, h, w) float32 in [0, 1]; a constant map counts as 0.

    Raises:
        InputError: no map, or maps of another shape or number of images.
        TypeError: not a list of tensors of real numbers.
    """
    if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
        raise TypeError(f"maps: {kind_of(maps)}, expected a list of tensors (N, h, w)")
    if not maps:
        raise InputError("there is no map to average, expected a list of (N, h, w)")
    for index, one in enumerate(maps):
        check_tensor(one, f"map {index}", "(N, h, w)")
        if one.ndim != 3 or 0 in one.shape[1:] or len(one) != len(maps[0]):
            raise InputError(f"map {index} has shape {tuple(one.shape)}, expected ({len(maps[0])}, h, w)")
    grid = (max(one.shape[1] for one in maps), max(one.shape[2] for one in maps))
    return torch.stack([_scaled(_resized(one, grid)) for one in maps]).mean(0)


def collection_features(maps: Sequence[Tensor], grid: int | tuple[int, int]) -> Tensor:
    """Feature maps of several layers and input sizes as one tensor on one grid.

    Args:
        maps: (B, C_i, h_i, w_i) each, any float dtype, such as the middle maps of the input and of the input
            of twice the side, and the last feature map of that.
        grid: side of a square grid, or (height, width). Finer maps are averaged, coarser ones interpolated.

    Returns:
        (B, sum of C_i, height, width) float32.

    Raises:
        InputError: no map, or maps of another shape or number of images.
        TypeError: not a list of tensors of real numbers.
    """
    if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
        raise TypeError(f"maps: {kind_of(maps)}, expected a list of tensors (B, C, h, w)")
    if not maps:
        raise InputError("there is no feature map, expected a list of (B, C, h, w)")
    sides = grid if isinstance(grid, tuple) else (grid, grid)
    for side in sides:
        check_integer(side, "grid")
    for index, one in enumerate(maps):
        check_tensor(one, f"feature map {index}", "(B, C, h, w)")
        if one.ndim != 4 or 0 in one.shape[1:] or len(one) != len(maps[0]):
            raise InputError(
                f"feature map {index} has shape {tuple(one.shape)}, expected ({len(maps[0])}, C, h, w)"
            )
    return torch.cat([on_grid(one.detach().float(), sides) for one in maps], 1)


def _scaled(maps: Tensor) -> Tensor:
    """(N, h, w) maps scaled to [0, 1] by their own extremes; constant ones become 0."""
    values = maps.float()
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return (values - low) / torch.where(high > low, high - low, 1)


def _resized(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """(N, h, w) maps on another grid."""
    if tuple(maps.shape[1:]) == tuple(grid):
        return maps.float()
    return F.interpolate(maps[:, None].float(), size=tuple(grid), mode="bilinear", align_corners=False)[:, 0]


def _with_places(projected: Tensor) -> Tensor:
    """(N, D, h, w) → (N, D + PLACES, h, w): beside the components the place of each position."""
    height, width = projected.shape[2:]
    y = torch.linspace(-1, 1, height, device=projected.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=projected.device).expand(height, width)
    places = torch.stack([x.abs(), y.abs(), y, x**2, y**2, x**2 + y**2]) * _PLACE_SCALE
    return torch.cat([projected, places.expand(len(projected), -1, -1, -1)], 1)


def _check_features(features: Tensor, channels: int | None = None) -> None:
    expected = f"(N, {'C' if channels is None else channels}, h, w)"
    check_tensor(features, "features", expected)
    if features.ndim != 4 or 0 in features.shape[2:] or (channels is None and 0 in features.shape):
        raise InputError(f"the features have shape {tuple(features.shape)}, expected {expected}")
    if channels is not None and features.shape[1] != channels:
        raise InputError(
            f"the features have {features.shape[1]} channels, but the foreground head was fitted on "
            f"{channels}: expected the layers and the network of its fit"
        )
