"""glyphs: an embedded synthetic data set for training and evaluating localization.

Ten classes of shapes on cluttered, textured backgrounds. The class is the shape; the texture of the object is
random. The boxes of objects cover 10 to 60% of the image, off-center as often as centered, so that a centered
box fails. Boxes and masks are exact: the image is drawn from them. Images of the split "several" contain two
or three objects, of one class or of two, or none; an object has a quarter of such an image for itself.

Every image is a function of (seed, split, index) alone: no files, no download, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from PIL import Image

from heatbox._utils.checks import check_integer, check_number
from heatbox.data.types import Example, Split
from heatbox.errors import InputError


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    phase = np.abs((np.arctan2(u, -v) / (2 * np.pi / 5)) % 1 - 0.5) * 2  # 1 at a tip, 0 between two
    return np.hypot(u, v) < 0.42 + 0.58 * phase**1.3


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: u**2 + v**2 < 1,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.85,
    "triangle": lambda u, v: (v < 0.8) & (abs(u) < (v + 1) * 0.5),
    "star": _star,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
    "ring": lambda u, v: (u**2 + v**2 < 1) & (u**2 + v**2 > 0.3),
    "crescent": lambda u, v: (u**2 + v**2 < 1) & ((u - 0.45) ** 2 + v**2 > 0.5),
    "heart": lambda u, v: (
        ((1.2 * u) ** 2 + (0.1 - 1.15 * v) ** 2 - 1) ** 3 < (1.2 * u) ** 2 * (0.1 - 1.15 * v) ** 3
    ),
    "arrow": lambda u, v: ((v < 0) & (v > -1) & (abs(u) < v + 1)) | ((v >= 0) & (v < 1) & (abs(u) < 0.35)),
    "hourglass": lambda u, v: (abs(v) < 0.9) & (abs(u) < 0.15 + 0.85 * abs(v)),
}
CLASS_NAMES = tuple(SHAPES)
TEXTURES = ("stripes", "checks", "dots", "rings", "bricks", "zigzag", "grain", "clouds", "weave", "ramp")
SEVERAL_SPLIT = "several"
SPLITS = {"train": 4000, "fullsup": 500, "test": 500, SEVERAL_SPLIT: 500}
SEVERAL: tuple[tuple[int, ...], ...] = ((0, 0), (0, 0, 0), (0, 1), (0, 0, 1), ())
"""The classes, numbered within the image, of the objects of images of the split "several", in turn."""
_SIDE = 64

_AREA = (0.10, 0.60)  # of the object's box, as a fraction of the image
_MAX_SIDE = 0.96  # of the object's box, as a fraction of the image's side
_ANGLES, _ASPECTS = 24, 5
_BACKGROUND_CONTRAST, _BACKGROUND_TINT = 0.3, 0.5  # clutter has less contrast than objects
_MIN_CONTRAST = 0.8  # sum over RGB of the mean difference of object and background, if attainable


@dataclass(frozen=True)
class Glyph:
    """The geometry of one object, which determines its mask; colours are not part of it.

    Attributes:
        shape: class index.
        texture: index into `TEXTURES`.
        angle, aspect: indices of rotation and aspect ratio.
        scale: pixels per unit of the shape's coordinates.
        center: (x, y) in pixels, origin of the shape's coordinates.
    """

    shape: int
    texture: int
    angle: int
    aspect: int
    scale: float
    center: tuple[float, float]


def glyphs(
    split: str = "train",
    count: int | None = None,
    size: int | None = None,
    seed: int = 0,
    texture_match: float = 0.0,
) -> Split:
    """Make a split of the embedded data set.

    Args:
        split: "train", "fullsup", "test" or "several"; images of different splits never coincide.
        count: number of images; by default 4000, and 500 of the other splits.
        size: side of the square images in pixels, at least 32; by default 64, and 128 for "several", whose
            objects then have the sizes of the other splits.
        seed: of the data set.
        texture_match: probability that an object has the texture of its own class instead of a random one.
            Above 0, a network can learn texture instead of shape, which `glyphs_cue_conflict` then measures.

    Returns:
        the split, with exact boxes (x1, y1 inclusive, x2, y2 exclusive pixel edges) and exact masks.

    Raises:
        InputError: an unknown split, or a size or number out of range.
        TypeError: a size, number or seed that is not an integer.

    Examples:
        >>> split = glyphs("test", count=10)
        >>> len(split), split.examples[0].size
        (10, (64, 64))
        >>> split.open_image(split.examples[0]).size
        (64, 64)
    """
    if split not in SPLITS:
        raise InputError(f"glyphs has no split {split!r}, expected one of {', '.join(SPLITS)}")
    count = SPLITS[split] if count is None else count
    size = _SIDE * _parts(split) if size is None else size
    _check(count, size, seed, _parts(split))
    check_number(texture_match, "texture_match", "a probability")
    if not 0 <= texture_match <= 1:
        raise InputError(f"texture_match is {texture_match}, expected a probability")
    drawn = {
        f"{split}/{index:06d}.png": _objects(split, index, size, seed, texture_match)
        for index in range(count)
    }
    return _split(split, drawn, size, seed)


def glyphs_cue_conflict(count: int = 1280, size: int = 64, seed: int = 0) -> Split:
    """Make images with the shape of one class and the texture of another, all pairs equally often.

    Args:
        count: number of images.
        size: side in pixels.
        seed: of the images.

    Returns:
        a split labelled by shape; ids are ``SHAPE/SHAPEn-TEXTUREm.png`` with class names for both, as in
        the cue-conflict stimuli of Geirhos et al. (ICLR 2019).

    Raises:
        InputError: a size or number out of range.
        TypeError: a size, number or seed that is not an integer.
    """
    _check(count, size, seed)
    classes = len(SHAPES)
    pairs = [(shape, (shape + step) % classes) for step in range(1, classes) for shape in range(classes)]
    drawn: dict[str, tuple[Glyph, ...]] = {}
    for index in range(count):
        shape, texture = pairs[index % len(pairs)]
        again = index // len(pairs) + 1
        name, other = CLASS_NAMES[shape], CLASS_NAMES[texture]
        key = f"{name}/{name}{again}-{other}{again}.png"
        drawn[key] = (_place(_rng(seed, "cue-conflict", index), shape, texture, size),)
    return _split("cue-conflict", drawn, size, seed)


def _parts(split: str) -> int:
    """Parts of an image along each side; each part has room for one object."""
    return 2 if split == SEVERAL_SPLIT else 1


def _objects(split: str, index: int, size: int, seed: int, texture_match: float) -> tuple[Glyph, ...]:
    """The objects of an image: one, or those of `SEVERAL`, each in a quarter of the image."""
    rng = _rng(seed, split, index)
    if split != SEVERAL_SPLIT:
        return (_object(rng, index % len(SHAPES), size, texture_match),)
    own, first = SEVERAL[index % len(SEVERAL)], index // len(SEVERAL) % len(SHAPES)
    shapes = first, (first + int(rng.integers(1, len(SHAPES)))) % len(SHAPES)
    side, objects = size // _parts(split), []
    for which, corner in zip(own, rng.permutation(4).tolist(), strict=False):
        glyph = _object(rng, shapes[which], side, texture_match)
        x, y = glyph.center
        objects.append(replace(glyph, center=(x + side * (corner % 2), y + side * (corner // 2))))
    return tuple(objects)


def _object(rng: np.random.Generator, shape: int, size: int, texture_match: float) -> Glyph:
    texture = int(rng.integers(len(TEXTURES)))
    if rng.random() < texture_match:
        texture = shape
    return _place(rng, shape, texture, size)


def _check(count: int, size: int, seed: int, parts: int = 1) -> None:
    check_integer(count, "count", None)
    check_integer(size, "size", None)
    check_integer(seed, "seed", 0)
    if size < 32 * parts:
        raise InputError(
            f"glyphs of {size} pixels are too small to distinguish, expected at least {32 * parts}"
        )
    if count < 1:
        raise InputError(f"a split of {count} glyphs is empty, expected at least one image")


def _split(name: str, drawn: dict[str, tuple[Glyph, ...]], size: int, seed: int) -> Split:
    order, parts = {key: index for index, key in enumerate(drawn)}, _parts(name)
    examples = [_example(key, objects, size) for key, objects in drawn.items()]

    def open_image(example: Example) -> Image.Image:
        rng = _rng(seed, f"{name}-pixels", order[example.id])
        return Image.fromarray(_paint(rng, drawn[example.id], size, parts))

    def open_mask(example: Example) -> np.ndarray:
        return _union(drawn[example.id], size).astype(np.uint8)

    return Split(name, examples, CLASS_NAMES, open_image, open_mask)


def _example(key: str, objects: Sequence[Glyph], size: int) -> Example:
    boxes = np.concatenate([np.zeros((0, 4)), *(_box(_mask(glyph, size)) for glyph in objects)])
    kinds = np.array([glyph.shape for glyph in objects], np.int64)
    label = int(kinds[0]) if len(kinds) else -1
    several = len({*kinds.tolist()}) > 1
    return Example(key, label, (size, size), boxes, tuple(kinds.tolist()), kinds if several else None)


def _union(objects: Sequence[Glyph], size: int) -> np.ndarray:
    """(size, size) bool: the pixels of any object."""
    return np.logical_or.reduce([_mask(glyph, size) for glyph in objects] or [np.zeros((size, size), bool)])


def _rng(seed: int, stream: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, *stream.encode(), index])


# ----------------------------------------------------------------------------------------------- geometry


@cache
def _extent(shape: int, angle: int, aspect: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of the rotated shape at unit scale."""
    grid = np.linspace(-1.6, 1.6, 321)
    ys, xs = np.nonzero(_inside(shape, angle, aspect, grid[None, :], grid[:, None]))
    return grid[xs.min()], grid[ys.min()], grid[xs.max()], grid[ys.max()]


def _inside(shape: int, angle: int, aspect: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rotation = np.pi / 3 * (angle / (_ANGLES - 1) - 0.5)  # up to 30 degrees either way
    stretch = 0.75 + 0.125 * aspect  # 0.75 to 1.25
    u = (np.cos(rotation) * x + np.sin(rotation) * y) * np.sqrt(stretch)
    v = (-np.sin(rotation) * x + np.cos(rotation) * y) / np.sqrt(stretch)
    return SHAPES[CLASS_NAMES[shape]](u, v)


def _place(rng: np.random.Generator, shape: int, texture: int, size: int) -> Glyph:
    """Draw the angle, aspect ratio, size and position of one object at random."""
    angle, aspect = int(rng.integers(_ANGLES)), int(rng.integers(_ASPECTS))
    x1, y1, x2, y2 = _extent(shape, angle, aspect)
    area = np.exp(rng.uniform(*np.log(_AREA))) * size * size
    scale = np.sqrt(area / ((x2 - x1) * (y2 - y1)))
    scale = min(scale, _MAX_SIDE * size / (x2 - x1), _MAX_SIDE * size / (y2 - y1))
    free = size - scale * np.array([x2 - x1, y2 - y1])  # pixels that the box can move along each axis
    if rng.random() < 0.5:  # near the center
        shift = np.clip(rng.normal(0.5, 0.08, 2), 0, 1)
    else:  # near the edges
        shift = np.where(rng.random(2) < 0.5, rng.uniform(0, 0.2, 2), rng.uniform(0.8, 1, 2))
    left, top = free * shift
    return Glyph(shape, texture, angle, aspect, float(scale), (left - scale * x1, top - scale * y1))


def _mask(glyph: Glyph, size: int) -> np.ndarray:
    """(size, size) bool: pixels whose center lies inside the shape."""
    pixels = np.arange(size) + 0.5
    x, y = (pixels - glyph.center[0]) / glyph.scale, (pixels - glyph.center[1]) / glyph.scale
    return _inside(glyph.shape, glyph.angle, glyph.aspect, x[None, :], y[:, None])


def _box(mask: np.ndarray) -> np.ndarray:
    """(1, 4) float64 xyxy box of a mask, x2 and y2 just past its last pixels."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)


# ---------------------------------------------------------------------------------------------- painting


def _paint(rng: np.random.Generator, objects: Sequence[Glyph], size: int, parts: int) -> np.ndarray:
    """(size, size, 3) uint8 image of the objects on their background, of so many parts along each side."""
    image = _background(rng, size, parts)
    for glyph in objects:
        image = _with_object(rng, image, glyph, size // parts)
    image = cv2.GaussianBlur(image, (3, 3), 0.5) + rng.normal(0, 0.02, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _with_object(rng: np.random.Generator, image: np.ndarray, glyph: Glyph, unit: int) -> np.ndarray:
    """The image with an object in colours that stand out from what is behind it."""
    size = len(image)
    mask = _mask(glyph, size)
    behind = image[mask].mean(0)
    texture, best = image, -1.0
    for _ in range(8):  # an object in the colours of its background would be invisible
        candidate = _textured(rng, TEXTURES[glyph.texture], size, unit)
        contrast = float(np.abs(candidate[mask].mean(0) - behind).sum())
        if contrast > best:
            texture, best = candidate, contrast
        if best > _MIN_CONTRAST:
            break
    return np.where(mask[..., None], texture, image)


def _background(rng: np.random.Generator, size: int, parts: int = 1) -> np.ndarray:
    """Two textures separated by smooth noise, with patches of a third, and lines at random positions.

    Patterns and lines have the size that they have in an image of one part.
    """
    kinds, unit = rng.integers(len(TEXTURES), size=3), size // parts
    image = _textured(rng, TEXTURES[kinds[0]], size, unit)
    for kind, cells, above in zip(kinds[1:], (4, 9), (rng.uniform(0.45, 0.65), 0.8), strict=True):
        part = _clouds(rng, size, cells * parts) > above
        image = np.where(part[..., None], _textured(rng, TEXTURES[kind], size, unit), image)
    faded = 0.5 + _BACKGROUND_CONTRAST * (image - 0.5)
    image = np.ascontiguousarray(faded + _BACKGROUND_TINT * (rng.random(3) - 0.5))
    for corner in np.ndindex(parts, parts):
        for _ in range(rng.integers(3, 7)):
            ends = (rng.integers(0, unit, 4) + unit * np.tile(corner, 2)).tolist()
            width = int(rng.integers(1, max(2, unit // 24)))
            cv2.line(image, ends[:2], ends[2:], rng.random(3).tolist(), width)
    return image


def _textured(rng: np.random.Generator, kind: str, size: int, unit: int) -> np.ndarray:
    """(size, size, 3) float64 in [0, 1]: a texture in two random colours, randomly rotated and scaled.

    The period of the pattern is a fraction of `unit` pixels.
    """
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.08, 0.22) * unit
    pixels = np.arange(size)
    x = (np.cos(angle) * pixels[None, :] + np.sin(angle) * pixels[:, None]) / period + rng.random()
    y = (np.cos(angle) * pixels[:, None] - np.sin(angle) * pixels[None, :]) / period + rng.random()
    blend = _PATTERNS[kind](rng, x, y)[..., None]
    colors = rng.random((2, 3))
    return colors[0] + (colors[1] - colors[0]) * (0.2 + 0.6 * blend)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) smooth noise between 0 and 1."""
    return np.clip(cv2.resize(rng.random((cells, cells)), (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


_Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
_PATTERNS: dict[str, _Pattern] = {
    "stripes": lambda rng, x, y: (np.sin(2 * np.pi * x) > 0).astype(float),
    "checks": lambda rng, x, y: ((np.floor(x) + np.floor(y)) % 2).astype(float),
    "dots": lambda rng, x, y: (np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3).astype(float),
    "rings": lambda rng, x, y: 0.5 + 0.5 * np.sin(2 * np.pi * np.hypot(x % 3 - 1.5, y % 3 - 1.5) * 1.5),
    "bricks": lambda rng, x, y: ((y % 1 > 0.15) & ((x / 2 + 0.5 * (np.floor(y) % 2)) % 1 > 0.1)).astype(
        float
    ),
    "zigzag": lambda rng, x, y: ((y + np.abs(x % 2 - 1)) % 1 > 0.5).astype(float),
    "grain": lambda rng, x, y: rng.random(x.shape),
    "clouds": lambda rng, x, y: _clouds(rng, x.shape[0], 7),
    "weave": lambda rng, x, y: 0.5 + 0.25 * (np.sin(2 * np.pi * x) + np.sin(2 * np.pi * y)),
    "ramp": lambda rng, x, y: (x - x.min()) / (x.max() - x.min()),
}
