"""Middle layers of any network, and its last feature map at twice the resolution (docs/walk.md).

timm's models name their stages (`feature_info`); in any other model the last map of each resolution is taken.
A network of one resolution, such as a ViT, has no stages: there, the maps are those of two inner blocks.

The last stage halves the resolution by reading every second position of its input. It is run on that input
and on the input shifted by one row, one column, and both; the four results, interleaved, are a map of twice
the resolution from the same weights: shift and stitch (Long et al., "Fully Convolutional Networks for
Semantic Segmentation", CVPR 2015, section 3.2). Away from the border this equals dilating the convolutions of
the stage (timm's `output_stride`), for kernels of any size and implementation, and every second position of
the result is the network's own feature map, because the unshifted run computes it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.recording import Layout, find_layout, unrecorded
from heatbox.models.spec import as_input, eval_mode, hooked, input_size, model_name, unchanged

Head = Callable[[Tensor], tuple[Tensor, Tensor, Any]]
"""Images → features (B, C, h, w), logits (B, K), and a recording."""

BLOCKS = (1 / 2, 3 / 4)
"""Depths at which a network of one resolution has its middle maps, as fractions of its blocks."""

_MOST_TRIES = 16

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Whether rows and columns are shifted in the runs of the last stage, the unshifted one first."""

SharpOffset = tuple[bool, bool]
"""Row and column of the last map's first position in the sharp map, 0 or 1 each."""


@dataclass(frozen=True)
class FeatureHook:
    """Where the last feature map appears in a forward pass: as the input or the output of a module."""

    module: nn.Module
    side: Literal["input", "output"]

    @contextmanager
    def capture(self) -> Iterator[list[Tensor]]:
        """A list to which every forward pass inside appends its feature map."""
        captured: list[Tensor] = []
        if self.side == "input":
            handle = self.module.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        else:
            handle = self.module.register_forward_hook(lambda _, args, output: captured.append(output))
        try:
            yield captured
        finally:
            handle.remove()


@dataclass(frozen=True)
class StageOutput:
    """Where a stage ends: the output of a module, at one of its calls in a forward pass.

    Attributes:
        module: the module.
        call: which of its calls, from 0.
        size: (height, width) of its output over those of the last feature map.
        layout: how the output is read as (B, C, h, w).
    """

    module: nn.Module
    call: int
    size: tuple[float, float]
    layout: Layout = field(default_factory=lambda: Layout("maps"))

    @property
    def is_double(self) -> bool:
        """Whether its output has twice the resolution of the last feature map (an odd side is rounded up)."""
        return all(1.5 < ratio <= 2 for ratio in self.size)


def find_outputs(model: nn.Module, head: Head, size: Sequence[int] | None = None) -> list[StageOutput]:
    """All outputs of modules that are maps of the whole image, in order, found by one forward pass.

    Tokens are taken for a map only if they are in the order of the image: a change of its upper left quarter
    has to change the upper left quarter of the tokens most. The pass is of images of `size` (height, width),
    by default the model's own.
    """
    images = _probe_images(model, size)
    height, width = images.shape[2:]
    images[1] = images[0]
    images[1, :, : height // 2, : width // 2] *= -1
    found: list[tuple[nn.Module, int, Layout, tuple[int, int]]] = []
    calls: Counter[nn.Module] = Counter()
    grids: list[tuple[int, int]] = []

    def record(module: nn.Module, args: tuple, output: object) -> None:
        value, call = first_tensor(output), calls[module]
        calls[module] += 1
        if value is None or value.ndim not in (3, 4) or len(value) != 2:
            return
        layout = find_layout(value.shape, (height, width), grids)
        if layout is None and value.ndim == 3:
            layout = Layout("tokens")
        grid = layout.grid(value.shape, (height, width)) if layout is not None else None
        if layout is None or grid is None or min(grid) < 2 or grid == (height, width):
            return
        with unrecorded():
            if layout.has_tokens and not _in_order(layout.to_map(value, (height, width))):
                return
        if grid not in grids:
            grids.append(grid)
        found.append((module, call, layout, grid))

    with eval_mode(model), unchanged(model), torch.no_grad(), hooked(model, None, record):
        last = head(images)[0].shape[-2:]
    return [
        StageOutput(module, call, (grid[0] / last[0], grid[1] / last[1]), layout)
        for module, call, layout, grid in found
    ]


def _in_order(maps: Tensor) -> bool:
    """Whether two maps (2, C, h, w) differ most in their upper left quarter."""
    difference = (maps[0] - maps[1]).float().square().sum(0)
    height, width = difference.shape
    quarters = [
        difference[rows, columns].mean()
        for rows in (slice(height // 2), slice(-(-height // 2), None))
        for columns in (slice(width // 2), slice(-(-width // 2), None))
    ]
    return bool(quarters[0] > max(quarters[1:]))


def first_tensor(output: object) -> Tensor | None:
    """The tensor that a module returns, or the first one in the tuple or mapping that it returns."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def find_stages(model: nn.Module, outputs: Sequence[StageOutput]) -> list[StageOutput]:
    """The ends of the stages before the last one, finest first; two inner blocks where all are of one size.

    Args:
        model: the classifier.
        outputs: of `find_outputs`.
    """
    named = _named_stages(model)
    ends = [one for module in named for one in outputs if one.module is module]
    if not named or len(ends) < len(named):
        last_of_size = {one.size: one for one in outputs if min(one.size) > 1}
        ends = sorted(last_of_size.values(), key=lambda one: one.size, reverse=True)
    finer = any(min(one.size) > 1 for one in ends)
    if finer and ends[-1].size == (1, 1):
        # The last named stage is the last stage itself, unless the head's map is coarser still.
        ends = ends[:-1]
    if finer:
        return [one for one in ends if min(one.size) >= 1]
    blocks = ends or _blocks(model, outputs)
    return [blocks[round(depth * (len(blocks) - 1))] for depth in BLOCKS] if len(blocks) > 2 else []


def _blocks(model: nn.Module, outputs: Sequence[StageOutput]) -> list[StageOutput]:
    """The outputs of the longest sequence of modules that all return maps of the last size."""
    of_last_size = {one.module: one for one in outputs if one.size == (1, 1)}
    sequences = [
        [of_last_size[child] for child in module.children() if child in of_last_size]
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    return max(sequences, key=len, default=[])


def find_last_stage_input(
    model: nn.Module, head: Head, outputs: Sequence[StageOutput], size: Sequence[int] | None = None
) -> StageOutput:
    """The input of the last stage, which has to be shifted; checked on a random image of a size.

    The outputs of twice the last map's resolution are tried from the last one backwards: one inside a block
    is read together with an earlier one, which has no shifted copies.

    Raises:
        InputError: no map of twice the last one's resolution is known, or the layers after it do not accept a
            larger batch than the layers before it, because they also read from those.
    """
    double = [one for one in reversed(outputs) if one.is_double]
    if not double:
        raise InputError(
            f"{model_name(model)}: no feature map of twice the last one's resolution was found, so its last "
            "stage cannot be run on shifted inputs"
        )
    images = _probe_images(model, size)
    reason = ""
    with eval_mode(model), unchanged(model), torch.no_grad():
        plain = head(images)[0]
        for one in double[:_MOST_TRIES]:
            try:
                with capture_stages([], images.shape[2:], one):
                    features = head(images)[0]
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = reason or f" ({error})"
                continue
            if len(features) == len(SHIFTS) * len(images) and torch.allclose(
                features[: len(images)], plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max())
            ):
                return one
    raise InputError(f"{model_name(model)}: {_NOT_ALONE}{reason}")


@torch.no_grad()
def find_sharp_offset(model: nn.Module, last: StageOutput, size: Sequence[int]) -> SharpOffset:
    """Whether positions of the last map are centred on odd rows and columns of the last stage's input.

    They are where TensorFlow's padding is all on the far side, and on even ones where both sides are padded
    equally; with the wrong direction of the shift the sharp map is off by one position. Computed from the
    padding of the largest strided convolution after that input. Even kernels are centred between two
    positions, where both directions are equally wrong; pooling counts as centred on even ones. Padding may
    depend on whether a side of the images, `size` (height, width), is odd.
    """
    offsets: list[tuple[int, list[float]]] = []

    def measure(module: nn.Module, args: tuple) -> None:
        if inputs and isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            offsets.append((max(module.kernel_size), _centres(module, args[0].shape[2:])))

    with ExitStack() as stack, eval_mode(model), FeatureHook(last.module, "output").capture() as inputs:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(measure).remove)
        model(_probe_images(model, size))
    _, (row, column) = max(offsets, default=(0, [0.0, 0.0]))
    return row > 0.75, column > 0.75


def _centres(conv: nn.Conv2d, size: Sequence[int]) -> list[float]:
    """By axis, the distance from a convolution's first input position to the centre of its first output."""
    centres = []
    for axis, side in enumerate(size):
        kernel, stride = conv.kernel_size[axis], conv.stride[axis]
        if isinstance(conv, Conv2dSame):
            near = max((-(-side // stride) - 1) * stride + kernel - side, 0) // 2
        else:
            near = 0 if isinstance(conv.padding, str) else conv.padding[axis]
        centres.append((kernel - 1) / 2 - near)
    return centres


_NOT_ALONE = "its last stage cannot be run on shifted inputs, as it reads more than the stage before it"


def _probe_images(model: nn.Module, size: Sequence[int] | None = None) -> Tensor:
    channels, *own = input_size(model)
    images = torch.randn(2, channels, *(size or own), generator=torch.Generator().manual_seed(2))
    return as_input(model, images)


def _named_stages(model: nn.Module) -> list[nn.Module]:
    """The modules that end the stages of a timm model; empty where `feature_info` does not name modules."""
    info = getattr(model, "feature_info", None)
    names = [entry.get("module") for entry in info] if isinstance(info, list) else []
    modules = dict(model.named_modules())
    return [modules[name] for name in names] if all(name in modules for name in names) else []


@contextmanager
def capture_stages(
    stages: Sequence[StageOutput],
    image: Sequence[int],
    shifted: StageOutput | None = None,
    offset: SharpOffset = (False, False),
) -> Iterator[dict[StageOutput, Tensor]]:
    """Keep the outputs of some stages in a dictionary: stage → (B, C, h, w), before any shifts.

    After the stage `shifted` the forward pass continues with four times the batch, see `shifted_copies`.
    """
    captured: dict[StageOutput, Tensor] = {}

    def register(stage: StageOutput) -> torch.utils.hooks.RemovableHandle:
        calls = -1

        def record(module: nn.Module, args: tuple, output: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != stage.call:
                return None
            value = first_tensor(output)
            assert value is not None
            with unrecorded():
                captured[stage] = stage.layout.to_map(value, image)
                if stage != shifted:
                    return None
                copies = shifted_copies(captured[stage], offset)
                original = value.repeat(len(SHIFTS), *[1] * (value.ndim - 1))
                return _replaced(output, stage.layout.from_map(copies, original, image))

        return stage.module.register_forward_hook(record)

    with ExitStack() as stack:
        for stage in dict.fromkeys([*stages, *([shifted] if shifted else [])]):
            stack.callback(register(stage).remove)
        yield captured


def _replaced(output: Any, value: Tensor) -> Any:
    """What a module returned, with another first tensor."""
    if isinstance(output, Tensor):
        return value
    if isinstance(output, Mapping):
        name = next(iter(output))
        other = copy.copy(output)
        other[name] = _replaced(output[name], value)  # type: ignore[index]
        return other
    return type(output)([_replaced(output[0], value), *output[1:]])


def shifted_copies(maps: Tensor, offset: SharpOffset = (False, False)) -> Tensor:
    """(B, C, h, w) → (4 B, C, h, w): the maps, and the maps shifted by `SHIFTS`, zeros beyond the border.

    Where the unshifted run computes the odd positions of an axis (`offset`), the others come from a shift
    down or right, otherwise from one up or left.
    """
    height, width = maps.shape[2:]
    below, right = offset
    padded = F.pad(maps, (int(right), int(not right), int(below), int(not below)))
    starts = [(int(y != below), int(x != right)) for y, x in SHIFTS]
    return torch.cat([padded[:, :, y : y + height, x : x + width] for y, x in starts])


def stitched(runs: Tensor, offset: SharpOffset = (False, False)) -> Tensor:
    """(4 B, C, h, w) of the runs in the order of `SHIFTS` → (B, C, 2 h, 2 w), interleaved."""
    batch, channels, height, width = runs.shape
    grid = runs.view(2, 2, batch // 4, channels, height, width)  # row shift, column shift, ...
    grid = grid.flip([axis for axis in (0, 1) if offset[axis]])  # even positions first
    return grid.permute(2, 3, 4, 0, 5, 1).reshape(batch // 4, channels, 2 * height, 2 * width)
