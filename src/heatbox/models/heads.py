"""From the last feature map to the logits: what each position contributes to the logit of a class.

`RecordedHead` finds the last feature maps of any model in the operations of its forward pass. What follows
them is affine for a given image (`heatbox.models.affine`): with the derivative W of the logit with respect to
the feature map F, the logit is sum(W F) + bias.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from heatbox.errors import InputError
from heatbox.models.affine import (
    HALF,
    SOFTMAX,
    Affine,
    NotAffine,
    Part,
    Recording,
    as_is,
    final_activation,
    single,
)
from heatbox.models.recording import MOVING, RESHAPING, Boundary, Graph, Layout, Operation, Recorder
from heatbox.models.spec import hooked, model_name

_ATTENTION = (*SOFTMAX, "native_multi_head_attention", "transformer_encoder_layer_fwd")
_MOST_ATTENTION = 1
"""Most layers of attention that pool a feature map; more of them are a network of their own."""

_WINDOWS = ("max_pool2d_with_indices", "avg_pool2d")
_MOST_BRANCHES = 64
"""Most values whose origin is followed in the search for feature maps."""

Select = Callable[[Any], Tensor]
"""What a model returns → the one tensor of logits in it."""


@dataclass(frozen=True)
class Contributions:
    """What the positions of the last feature maps contribute to the logit of a class, for B images.

    Attributes:
        maps: (B, h, w) float32; its mean is the part of the logit that the positions explain.
        bias: (B,) float32, the logit minus that mean.
        logits: (B, K) float32.
        weights: (B, C) or, where they depend on the position, (B, C, h, w): the product with the features,
            summed over channels, is the map; None for an approximation.
    """

    maps: Tensor
    bias: Tensor
    logits: Tensor
    weights: Tensor | None


class NoFeatureMap(InputError):
    """A model computes its logits from no feature map."""


class RecordedHead:
    """What leads from the last feature maps of a model to its logits, found in its operations.

    Args:
        model: the classifier, in eval mode.
        select: see `Select`.
        graph: of one forward pass.
        target: number of the logits in it.
        images: other images, on which the head is checked.
        small: whether the images are smaller than those the model is made for. A network of large stride
            leaves one position of them, so a map far from the logits is then no feature map.

    Attributes:
        classifier: the linear layer that returns the logits; None if another operation does.
        num_classes: number of logits K.
        activation: "softmax" or "sigmoid" if the model ends in one, else None.
        kind: what the class map is, see `heatbox.class_maps`.
        reason: why there is no exact class map; "" if there is one.

    Raises:
        NoFeatureMap: the model reads its logits from no feature map.
    """

    def __init__(
        self, model: nn.Module, select: Select, graph: Graph, target: int, images: Tensor, small: bool
    ) -> None:
        self.model, self.select, self.reason, self.kind = model, select, "", ""
        self.uniform = False
        """Whether a channel has the same weight at every position."""
        self._affine: Affine | None = None
        self._inner: Part | None = None
        self._parts: list[Part] = []
        found = find_feature_maps(graph, target)
        if not found and not small:
            found = [one for one in graph.dominators(target) if one and graph.layout(one) is not None][:1]
            layers = sum(one.name in _ATTENTION for one in graph.between(found[0], target)) if found else 0
            self.reason = (
                f"its logits are read from its last feature map through {layers} weighted sums (softmax), of "
                "which a class map holds one"
                if layers > _MOST_ATTENTION
                else "its logits are computed from feature maps of several depths, not all of them by a head"
            )
        if not found:
            raise NoFeatureMap("it computes its logits from no feature map")
        self.classifier = graph.layer_of(target)
        self._start_at(graph, found)
        try:
            self._examine(graph, target, found, images)
        except InputError as error:
            if self.reason:  # the map is not only far from the logits but also elsewhere for other images
                raise NoFeatureMap(self.reason) from error
            raise

    # ---------------------------------------------------------------------------------- running it

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Recording]:
        """Features (B, C, h, w), logits (B, K) and the recording of one forward pass.

        The features are a tensor of their own, so that a recording can be freed when they are.
        """
        recording = self.record(images)
        features = self.features(recording)
        return features.view_as(features), recording.logits, recording

    def record(self, images: Tensor) -> Recording:
        """Run the model once and keep the operations after its last feature maps.

        Args:
            images: (B, C, H, W) on the device of the model and in its dtype.

        Raises:
            InputError: the model computes something else for these images than for those it was found with.
        """
        recorder = Recorder(keep=True)
        differentiable = torch.is_grad_enabled() and images.requires_grad
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable), ExitStack() as stack:

            def begin() -> None:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # attention weights as a tensor
                stack.enter_context(recorder)

            images = images.clone() if images.is_inference() else images
            with _plain_attention(), self._boundary.reached(begin):
                output = self.select(self.model(images))
        return Recording(recorder, self._parts, output, images.shape[2:])

    def features(self, recording: Recording) -> Tensor:
        """(B, C, h, w): the last feature map; several maps are put together on a common grid."""
        maps = recording.features
        grid = [math.lcm(*sides) for sides in zip(*(one.shape[2:] for one in maps), strict=True)]
        return maps[0] if len(maps) == 1 else torch.cat([_repeated(one, grid) for one in maps], 1)

    def contributions(self, recording: Recording, targets: Tensor) -> Contributions:
        """The class map of a forward pass.

        Raises:
            InputError: the model has none; see `reason`.
        """
        if self._affine is None:
            raise InputError(f"{model_name(self.model)}: {self.reason}")
        with torch.inference_mode(False):
            targets = targets.clone()
            if not self._affine.fits(recording):  # other operations for another size
                self._affine = self._rules(recording)
            slopes, logits = self._affine.contributions(recording, targets)
            if self.kind == "patch tokens":
                maps = self._patch_tokens(recording, targets)
                rest = logits.gather(1, targets[:, None])[:, 0] - maps.mean((1, 2))
                return Contributions(maps, rest, logits, None)
        features = self.features(recording).float()
        weights = []
        for part, slope in zip(recording.parts, slopes, strict=True):
            one = part.layout.to_map(slope, recording.image)
            weights.append(_repeated(one * one[0, 0].numel(), features.shape[2:]))
        weight = torch.cat(weights, 1)
        maps = weighted_sum(features, weight)
        rest = logits.gather(1, targets[:, None])[:, 0] - maps.mean((1, 2))
        return Contributions(maps, rest, logits, weight[:, :, 0, 0] if self.uniform else weight)

    def run(self, recording: Recording, features: Tensor) -> Tensor:
        """Logits (B, K) of feature maps (B, C, h, w) in place of the recorded ones."""
        starts, first = [], 0
        for part, start in zip(recording.parts, recording.starts, strict=True):
            original = single(recording.values[start])
            shape = part.layout.to_map(original, recording.image).shape
            one = F.adaptive_avg_pool2d(features[:, first : first + shape[1]], (shape[2], shape[3]))
            starts.append(part.layout.from_map(one, original, recording.image))
            first += shape[1]
        return recording.run(starts)

    def gradient_start(self, recording: Recording) -> Recording:
        """The recording from the map whose gradient is not zero at the positions of the image.

        It is that of the last feature map, but for a class token: there it is the map that the last attention
        reads, after its norm; later, only the token is read.
        """
        if self._inner is None or self.kind != "patch tokens":
            return recording
        return recording.starting_at([self._inner])

    def attention(self, recording: Recording, targets: Tensor) -> Tensor:
        """Gradient-weighted attention of a class token in the last layer of attention.

        The mean over heads of max(0, A dy/dA), with the attention A and the logit y (Chefer et al.,
        "Generic Attention-model Explainability", ICCV 2021, eq. 5), in the row of the class token.

        Returns:
            (B, h, w) float32.

        Raises:
            InputError: the model reads its logits from no class token.
        """
        if self._inner is None:
            raise InputError(f"{model_name(self.model)} reads no class token, whose attention could be used")
        inner = recording.starting_at([self._inner])
        layout = self._inner.layout
        found: list[Tensor] = []

        def apply(operation: Operation, args: Any, kwargs: Any) -> Any:
            result = as_is(operation, args, kwargs)
            if operation.name not in SOFTMAX:
                return result
            found.append(result.detach().requires_grad_())
            return found[-1]

        with torch.inference_mode(False), torch.enable_grad():
            targets = targets.clone()
            logits = inner.run([single(inner.values[start]) for start in inner.starts], apply)
            attention = found[-1]
            (slope,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), attention)
        heads = (attention.detach() * slope).clamp_min(0)  # (B, heads, rows, tokens)
        rows = heads.shape[-2]
        tokens = heads[..., : layout.prefix, :] if rows == heads.shape[-1] else heads
        grid = layout.grid(inner.values[inner.starts[0]].shape, recording.image)
        assert grid is not None
        mean = tokens.flatten(1, -2).mean(1)[:, -grid[0] * grid[1] :]
        return mean.reshape(len(mean), *grid)

    # ------------------------------------------------------------------------------- finding it

    def _start_at(self, graph: Graph, numbers: Sequence[int]) -> None:
        """Note where a forward pass has these maps, and where to begin to record."""
        origins = [graph.origin(number) for number in numbers]
        self._boundary = graph.boundary_before(min(graph.producer[origin] for origin in origins))
        self._parts = []
        for number, origin in zip(numbers, origins, strict=True):
            layout = graph.layout(number)
            assert layout is not None
            layout = replace(layout, flipped=graph.mirrored(number))
            position = graph.producer[origin]
            before = graph.operations[self._boundary.position : position]
            step = sum(operation.name not in RESHAPING for operation in before)
            output = graph.operations[position].outputs.index(origin)
            moves = sum(one.name in MOVING for one in graph.between(origin, number))
            channels = layout.channels(graph.shapes[number])
            self._parts.append(Part(step, output, moves, channels, layout))

    def _examine(self, graph: Graph, target: int, found: list[int], images: Tensor) -> None:
        """Find out what the class map of the model is, on images other than those of the graph."""
        recording = self.record(images)
        self.num_classes, self.activation = recording.logits.shape[1], recording.activation
        if getattr(self.model, "num_classes", None) == 0:
            self.reason = "it has no classifier (num_classes=0): what it returns are features, not logits"
        if self.reason:
            return
        try:
            self._affine = Affine(recording)
        except NotAffine as error:
            self.reason = str(error)
            return
        targets = torch.arange(len(images), device=images.device) % self.num_classes
        weights, logits = self._affine.contributions(recording, targets)
        _check_logits(self.model, logits, recording.logits)
        if any(part.layout.has_tokens for part in self._parts):
            layouts = [
                _oriented(part.layout, weight, recording.image)
                for part, weight in zip(self._parts, weights, strict=True)
            ]
            self._parts = [
                replace(part, layout=layout, channels=layout.channels(weight.shape))
                for part, layout, weight in zip(self._parts, layouts, weights, strict=True)
            ]
            recording = recording.starting_at(self._parts)
        prefixes = [self._split(part, weight) for part, weight in zip(self._parts, weights, strict=True)]
        if any(token and not patch for token, patch in prefixes):
            self._read_class_token(graph, target, found)
        elif any(token for token, _ in prefixes):
            self.kind = "patch tokens beside other tokens"
            if len(found) == 1:
                self._find_attended(graph, target, found)
        else:
            self._name(recording, weights)

    @staticmethod
    def _split(part: Part, weight: Tensor) -> tuple[bool, bool]:
        """Whether the logits read tokens before those of the image, and the positions of the image."""
        if not part.layout.prefix:
            return False, True
        tokens = weight if part.layout.kind == "token channels" else weight.transpose(1, 2)
        first, rest = tokens[..., : part.layout.prefix], tokens[..., part.layout.prefix :]
        size = weight.abs().max()
        return bool(first.abs().max() > 1e-6 * size), bool(rest.abs().max() > 1e-6 * size)

    def _name(self, recording: Recording, weights: Sequence[Tensor]) -> None:
        """Name an exact map by what is between the feature map and the logits."""
        slopes = [p.layout.to_map(w, recording.image) for p, w in zip(self._parts, weights, strict=True)]
        spread = [(slope - slope[:, :, :1, :1]).abs().max() for slope in slopes]
        self.uniform = all(bool(one <= 1e-5 * s.abs().max()) for one, s in zip(spread, slopes, strict=True))
        if len(slopes) > 1:
            self.kind = f"sum of {len(slopes)} maps"
        elif any(operation.name in SOFTMAX for operation in recording.needed):
            self.kind = "attention pooling"
        elif not self.uniform:
            self.kind = "positional weights"
        elif slopes[0].shape[1] == self.num_classes > 1 and bool(
            ((slopes[0][:, :, 0, 0] != 0).sum(1) == 1).all()
        ):
            self.kind = "class map"
        else:
            self.kind = "class weights"

    def _read_class_token(self, graph: Graph, target: int, found: list[int]) -> None:
        """Prepare the approximations of a model that reads its logits from class tokens."""
        self.kind = "patch tokens"
        if len(found) > 1:
            self._affine, self.reason = None, "its logits are read from class tokens of several branches"
            return
        self._find_attended(graph, target, found)

    def _find_attended(self, graph: Graph, target: int, found: list[int]) -> None:
        """Find the tokens that the last attention reads."""
        for number in graph.dominators(target):
            if not number or number >= found[0] or not graph.has_tokens(number):
                continue
            layers = [one for one in graph.between(number, target) if one.name in _ATTENTION]
            if layers:
                # The tokens as the attention reads them, after a norm: through a norm, which does not change
                # if its input is scaled, the gradient times the input is zero.
                read = [one for one in graph.dominators(layers[0].outputs[0]) if graph.has_tokens(one)]
                (last,) = self._parts  # its layout may have been found by value
                self._start_at(graph, [found[0], min((one for one in read if one > number), default=number)])
                self._inner = self._parts.pop()
                self._parts = [replace(self._parts[0], layout=last.layout, channels=last.channels)]
                return

    def _rules(self, recording: Recording) -> Affine:
        try:
            return Affine(recording)
        except NotAffine as error:
            raise InputError(f"{model_name(self.model)}: {error}") from error

    def _patch_tokens(self, recording: Recording, targets: Tensor) -> Tensor:
        """(B, h, w): the logit of a class where each patch token stands in place of the class tokens."""
        (part,), (start,) = self._parts, recording.starts
        tokens = single(recording.values[start])
        axis = 1 if part.layout.kind == "tokens" else 2
        place, patches = tokens.narrow(axis, 0, part.layout.prefix), part.layout.prefix
        logits = []
        for index in range(patches, tokens.shape[axis]):
            place.copy_(tokens.narrow(axis, index, 1).expand_as(place))
            logits.append(recording.run([tokens.clone()]).gather(1, targets[:, None])[:, 0])
        grid = part.layout.grid(tokens.shape, recording.image)
        assert grid is not None
        return torch.stack(logits, 1).view(len(tokens), *grid)


def _oriented(layout: Layout, weights: Tensor, image: Sequence[int]) -> Layout:
    """The layout of tokens by their weights: where tokens are averaged, a channel has one weight.

    The shape alone leaves open which axis has the positions where both could.
    """
    axes = {"tokens": 1, "token channels": 2}
    if layout.kind not in axes:
        return layout
    constant = {
        kind: weights.ndim == 3
        and bool((weights - weights.narrow(axis, 0, 1)).abs().max() <= 1e-5 * weights.abs().max())
        for kind, axis in axes.items()
    }
    if constant[layout.kind]:
        return layout
    for other in (Layout("tokens"), Layout("token channels")):
        if constant[other.kind] and other.grid(weights.shape, image) is not None:
            return other
    return layout


def _check_logits(model: nn.Module, found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-4 if expected.dtype not in HALF else 64 * torch.finfo(expected.dtype).eps
    expected = expected.to(found.dtype)
    if bool((found - expected).norm() > tolerance * expected.norm() + 1e-9):
        raise InputError(f"{model_name(model)}: its logits could not be computed again from its last map")


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """Features (B, C, h, w), weighted by (B, C), (C,) or (B, C, h, w) and summed over channels; float32.

    Returns:
        (B, h, w).
    """
    batch, channels, height, width = features.shape
    if weights.ndim == 4:
        return (weights.float() * features.float()).sum(1)
    weights = weights.float().expand(batch, channels)
    return (weights[:, None] @ features.float().reshape(batch, channels, -1)).view(batch, height, width)


def _repeated(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, C, h, w) maps on a finer grid whose sides are multiples; means stay the same."""
    rows, columns = (side // own for side, own in zip(grid, maps.shape[2:], strict=True))
    return maps.repeat_interleave(rows, 2).repeat_interleave(columns, 3) if rows * columns > 1 else maps


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention layers compute their steps one by one, not in one operation without derivatives."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def record_graph(
    model: nn.Module, select: Select, images: Tensor, recorder: Recorder, small: bool = False
) -> tuple[Graph, int, Tensor]:
    """The graph of one forward pass, the number of the logits in it, and what the model returns.

    Raises:
        InputError: the model returns no logits, or none that are computed from the images.
        ValueError: it does not accept images of this size, of which it returns logits of another number.
    """
    boundaries: list[Boundary] = []
    calls: Counter[tuple[nn.Module, str]] = Counter()

    def note(module: nn.Module, side: Literal["input", "output"]) -> None:
        if isinstance(module, torch.jit.RecursiveScriptModule):  # which takes no hooks
            return
        boundaries.append(Boundary(module, side, calls[module, side], len(recorder.operations)))
        calls[module, side] += 1

    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_plain_attention())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(
            hooked(model, lambda one, _: note(one, "input"), lambda one, *_: note(one, "output"))
        )
        recorder.add(images)
        with recorder:
            output = select(model(images))
    if len(output) != len(images):  # view(-1, C) of images of another size
        raise ValueError(f"it returns logits of {len(output)} images for {len(images)}")
    if not boundaries:
        raise InputError(f"{model_name(model)} has no module that takes hooks")
    number = recorder.number(output)
    graph = Graph(recorder, boundaries, images.shape[2:], small)
    if number is None or not graph.depends(number):
        raise InputError(
            f"{model_name(model)} returns logits that no operation of PyTorch computes from the images"
        )
    return graph, final_activation(graph.operations, number)[0], output


def find_feature_maps(graph: Graph, target: int, seen: set[int] | None = None) -> list[int]:
    """The last feature maps through which every path from the images to the logits leads.

    One map is looked for first. Where only the images or a map deep inside the network lead to the logits,
    each of the values that the logits are put together from is looked at in turn: ensembles, mirrored
    copies, branches.

    Returns:
        numbers of the maps; empty where there are none.
    """
    for number in graph.dominators(target):
        if number == 0:
            break
        if graph.layout(number) is None:
            continue
        if not _is_head(graph, number, target):
            break
        return [_before_pooling(graph, _before_token(graph, target, number))]
    seen = set() if seen is None else seen
    position = graph.producer.get(target)
    if position is None or graph.layout(target) is not None or len(seen) > _MOST_BRANCHES:
        return []
    operation = graph.operations[position]
    if _is_trunk(operation, graph) or operation.name in _ATTENTION:
        return []
    seen.add(target)
    found: list[int] = []
    for source in dict.fromkeys(operation.inputs):
        if graph.depends(source) and source not in seen:
            maps = find_feature_maps(graph, source, seen)
            if not maps:
                return []
            found += [one for one in maps if one not in found]
    return found


def _is_trunk(operation: Operation, graph: Graph) -> bool:
    """Whether an operation belongs to the network before its head: a convolution that leaves a map.

    On a small image also one that leaves a single position, and pooling in windows, may leave a map of an
    image of the usual size.
    """
    if operation.name in _WINDOWS:
        return graph.small
    if operation.name != "convolution" or math.prod(operation.shapes[1][2:]) == 1:
        return False
    return graph.small or math.prod(graph.shapes[operation.outputs[0]][2:]) > 1


def _before_token(graph: Graph, target: int, number: int) -> int:
    """The tokens from which a further one was computed, such as their mean, by a head alone."""
    layout = graph.layout(number)
    if layout is None or not layout.prefix:
        return number
    for earlier in graph.dominators(target):
        if earlier == 0 or not _is_head(graph, earlier, target):
            break
        layout = graph.layout(earlier)
        if earlier < number and layout is not None and layout.prefix == 0:
            return earlier
    return number


def _is_head(graph: Graph, number: int, target: int) -> bool:
    """Whether what is between a map and the logits is a head: no convolution, no more than one attention."""
    after = graph.between(number, target)
    layers = sum(operation.name in _ATTENTION for operation in after)
    return layers <= _MOST_ATTENTION and not any(_is_trunk(operation, graph) for operation in after)


def _before_pooling(graph: Graph, number: int) -> int:
    """The map from which a map was only reshaped, so that its rows and columns are certain, or pooled.

    A map that is pooled to a fixed grid may be finer before.
    """
    found = at = number
    while True:
        operation = graph.operations[graph.producer[at]]
        if operation.name not in (*RESHAPING, "adaptive_avg_pool2d"):
            return found
        sources = [source for source in operation.inputs if graph.depends(source)]
        if len(sources) != 1 or sources[0] == 0:
            return found
        (at,) = sources
        layout = graph.layout(at)
        if layout is not None and (operation.name == "adaptive_avg_pool2d" or not layout.has_tokens):
            found = at
