"""The last feature map of a classifier, and the class weights that map it to logits.

A class activation map is exact, that is, its spatial mean plus a bias equals the logit, only if everything
between feature map and logit is linear. Many heads are not linear: they have BatchNorm before the pooling
(RepLKNet), LayerNorm after it (ConvNeXt), or a hidden layer with an activation (MobileNetV3). All of these
are *affine for a given image*, so they can be folded exactly into the weights of the class for each image.

The head is not looked up in a list of architectures. It is found by tracing the forward pass of a small
random image. Where it is a chain of modules from a global average pooling to the logits, its weights are
folded in closed form (`heatbox.models.chains`). Every other head is read from the recorded operations
(`heatbox.models.heads`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from heatbox._utils.checks import check_choice, check_integer, check_module, check_tensor
from heatbox.errors import AssumptionWarning, InputError
from heatbox.models.affine import OtherPath, Recording
from heatbox.models.chains import FoldedHead, close, find_chain, noise, traced
from heatbox.models.forms import refusal
from heatbox.models.heads import Contributions, NoFeatureMap, RecordedHead, Select, record_graph, weighted_sum
from heatbox.models.outputs import select_output
from heatbox.models.recording import Recorder
from heatbox.models.spec import (
    as_input,
    eval_mode,
    execution_device,
    input_size,
    model_name,
    unchanged,
    unwrap,
)
from heatbox.models.stages import (
    SharpOffset,
    StageOutput,
    capture_stages,
    find_last_stage_input,
    find_outputs,
    find_sharp_offset,
    find_stages,
    stitched,
)


@dataclass(frozen=True)
class ModelOutput:
    """Outputs of one forward pass.

    Attributes:
        features: (B, C, h, w), the feature map that the head reads.
        logits: (B, K).
        middle: outputs (B, C_i, h_i, w_i) of the stages before the last one, finest first.
        sharp: (B, C, 2 h, 2 w), the last feature map at twice the resolution, if requested; a side is one
            less where the last stage rounds an odd one up.
    """

    features: Tensor
    logits: Tensor
    middle: tuple[Tensor, ...]
    sharp: Tensor | None


@dataclass(frozen=True)
class _Source:
    """The forward pass that a feature map is from.

    Attributes:
        recording: of the pass.
        batch: number of images B; the pass is of 4 B where its last stage was run on shifted inputs.
        stitched: the offset and (height, width) of a sharp map; None for an ordinary one.
    """

    recording: Recording
    batch: int
    stitched: tuple[SharpOffset, tuple[int, int]] | None = None


class ClassifierView:
    """The feature map of a classifier, and what its positions contribute to the logits.

    Works on any network that computes logits from images by way of a feature map: (B, C, h, w), (B, h, w, C)
    or tokens (B, N, C). What the map of a class is depends on what follows, see `kind` and `class_maps`.

    Args:
        model: the classifier; images (B, C, H, W) → logits (B, K), alone or in a container. It is not
            changed, and its training mode is restored after every use.
        output: which of several outputs are the logits, see `heatbox.models.outputs.select_output`.
        size: (height, width) of images that the model accepts; by default its own input size.

    Attributes:
        activation: "softmax" or "sigmoid" if the model ends in one, else None. Logits are those before it.
        kind: what the class map is, see `class_maps`.
        reason: why there is no exact class map; "" if there is one.

    Raises:
        InputError: the model returns no logits, or does not compute them from a feature map.
        TypeError: not an `nn.Module`.
    """

    def __init__(
        self, model: nn.Module, output: str | int | None = None, size: Sequence[int] | None = None
    ) -> None:
        check_module(model, "model")
        check_weights(model)
        self.model = unwrap(model)
        self._output = output
        self._size = None if size is None else (size[0], size[1])
        self._offsets: dict[tuple[int, int], SharpOffset] = {}
        self._accepted: dict[int, bool] = {}
        self._sources: Any = WeakIdKeyDictionary()
        try:
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                eval_mode(self.model),
                unchanged(self.model),
            ):
                self._head = _find_head(self.model, self._select, size)
        except (InputError, AttributeError, NotImplementedError) as error:
            if form := refusal(self.model):
                raise InputError(f"{model_name(self.model)} {form}") from error
            raise
        self.activation: str | None = self._head.activation
        self.kind: str = self._head.kind
        self.reason: str = self._head.reason and (refusal(self.model) or self._head.reason)

    def _select(self, output: Any) -> Tensor:
        return select_output(output, self._output)

    @property
    def has_features(self) -> bool:
        """Whether the model computes its logits from a feature map."""
        return not isinstance(self._head, OpaqueHead)

    @property
    def exact(self) -> bool:
        """Whether the mean of a class map and its bias are the logit, both from the image's positions."""
        return not self.reason and self.kind not in APPROXIMATE

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, whose rows are the raw class weights.

        Raises:
            InputError: the logits are not the output of such a layer.
        """
        layer = self._head.classifier
        if layer is None:
            raise InputError(
                f"{model_name(self.model)} does not end in a linear layer with a row for each class"
            )
        return layer

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return self._head.num_classes

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the classifier once, in eval mode.

        Args:
            images: (B, C, H, W), preprocessed as the model expects.

        Returns:
            features (B, C, h, w), the feature map that the head reads, and logits (B, K).

        Raises:
            InputError: images of another number of dimensions.
            TypeError: not a tensor.
        """
        output = self.extract(images, 0)
        return output.features, output.logits

    @cached_property
    def _probed(self) -> tuple[list[StageOutput], tuple[int, int] | None]:
        """Outputs of modules, and the size of the probe if the model does not run on its own size."""
        with eval_mode(self.model):
            try:
                return find_outputs(self.model, self._head), None
            except Exception:  # a model can raise anything on a size that it is not made for
                if self._size is None:
                    raise
            return find_outputs(self.model, self._head, self._size), self._size

    @property
    def _outputs(self) -> list[StageOutput]:
        return self._probed[0]

    @cached_property
    def stages(self) -> list[StageOutput]:
        """Where the stages before the last one end, finest first."""
        return find_stages(self.model, self._outputs)

    @cached_property
    def last_stage_input(self) -> StageOutput:
        """The input of the last stage, which is shifted for a sharp feature map.

        Raises:
            InputError: the last stage does not double the stride, or cannot be run alone.
        """
        with eval_mode(self.model):
            return find_last_stage_input(self.model, self._head, *self._probed)

    @cached_property
    def is_isotropic(self) -> bool:
        """Whether the middle maps are as coarse as the last feature map, as in a ViT."""
        return bool(self.stages) and all(stage.size == (1, 1) for stage in self.stages[-2:])

    def accepts(self, factor: int) -> bool:
        """Whether the model runs on images of its own size times a factor."""
        if factor not in self._accepted:
            channels, *own = input_size(self.model)
            height, width = self._probed[1] or own
            images = as_input(self.model, torch.zeros(1, channels, factor * height, factor * width))
            try:
                with eval_mode(self.model), unchanged(self.model), torch.no_grad():
                    features, logits, _ = self._head(images)
                self._accepted[factor] = len(logits) == len(features)
            except Exception:  # a model of one size can raise anything
                self._accepted[factor] = False
        return self._accepted[factor]

    def sharp_offset(self, size: Sequence[int]) -> SharpOffset:
        """Which positions of the sharp map are those of the last feature map.

        For (row, column), 0 or 1 each, they are ``sharp[:, :, row::2, column::2]``.

        Args:
            size: (height, width) of the images.

        Raises:
            InputError: as `last_stage_input`.
        """
        height, width = size
        if (height, width) not in self._offsets:
            self._offsets[height, width] = find_sharp_offset(self.model, self.last_stage_input, size)
        return self._offsets[height, width]

    def extract(self, images: Tensor, layers: int = 2, sharp: bool = False) -> ModelOutput:
        """Run the classifier once, in eval mode, and keep the outputs of its middle layers.

        Args:
            images: (B, C, H, W), preprocessed as the model expects.
            layers: number of stages before the last whose outputs are kept, at most as many as there are: 2
                are those at strides 8 and 16 of a network of stride 32.
            sharp: also run the last stage on shifted inputs for a feature map of twice the resolution, see
                `heatbox.models.stages`. Features and logits do not change.

        Raises:
            InputError: a sharp map of a model whose last stage cannot be run alone, images of another
                number of dimensions, or negative `layers`.
            TypeError: not a tensor, or not an integer.
        """
        check_tensor(images, "images", "(B, C, H, W)")
        if images.ndim != 4:
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W)")
        check_integer(layers, "layers", 0)
        stages = self.stages[-layers:] if layers else []
        shifted = self.last_stage_input if sharp else None
        offset = self.sharp_offset(images.shape[2:]) if sharp else (False, False)
        with (
            eval_mode(self.model),
            capture_stages(stages, images.shape[2:], shifted, offset) as outputs,
        ):
            features, logits, recording = self._head(images)
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore[no-untyped-call]
            self._check_path(images, features, logits)
        batch = images.shape[0]
        middle = tuple(outputs[stage][:batch] for stage in stages)  # after the shift there are four batches
        sharpened = None
        if shifted is not None:
            height, width = outputs[shifted].shape[2:]
            sharpened = stitched(features, offset)[:, :, :height, :width]
            features, logits = features[:batch], logits[:batch]
        if recording is not None:
            self._sources[features] = _Source(recording, batch)
            if sharpened is not None:
                self._sources[sharpened] = _Source(recording, batch, (offset, (height, width)))
        return ModelOutput(features, logits, middle, sharpened)

    def _check_path(self, images: Tensor, features: Tensor, logits: Tensor) -> None:
        """Raise where a pass is of other modules than those of the head; warn where its logits overflow."""
        if len(logits) != len(features):
            raise InputError(
                f"{model_name(self.model)} returns logits of {len(logits)} images for {len(features)} of "
                f"{images.shape[2]} x {images.shape[3]} pixels, expected images of the size it is made for"
            )
        if isinstance(self._head, FoldedHead):
            with torch.no_grad():
                if not self._head.fits(features, logits):
                    raise OtherPath(model_name(self.model))
        if not bool((logits.detach() < math.inf).all()):  # nor NaN; classes may be masked by -inf
            what = "its logits of some images are infinite or NaN, so their boxes are none or wrong"
            why = "half precision overflows, or the images are not finite"
            warnings.warn(f"{model_name(self.model)}: {what}; perhaps {why}", AssumptionWarning, 4)

    def look(self, images: Tensor, layers: int = 2, sharp: bool = False) -> ModelOutput:
        """Deprecated: use `extract`."""
        message = "ClassifierView.look is deprecated and removed in heatbox 0.3; use ClassifierView.extract"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.extract(images, layers, sharp)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map alone, (B, C, h, w)."""
        return self(images)[0]

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a feature map (B, C, h, w).

        Args:
            features: from this view; any map, where the head is a chain of modules on its spatial mean.
        """
        if isinstance(self._head, FoldedHead):
            return self._head.logits(features)
        return self._recorded.run(self._source(features).recording, features)

    def gradient_features(self, features: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The last map with a gradient at every position, and the function of it that returns the logits.

        It is the feature map itself but for models that read a class token: after the last attention only
        the token has a gradient, so it is the map that this attention reads.

        Args:
            features: (B, C, h, w) from this view.
        """
        if isinstance(self._head, FoldedHead):
            return features, self._head.logits
        source = self._source(features)
        if source.stitched is not None:
            raise InputError(
                f"{model_name(self.model)}: its sharp map has no gradient, expected its last map"
            )
        head = self._recorded
        recording = head.gradient_start(source.recording)
        return head.features(recording), lambda value: head.run(recording, value)

    def attention(self, features: Tensor, targets: Tensor) -> Tensor:
        """Gradient-weighted attention of a class token, (B, h, w); see `RecordedHead.attention`.

        Raises:
            InputError: the model has no class token.
        """
        if not isinstance(self._head, RecordedHead):
            raise InputError(f"{model_name(self.model)} has no class token whose attention could be used")
        return self._head.attention(self._source(features).recording, targets)

    def contributions(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"] = "fold"
    ) -> Contributions:
        """What the positions of a feature map contribute to the logits of a class, see `class_maps`.

        Args:
            features: (B, C, h, w) from this view.
            targets: (B,) int64, one class per image.
            norm: see `class_weights`.

        Raises:
            InputError: the model has no class map (`reason`); a target outside 0..K-1.
        """
        self._check_targets(targets)
        if isinstance(self._head, OpaqueHead):
            raise InputError(f"{model_name(self.model)}: {self.reason}")
        if features.shape[2:] == (1, 1):
            raise InputError(
                f"{model_name(self.model)}: these images leave one position of its last feature map, so "
                "there is no map; use larger images"
            )
        if isinstance(self._head, FoldedHead):
            weights, bias = self._head.class_weights(features, targets, norm)
            logits = self._head.logits(features)
            return Contributions(weighted_sum(features, weights), bias, logits, weights)
        if norm == "ignore":
            raise InputError(
                f"norm='ignore' needs a head of modules on the mean of the map: {self._described}"
            )
        source = self._source(features)
        runs = len(source.recording.logits) // source.batch
        found = self._head.contributions(source.recording, targets.repeat(runs))
        first = slice(source.batch)
        maps, row_weights = found.maps[first], found.weights
        if source.stitched is not None:
            offset, (height, width) = source.stitched
            maps = stitched(found.maps[:, None], offset)[:, 0, :height, :width]
            row_weights = row_weights if row_weights is not None and row_weights.ndim == 2 else None
        if row_weights is not None:
            row_weights = row_weights[first]
        return Contributions(maps, found.bias[first], found.logits[first], row_weights)

    def class_weights(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"] = "fold"
    ) -> tuple[Tensor, Tensor]:
        """Weights and bias that turn the spatial mean of the feature map into the logit of a class.

        With ``norm="fold"``: ``(features.mean((2, 3)) * weights).sum(1) + bias`` equals the logit, for
        every image (supplement 11, eq. 2, made exact for heads that are not purely linear).

        Args:
            features: (B, C, h, w) from this view.
            targets: (B,) int64, one class per image.
            norm: "fold" is exact; "ignore" returns the classifier's raw row, as the paper's released code
                multiplies it with raw features.

        Returns:
            weights (B, C) and bias (B,), float32, on the device of the features.

        Raises:
            InputError: a target outside 0..K-1; or "ignore" on a head with a hidden layer, whose rows
                do not match the channels of the feature map; or an unknown `norm`; or a model whose class
                map has other weights at every position, or none.
            TypeError: not tensors, or targets that are not integers.
        """
        check_tensor(features, "features", "(B, C, h, w)")
        check_choice(norm, "norm", ("fold", "ignore"))
        if isinstance(self._head, FoldedHead):
            self._check_targets(targets)
            return self._head.class_weights(features, targets, norm)
        found = self.contributions(features, targets, norm)
        if found.weights is None or found.weights.ndim != 2:
            raise InputError(f"the channels of the last feature map have no class weights: {self._described}")
        return found.weights, found.bias

    @property
    def _recorded(self) -> RecordedHead:
        if not isinstance(self._head, RecordedHead):
            raise InputError(f"{model_name(self.model)}: {self.reason}")
        return self._head

    @property
    def _described(self) -> str:
        return f"{model_name(self.model)} has {self.kind or self.reason}"

    def _source(self, features: Tensor) -> _Source:
        source: _Source | None = self._sources.get(features)
        if source is None:
            raise InputError(
                f"{model_name(self.model)}: its head is known only for feature maps that this view returned, "
                "not for a copy of one"
            )
        return source

    def _check_targets(self, targets: Tensor) -> None:
        check_tensor(targets, "targets", "(B,) of class indices")
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise TypeError(f"targets: a tensor of {targets.dtype}, expected class indices in torch.int64")
        if torch.compiler.is_compiling():
            return  # values are not known while a graph is recorded
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= self.num_classes):
            bad = targets[(targets < 0) | (targets >= self.num_classes)][0].item()
            raise InputError(
                f"class {bad} is out of range: the model has classes 0 to {self.num_classes - 1}"
            )


APPROXIMATE = ("patch tokens", "patch tokens beside other tokens")
"""Kinds of class maps that leave out what the logits read from a class token."""


@dataclass(frozen=True)
class ClassMaps:
    """Class maps of a batch of images.

    Attributes:
        maps: (B, h, w) float32 in logit units.
        bias: (B,) float32: the part of the logit that no position contributes to.
        logits: (B, K) float32.
        targets: (B,) int64, the class of each map.
        exact: whether ``maps.mean((1, 2)) + bias == logits[targets]`` with a bias that does not depend on the
            positions of the image otherwise.
        kind: what the map is: "class weights" (one weight a channel, after Zhou et al., CVPR 2016), "class
            map" (the network pools one map a class), "positional weights" (linear layers on the flattened
            map), "attention pooling", "sum of N maps"; or, not exact, "patch tokens" (the logit of each patch
            token in place of the class token) and "patch tokens beside other tokens".
    """

    maps: Tensor
    bias: Tensor
    logits: Tensor
    targets: Tensor
    exact: bool
    kind: str


_latest: tuple[Any, ClassifierView] | None = None
"""The view of the model that `class_maps` was last called with, and what it was made for."""


def class_maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    output: str | int | None = None,
) -> ClassMaps:
    """Maps of what each position of the images contributes to the logit of a class.

    The contributions of all positions, times their number, so that ``maps.mean((1, 2)) + bias`` is the
    logit wherever `ClassMaps.exact`. For a network that ends in global average pooling and a linear layer
    this is the class activation map (Zhou et al., CVPR 2016); `heatbox.models.heads` describes the others.

    Args:
        model: the classifier, in any mode; it is not changed. Its head is found at the first call, and again
            after another model or after a module was replaced; a `ClassifierView` keeps it.
        images: (B, C, H, W), preprocessed as the model expects, on any device.
        targets: (B,) a class for each image; by default the predicted one.
        output: which of several outputs of the model are the logits.

    Raises:
        InputError: a model without class maps, with the reason; images or targets of a wrong shape.
        TypeError: not a model, images or class indices.

    Examples:
        >>> from heatbox import create_model
        >>> model = create_model("test_resnet", num_classes=3)
        >>> found = class_maps(model, torch.randn(2, 3, 64, 64))
        >>> found.exact, found.kind
        (True, 'class weights')
        >>> logits = found.logits.gather(1, found.targets[:, None])[:, 0]
        >>> torch.allclose(found.maps.mean((1, 2)) + found.bias, logits, rtol=1e-4)
        True
    """
    check_module(model, "model")
    global _latest
    check_tensor(images, "images", "(B, C, H, W)")
    if images.ndim != 4:
        raise InputError(f"images have shape {tuple(images.shape)}, expected (B, C, H, W)")
    signature = (output, *map(id, model.modules()))
    found = None
    if _latest is not None and _latest[0] == signature:
        with suppress(OtherPath):
            found = _class_maps(_latest[1], images, targets)
    if found is None:  # another model, or one whose head was exchanged
        _latest = None  # frees the model before
        _latest = (signature, ClassifierView(model, output, images.shape[2:]))
        found = _class_maps(_latest[1], images, targets)
    if found is None:
        raise InputError(f"{model_name(model)}: its logits do not follow from the head that was found")
    return found


def _class_maps(
    view: ClassifierView, images: Tensor, targets: Tensor | Sequence[int] | None
) -> ClassMaps | None:
    """See `class_maps`; None if the head of the view gives other logits than the model."""
    with torch.no_grad():
        features, logits = view(as_input(view.model, images))
        wanted = logits.argmax(1) if targets is None else torch.as_tensor(targets, device=logits.device)
        if wanted.shape != (len(logits),):
            raise InputError(f"targets have shape {tuple(wanted.shape)}, expected ({len(logits)},)")
        found = view.contributions(features, wanted)
    if len(found.logits) and not close(found.logits, logits):
        return None
    own = logits if logits.dtype == found.logits.dtype else found.logits
    return ClassMaps(found.maps, found.bias, own, wanted.long(), view.exact, view.kind)


class OpaqueHead:
    """What a model computes from images without a feature map: no map but that of a function of one's own."""

    activation = None
    classifier = None
    kind = ""

    def __init__(self, model: nn.Module, select: Select, num_classes: int, reason: str) -> None:
        self.model, self.select, self.num_classes, self.reason = model, select, num_classes, reason

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, None]:
        """An empty map (B, 0, 1, 1) and logits (B, K) of images."""
        return images.new_zeros((len(images), 0, 1, 1)), self.select(self.model(images)), None


Head = FoldedHead | RecordedHead | OpaqueHead

_USUAL_SIDES = (224, 256, 384, 32, 28, 128, 512)
"""Sides of images that are tried, in order, with a model whose own size is unknown and not 224."""


def check_weights(model: nn.Module) -> None:
    """Raise unless every parameter has values.

    Raises:
        InputError: layers that take their sizes from the first images, a model on the device "meta", or one
            that accelerate offloads.
    """
    for name, value in model.named_parameters():
        if torch.nn.parameter.is_lazy(value):
            raise InputError(
                f"{model_name(model)}: {name} has no values yet, because a lazy layer takes its size from "
                "the first images; run the model once, or load its weights"
            )
        if value.is_meta:
            offloaded = execution_device(model) is not None
            raise InputError(
                f"{model_name(model)}: {name} "
                + (
                    "is offloaded by accelerate, but class maps need all weights in memory; load the model "
                    "without offloading"
                    if offloaded
                    else "has no values, because it is on the device meta; load its weights"
                )
            )


def _find_head(model: nn.Module, select: Select, size: Sequence[int] | None) -> Head:
    """Look for a head with small random images, then with images of the model's own size.

    A small image takes less time, but many networks of one size do not accept it, and a network of large
    stride leaves one position of it.

    Raises:
        InputError: see `ClassifierView`.
    """
    channels, *own = input_size(model)
    wanted = own if size is None else size
    sides = [(wanted[0], wanted[1]), (own[0], own[1]), *((side, side) for side in _USUAL_SIDES)]
    failure, only = "", None
    for side in dict.fromkeys([(64, 64), *sides]):
        recorder = Recorder(keep=False)
        shape = (channels, side[0], side[1])
        images = noise(model, shape, 0)
        try:
            with traced(model) as calls:
                graph, target, output = record_graph(model, select, images, recorder, side == (64, 64))
        except InputError:
            raise
        except Exception as error:  # on images that it is not made for, a model can raise anything
            if side != (64, 64):
                failure = failure or (
                    f"{model_name(model)} could not be run on a random image of {side[0]} x {side[1]} "
                    f"pixels: {error}"
                )
            continue
        if failure and size is not None:
            raise InputError(f"{failure}; it runs on {side[0]} x {side[1]} pixels (--size {side[0]})")
        folded = find_chain(model, select, calls, output, images)
        if folded is not None:
            return folded
        more = noise(model, shape, 1)[:1]
        try:
            return RecordedHead(model, select, graph, target, more, small=side == (64, 64))
        except NoFeatureMap as error:
            only = only or (graph, target, more)  # perhaps the one size that the model accepts
            if side != (64, 64):
                return OpaqueHead(model, select, math.prod(graph.shapes[target][1:]), str(error))
    if only is None:
        raise InputError(failure)
    try:
        return RecordedHead(model, select, *only, small=False)
    except NoFeatureMap as error:
        return OpaqueHead(model, select, math.prod(only[0].shapes[only[1]][1:]), str(error))
