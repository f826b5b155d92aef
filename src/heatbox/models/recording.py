"""The operations of a forward pass, recorded one by one, and how they depend on each other.

Hooks see only what modules return. Many networks pool their feature map by a function call, add two branches
outside any module, or reshape tokens on the way to the logits. The operations that PyTorch dispatches are the
same however a network is written. `Graph` is the record of a whole forward pass without its values: which
feature map do the logits depend on? `Recording` is the record of the operations after that map with their
values: they can be computed again from another map, or with other derivatives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

MOVING = ("permute", "transpose", "t")
"""Operators that exchange axes."""

RESHAPING = (
    *MOVING,
    *("view", "unsafe_view", "reshape_alias", "squeeze", "unsqueeze", "expand"),
    *("clone", "alias", "detach", "to_copy"),
)
"""Operators that change no value, only how many axes there are and in which order."""

_MOST_PREFIX = 16
"""Most tokens beside those of the image, such as class and register tokens."""


# ---------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True)
class Layout:
    """How a tensor is read as a feature map (B, C, h, w).

    Attributes:
        kind: "maps" (B, C, h, w), "channels last" (B, h, w, C), "tokens" (B, prefix + h w, C) or
            "token channels" (B, C, prefix + h w).
        prefix: number of tokens before those of the image.
        flipped: whether rows and columns are mirrored, because the network read a mirrored image.
    """

    kind: Literal["maps", "channels last", "tokens", "token channels"]
    prefix: int = 0
    flipped: tuple[bool, bool] = (False, False)

    @property
    def has_tokens(self) -> bool:
        """Whether positions are tokens in one dimension."""
        return self.kind in ("tokens", "token channels")

    def channels(self, shape: Sequence[int]) -> int:
        """Number of channels C of a tensor of this shape."""
        return shape[{"maps": 1, "channels last": 3, "tokens": 2, "token channels": 1}[self.kind]]

    def grid(self, shape: Sequence[int], image: Sequence[int]) -> tuple[int, int] | None:
        """Rows and columns of a tensor of this shape for images of (height, width); None if it has none."""
        if self.kind == "maps":
            return shape[2], shape[3]
        if self.kind == "channels last":
            return shape[1], shape[2]
        return _grid(shape[1 if self.kind == "tokens" else 2] - self.prefix, image)

    def to_map(self, value: Tensor, image: Sequence[int]) -> Tensor:
        """A tensor of this layout → (B, C, h, w), a view where possible."""
        grid = self.grid(value.shape, image)
        assert grid is not None
        if self.kind == "channels last":
            value = value.permute(0, 3, 1, 2)
        elif self.has_tokens:
            tokens = value if self.kind == "token channels" else value.transpose(1, 2)
            value = tokens[:, :, self.prefix :].unflatten(2, grid)
        axes = [axis for axis, mirrored in zip((2, 3), self.flipped, strict=True) if mirrored]
        return value.flip(axes) if axes else value

    def from_map(self, features: Tensor, original: Tensor, image: Sequence[int]) -> Tensor:
        """The reverse of `to_map`; tokens beside those of the image are taken from the original tensor."""
        axes = [axis for axis, mirrored in zip((2, 3), self.flipped, strict=True) if mirrored]
        value = features.flip(axes) if axes else features
        if self.kind == "channels last":
            return value.permute(0, 2, 3, 1)
        if not self.has_tokens:
            return value
        axis = 1 if self.kind == "tokens" else 2
        tokens = value.flatten(2) if axis == 2 else value.flatten(2).transpose(1, 2)
        return torch.cat([original.narrow(axis, 0, self.prefix), tokens], axis)


def find_layout(
    shape: Sequence[int], image: Sequence[int], grids: Sequence[tuple[int, int]] = ()
) -> Layout | None:
    """How a tensor can be a map of more than one position for images of (height, width); None if it cannot.

    Args:
        shape: shape of the tensor, the batch first.
        image: (height, width) of the images.
        grids: the grids of the maps seen before it; tokens must have one of them, or be nearly square.
    """
    if len(shape) == 4:
        for layout in (Layout("maps"), Layout("channels last")):
            grid = layout.grid(shape, image)
            if grid is not None and min(grid) > 1 and _fits(grid, image):
                return layout
    elif len(shape) == 3 and min(shape[1:]) > 1:
        found = [
            (h * w, tokens - h * w, layout)
            for layout, tokens in ((Layout("tokens"), shape[1]), (Layout("token channels"), shape[2]))
            for h, w in grids
            if 0 <= tokens - h * w <= min(h * w, _MOST_PREFIX)
        ]
        if found:  # the coarsest grid is that of the last map
            _, prefix, layout = min(found, key=lambda one: one[:2])
            return replace(layout, prefix=prefix)
    return None


def _fits(grid: tuple[int, int], image: Sequence[int]) -> bool:
    """Whether a grid has the aspect of the image, up to the rounding of its sides."""
    (rows, columns), (height, width) = grid, image
    if rows > height or columns > width:
        return False
    return rows == columns if height == width else abs(rows * width - columns * height) <= max(height, width)


def _grid(positions: int, image: Sequence[int]) -> tuple[int, int] | None:
    """The grid of a number of positions whose aspect is closest to that of the image; None if none fits."""
    pairs = [(rows, positions // rows) for rows in range(1, positions + 1) if positions % rows == 0]
    fitting = [grid for grid in pairs if _fits(grid, image)]
    height, width = image
    return min(fitting, key=lambda grid: abs(grid[0] * width - grid[1] * height), default=None)


# ---------------------------------------------------------------------------------------------- recording


@dataclass(frozen=True)
class Ref:
    """A tensor of a recording, by its number."""

    number: int


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of an operator.

    Attributes:
        function: the operator.
        inputs: numbers of the recorded tensors that it reads.
        outputs: numbers of the tensors that it returns.
        shapes: shapes of all tensors among its arguments.
        args: positional and keyword arguments, with `Ref` in place of recorded tensors; in a graph, with None
            in place of tensors.
    """

    function: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    args: tuple[tuple[Any, ...], dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the operator, without its overload and the underscores of variants."""
        return str(self.function.overloadpacket.__name__).strip("_")


_paused: list[None] = []


@contextmanager
def unrecorded() -> Iterator[None]:
    """A context in which no recorder records; for what hooks compute."""
    _paused.append(None)
    try:
        yield
    finally:
        _paused.pop()


def _tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


class Recorder(TorchDispatchMode):
    """Records the operations that are dispatched while it is active.

    Args:
        keep: keep arguments and results. Otherwise only dependences and shapes are kept.
    """

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.keep = keep
        self.operations: list[Operation] = []
        self.shapes: list[torch.Size] = []
        self.values: list[Tensor] = []
        self.bases: list[int] = []  # the number of the tensor of which one is a view, its own if of none
        self._writers: dict[int, int] = {}  # base → the number that the last write in place gave
        self._numbers: Any = WeakIdKeyDictionary()

    def add(self, value: Tensor, base: int | None = None) -> int:
        """Number a tensor."""
        number = len(self.shapes)
        self._numbers[value] = number
        self.shapes.append(value.shape)
        self.bases.append(number if base is None else self.bases[base])
        if self.keep:
            self.values.append(value)
        return number

    def number(self, value: Tensor) -> int | None:
        """The number of a tensor; None if it comes from outside."""
        found: int | None = self._numbers.get(value)
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _paused:
            return func(*args, **kwargs)
        if func is torch.ops.aten.detach.default:  # autograd detaches values where it is enabled
            detached = func(*args, **kwargs)
            if (number := self.number(args[0])) is not None:
                self._numbers[detached] = number
            return detached
        tensors = list(_tensors_in((*args, *kwargs.values())))
        shapes = tuple(tensor.shape for tensor in tensors)
        inputs: list[int] = []
        for number in map(self.number, tensors):
            if number is not None:
                inputs.append(number)
                writer = self._writers.get(self.bases[number], -1)
                inputs += [writer] if writer > number else []
        recorded = (tuple(map(self._reference, args)), {k: self._reference(v) for k, v in kwargs.items()})
        results = func(*args, **kwargs)
        outputs = [
            self._returned(value, func, index, args)
            for index, value in enumerate(results if isinstance(results, tuple | list) else (results,))
            if isinstance(value, Tensor)
        ]
        self.operations.append(Operation(func, tuple(inputs), tuple(outputs), shapes, recorded))
        return results

    def _reference(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(self._reference, value))
        if not isinstance(value, Tensor):
            return value
        number = self.number(value)
        if number is not None:
            return Ref(number)
        return value if self.keep else None

    def _returned(self, value: Tensor, func: Any, index: int, args: Sequence[Any]) -> int:
        """Number a result: a view shares the base of its argument, a write in place renews it."""
        declared = func._schema.returns
        alias = declared[min(index, len(declared) - 1)].alias_info if declared else None
        if alias is None:
            return self.add(value)
        for given, argument in zip(args, func._schema.arguments, strict=False):
            info = argument.alias_info
            if isinstance(given, Tensor) and info is not None and info.before_set & alias.before_set:
                source = self.number(given)
                if source is None and alias.is_write:
                    source = self.add(given)
                number = self.add(value, source)
                if alias.is_write:
                    self._writers[self.bases[number]] = number
                return number
        return self.add(value)


@dataclass(frozen=True)
class Boundary:
    """Where a module begins or ends in a forward pass.

    Attributes:
        module: the module.
        side: "input" for its beginning, "output" for its end.
        call: which of its calls, from 0.
        position: number of operations before it.
    """

    module: nn.Module
    side: Literal["input", "output"]
    call: int
    position: int

    @contextmanager
    def reached(self, function: Callable[[], None]) -> Iterator[None]:
        """A context in which a function is called where a forward pass reaches the boundary."""
        calls = -1

        def hook(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == self.call:
                function()

        register = (
            self.module.register_forward_pre_hook
            if self.side == "input"
            else self.module.register_forward_hook
        )
        handle = register(hook)
        try:
            yield
        finally:
            handle.remove()


# ---------------------------------------------------------------------------------------------- the graph


class Graph:
    """The operations of one forward pass, and which of them depend on the images.

    Attributes:
        operations: in order.
        shapes: number of a tensor → its shape; the images have number 0.
        boundaries: where modules begin and end, in order.
        image: (height, width) of the images.
        small: whether the images are smaller than those that the model is made for.
    """

    def __init__(
        self, recorder: Recorder, boundaries: Sequence[Boundary], image: Sequence[int], small: bool
    ) -> None:
        self.small = small
        self.operations = recorder.operations
        self.shapes = recorder.shapes
        self.boundaries = boundaries
        self.image = tuple(image)
        self.producer: dict[int, int] = {}
        depends = {0}
        for position, operation in enumerate(self.operations):
            for number in operation.outputs:
                self.producer[number] = position
            if depends.intersection(operation.inputs):
                depends.update(operation.outputs)
        self._depends = depends

    def depends(self, number: int) -> bool:
        """Whether a tensor is computed from the images."""
        return number in self._depends

    @cached_property
    def grids(self) -> list[tuple[int, int]]:
        """Grids of the (B, C, h, w) and (B, h, w, C) maps, finest first.

        Without a convolution they are those of the patches that the pixels are arranged in.
        """
        found = set()
        convolved = any(one.name == "convolution" for one in self.operations)
        for number in sorted(self._depends):
            shape = self.shapes[number]
            if convolved:
                layout = find_layout(shape, self.image)
                found.add(None if layout is None else layout.grid(shape, self.image))
            elif len(shape) == 3 and shape.numel() == self.shapes[0].numel() and min(shape[1:]) > 1:
                found.add(_grid(shape[1], self.image))
        return sorted((grid for grid in found if grid not in (None, self.image)), reverse=True)

    def layout(self, number: int) -> Layout | None:
        """How a tensor is read as a map, None if it is no map of more than one position."""
        shape = self.shapes[number]
        if not shape or shape[0] != self.shapes[0][0]:
            return None
        found = find_layout(shape, self.image, self.grids)
        if found is None or found.grid(shape, self.image) is None:
            return None
        return found

    def has_tokens(self, number: int) -> bool:
        """Whether a tensor is a map of tokens."""
        layout = self.layout(number)
        return layout is not None and layout.has_tokens

    def ancestors(self, number: int) -> set[int]:
        """Numbers of the tensors between the images and a tensor, both included."""
        found, waiting = {number}, [number]
        while waiting:
            position = self.producer.get(waiting.pop())
            if position is None:
                continue
            for source in self.operations[position].inputs:
                if source in self._depends and source not in found:
                    found.add(source)
                    waiting.append(source)
        return found

    def dominators(self, number: int) -> list[int]:
        """The tensors through which every path from the images to a tensor leads, the last one first."""
        inside = self.ancestors(number)
        last_use: dict[int, int] = {}
        for position, operation in enumerate(self.operations):
            if inside.intersection(operation.outputs):
                last_use.update(dict.fromkeys(inside.intersection(operation.inputs), position))
        last_use[number] = len(self.operations)
        found: list[int] = []
        latest = last_use.get(0, 0)
        for position, operation in enumerate(self.operations):
            made = inside.intersection(operation.outputs)
            if not made:
                continue
            if latest <= position and len(made) == 1:
                found += made
            latest = max(latest, *(last_use.get(one, position) for one in made))
        return found[::-1]

    def between(self, first: int, last: int) -> list[Operation]:
        """The operations that lead from one tensor to another."""
        inside, start = self.ancestors(last), self.producer.get(first, -1)
        return [one for one in self.operations[start + 1 :] if inside.intersection(one.outputs)]

    def mirrored(self, number: int) -> tuple[bool, bool]:
        """Whether a tensor was computed from images with reversed rows, reversed columns."""
        inside = self.ancestors(number)
        flips: Counter[int] = Counter()
        for operation in self.operations:
            if operation.name == "flip" and inside.intersection(operation.outputs):
                flips.update(axis % len(operation.shapes[0]) for axis in operation.args[0][1])
        return flips[2] % 2 == 1, flips[3] % 2 == 1

    def layer_of(self, number: int) -> nn.Module | None:
        """The linear layer that returns a tensor; None if another operation does."""
        position = self.producer.get(number, 0)
        for one in self.boundaries:
            if one.side == "output" and isinstance(one.module, nn.Linear | nn.Conv2d):
                last = self.operations[one.position - 1] if one.position else None
                if last is not None and one.position - 1 == position:
                    return one.module
        return None

    def origin(self, number: int) -> int:
        """The tensor whose values a tensor has, before it was only reshaped."""
        while True:
            operation = self.operations[self.producer[number]]
            sources = [one for one in operation.inputs if self.depends(one) and one in self.producer]
            if operation.name not in RESHAPING or not sources:
                return number
            number = sources[0]

    def boundary_before(self, position: int) -> Boundary:
        """The last place where a module begins or ends before an operation."""
        return max((one for one in self.boundaries if one.position <= position), key=lambda one: one.position)
