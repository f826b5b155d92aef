"""Middle layers of any CNN, and its last feature map at twice the resolution.

A network is seen as stages: its outputs at falling resolution, the last of which the head reads. timm's
models name theirs (`feature_info`); in any other model the last map of each resolution is taken.

The last stage halves the resolution by reading every second position of its input. Run on the input itself
and on the same shifted by one position sideways, up or down, and both, and with the four results interleaved,
it gives a map of twice the resolution with the same weights: shift and stitch (Long et al., "Fully
Convolutional Networks for Semantic Segmentation", CVPR 2015, section 3.2). Away from the border this is what
dilating the convolutions of the last stage gives (timm's `output_stride`), at the same cost, but it asks
nothing of them: kernels may be of any size and implementation, and every second position of the result is the
network's own feature map, whatever lies between, because that is what the unshifted run computes.

Which way to shift depends on what a position of the last map is centred on: on the even positions of the
stage's input where convolutions are padded alike on both sides, on the odd ones where TensorFlow's padding
puts all of it on the far side. Interleaved the wrong way, a map lies one position off. `centred_late` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.head import Tap, eval_mode, tapped
from heatbox.models.spec import as_input, input_size, model_name

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Whether rows and columns are shifted in the runs of the last stage, the unshifted one first."""

Late = tuple[bool, bool]
"""Whether positions of the last map are centred on odd rows and columns of the last stage's input."""


@dataclass(frozen=True)
class Spot:
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


def find_stages(model: nn.Module, tap: Tap) -> list[Spot]:
    """The ends of the stages before the last one, finest first, found by one forward pass.

    Args:
        model: the classifier.
        tap: where its last feature map appears.
    """
    images = _probe_images(model)
    named = _named_stages(model)
    caught: list[Tensor] = []
    with eval_mode(model), torch.no_grad(), tapped(tap, caught), _outputs(named or model.modules()) as seen:
        model(images)
    height, width = caught[-1].shape[-2:]
    spots = [Spot(module, call, (h / height, w / width)) for module, call, (h, w) in seen]
    if named:
        # The last one named is the last stage itself, unless the head's map is coarser still.
        return spots[:-1] if spots and spots[-1].size == (1, 1) else spots
    coarsest = images.shape[2] / height
    last_of_size = {spot.size: spot for spot in spots if 1 < spot.size[0] < coarsest}
    return sorted(last_of_size.values(), key=lambda spot: spot.size, reverse=True)


def find_shift(model: nn.Module, tap: Tap, stages: Sequence[Spot]) -> Spot:
    """The input of the last stage, where shifts have to be made; tried out on a random image.

    Raises:
        InputError: no map of twice the last one's resolution is known, or what follows it cannot be run with
            more images than what comes before, as it reads from there too.
    """
    spot = next((spot for spot in reversed(stages) if spot.is_double), None)
    if spot is None:
        raise InputError(
            f"{model_name(model)}: no feature map of twice the last one's resolution was found, so its last "
            "stage cannot be run on shifted inputs"
        )
    images = _probe_images(model)
    caught: list[Tensor] = []
    try:
        with eval_mode(model), torch.no_grad(), watched([], spot), tapped(tap, caught):
            model(images)
        runs = len(caught[-1]) // len(images)
    except RuntimeError as error:
        raise InputError(f"{model_name(model)}: {_NOT_ALONE} ({error})") from error
    if runs != len(SHIFTS):
        raise InputError(f"{model_name(model)}: {_NOT_ALONE}")
    return spot


@torch.no_grad()
def centred_late(model: nn.Module, spot: Spot, size: Sequence[int]) -> Late:
    """Whether positions of the last map are centred on the odd positions of the last stage's input.

    Read off the padding of the largest strided convolution after that input. Even kernels are centred between
    two positions, which shifts serve equally badly either way; pooling counts as centred on even ones.

    Args:
        model: the classifier.
        spot: where its last stage begins.
        size: (height, width) of the images: padding may depend on whether a side is odd.
    """
    begun = False
    offsets: list[tuple[int, list[float]]] = []

    def begin(module: nn.Module, args: tuple, output: Tensor) -> None:
        nonlocal begun
        begun = True

    def measure(module: nn.Module, args: tuple) -> None:
        if begun and isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            offsets.append((max(module.kernel_size), _centres(module, args[0].shape[2:])))

    with ExitStack() as stack:
        stack.callback(spot.module.register_forward_hook(begin).remove)
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(measure).remove)
        with eval_mode(model):
            model(_probe_images(model, size))
    _, (row, column) = max(offsets, default=(0, [0.0, 0.0]))
    return row > 0.75, column > 0.75


def _centres(conv: nn.Conv2d, size: Sequence[int]) -> list[float]:
    """By axis, how far from its first input position a convolution's first output is centred."""
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
    """The modules that end the stages of a timm model; none where it names none, or names other things."""
    info = getattr(model, "feature_info", None)
    names = [entry.get("module") for entry in info] if isinstance(info, list) else []
    modules = dict(model.named_modules())
    return [modules[name] for name in names] if all(name in modules for name in names) else []


@contextmanager
def _outputs(
    modules: Iterable[nn.Module],
) -> Iterator[list[tuple[nn.Module, int, tuple[int, int]]]]:
    """Every map (B, C, h, w) that comes out of some modules: module, which of its calls, (h, w)."""
    seen: list[tuple[nn.Module, int, tuple[int, int]]] = []
    calls: dict[nn.Module, int] = {}

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        call = calls[module] = calls.get(module, -1) + 1
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            seen.append((module, call, (output.shape[2], output.shape[3])))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(leave).remove)
        yield seen


@contextmanager
def watched(
    spots: Sequence[Spot], shifted: Spot | None = None, late: Late = (False, False)
) -> Iterator[dict[Spot, Tensor]]:
    """Keep what comes out at some spots of the forward passes inside.

    Args:
        spots: where to look.
        shifted: from this spot on, the forward pass goes on with the batch four times over: as it is, then
            shifted as `SHIFTS` say.
        late: see `shifted_copies`.

    Yields:
        a dictionary that is filled by the forward pass: spot → (B, C, h, w), before any shifts.
    """
    caught: dict[Spot, Tensor] = {}

    def watch(spot: Spot) -> torch.utils.hooks.RemovableHandle:
        calls = -1

        def leave(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            if calls != spot.call:
                return None
            caught[spot] = output
            return shifted_copies(output, late) if spot == shifted else None

        return spot.module.register_forward_hook(leave)

    with ExitStack() as stack:
        for spot in dict.fromkeys([*spots, *([shifted] if shifted else [])]):
            stack.callback(watch(spot).remove)
        yield caught


def shifted_copies(maps: Tensor, late: Late = (False, False)) -> Tensor:
    """(B, C, h, w) → (4 B, C, h, w): the maps, and the maps shifted by `SHIFTS`, zeros beyond the border.

    Args:
        maps: input of the last stage.
        late: by axis, whether unshifted runs make the odd positions: the others are then made by a shift down
            or right, else by one up or left.
    """
    height, width = maps.shape[2:]
    below, right = late
    grown = F.pad(maps, (int(right), int(not right), int(below), int(not below)))
    starts = [(int(y != below), int(x != right)) for y, x in SHIFTS]
    return torch.cat([grown[:, :, y : y + height, x : x + width] for y, x in starts])


def stitched(runs: Tensor, late: Late = (False, False)) -> Tensor:
    """(4 B, C, h, w) of the runs in the order of `SHIFTS` → (B, C, 2 h, 2 w), interleaved."""
    batch, channels, height, width = runs.shape
    grid = runs.view(2, 2, batch // 4, channels, height, width)  # row shift, column shift, ...
    grid = grid.flip([axis for axis in (0, 1) if late[axis]])  # even positions first
    return grid.permute(2, 3, 4, 0, 5, 1).reshape(batch // 4, channels, 2 * height, 2 * width)
