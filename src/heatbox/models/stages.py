"""Middle layers of any CNN, and its last feature map at twice the resolution (docs/walk.md).

timm's models name their stages (`feature_info`); in any other model the last map of each resolution is taken.

The last stage halves the resolution by reading every second position of its input. It is run on that input
and on the input shifted by one row, one column, and both; the four results, interleaved, are a map of twice
the resolution from the same weights: shift and stitch (Long et al., "Fully Convolutional Networks for
Semantic Segmentation", CVPR 2015, section 3.2). Away from the border this equals dilating the convolutions of
the stage (timm's `output_stride`), for kernels of any size and implementation, and every second position of
the result is the network's own feature map, because the unshifted run computes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.spec import as_input, eval_mode, input_size, model_name

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
    def apply(self, function: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call a function on the feature map of every forward pass inside; its result replaces it, if any."""

        def replace_input(module: nn.Module, args: tuple) -> tuple | None:
            new = function(args[0])
            return None if new is None else (new, *args[1:])

        if self.side == "input":
            handle = self.module.register_forward_pre_hook(replace_input)
        else:
            handle = self.module.register_forward_hook(lambda module, args, output: function(output))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def capture(self) -> Iterator[list[Tensor]]:
        """A list to which every forward pass inside appends its feature map."""
        captured: list[Tensor] = []
        with self.apply(captured.append):
            yield captured


@dataclass(frozen=True)
class StageOutput:
    """Where a stage ends: the output of a module, at one of its calls in a forward pass.

    Attributes:
        module: the module.
        call: which of its calls, from 0.
        size: (height, width) of its output over those of the last feature map.
    """

    module: nn.Module
    call: int
    size: tuple[float, float]

    @property
    def is_double(self) -> bool:
        """Whether its output has twice the resolution of the last feature map (an odd side is rounded up)."""
        return all(1.5 < ratio <= 2 for ratio in self.size)


def find_stages(model: nn.Module, hook: FeatureHook) -> list[StageOutput]:
    """The ends of the stages before the last one, finest first, found by one forward pass."""
    images = _probe_images(model)
    named = _named_stages(model)
    maps: list[tuple[nn.Module, int, torch.Size]] = []  # the maps (B, C, h, w) that modules return
    calls: Counter[nn.Module] = Counter()

    def record(module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            maps.append((module, calls[module], output.shape[2:]))
        calls[module] += 1

    with ExitStack() as stack, eval_mode(model), torch.no_grad(), hook.capture() as features:
        for module in named or model.modules():
            stack.callback(module.register_forward_hook(record).remove)
        model(images)
    height, width = features[-1].shape[-2:]
    stages = [StageOutput(module, call, (h / height, w / width)) for module, call, (h, w) in maps]
    if named:
        # The last named stage is the last stage itself, unless the head's map is coarser still.
        return stages[:-1] if stages and stages[-1].size == (1, 1) else stages
    coarsest = images.shape[2] / height
    last_of_size = {stage.size: stage for stage in stages if 1 < stage.size[0] < coarsest}
    return sorted(last_of_size.values(), key=lambda stage: stage.size, reverse=True)


def find_last_stage_input(model: nn.Module, hook: FeatureHook, stages: Sequence[StageOutput]) -> StageOutput:
    """The input of the last stage, which has to be shifted; checked on a random image.

    Raises:
        InputError: no map of twice the last one's resolution is known, or the layers after it do not accept a
            larger batch than the layers before it, because they also read from those.
    """
    last = next((stage for stage in reversed(stages) if stage.is_double), None)
    if last is None:
        raise InputError(
            f"{model_name(model)}: no feature map of twice the last one's resolution was found, so its last "
            "stage cannot be run on shifted inputs"
        )
    images = _probe_images(model)
    try:
        with eval_mode(model), torch.no_grad(), capture_stages([], last), hook.capture() as features:
            model(images)
        runs = len(features[-1]) // len(images)
    except RuntimeError as error:
        raise InputError(f"{model_name(model)}: {_NOT_ALONE} ({error})") from error
    if runs != len(SHIFTS):
        raise InputError(f"{model_name(model)}: {_NOT_ALONE}")
    return last


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
    stages: Sequence[StageOutput], shifted: StageOutput | None = None, offset: SharpOffset = (False, False)
) -> Iterator[dict[StageOutput, Tensor]]:
    """Keep the outputs of some stages in a dictionary: stage → (B, C, h, w), before any shifts.

    After the stage `shifted` the forward pass continues with four times the batch, see `shifted_copies`.
    """
    captured: dict[StageOutput, Tensor] = {}

    def register(stage: StageOutput) -> torch.utils.hooks.RemovableHandle:
        calls = -1

        def record(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            if calls != stage.call:
                return None
            captured[stage] = output
            return shifted_copies(output, offset) if stage == shifted else None

        return stage.module.register_forward_hook(record)

    with ExitStack() as stack:
        for stage in dict.fromkeys([*stages, *([shifted] if shifted else [])]):
            stack.callback(register(stage).remove)
        yield captured


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
