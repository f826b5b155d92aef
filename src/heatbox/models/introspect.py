"""See through a classifier: its last feature map, and the class weights that turn it into logits.

A class activation map is exact, that is, its spatial mean plus a bias equals the logit, only if everything
between feature map and logit is linear. Real heads are not: BatchNorm before the pooling (RepLKNet),
LayerNorm after it (ConvNeXt), a hidden layer with an activation (MobileNetV3). All of these are *affine for
one given image*, so they can be folded into the weights of the class, image by image, without error.
`heatbox.models.head` finds the steps, `heatbox.models.folding` folds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from heatbox._utils.checks import check_choice, check_module, check_tensor, check_whole
from heatbox.errors import InputError
from heatbox.models.folding import apply_step, bias_of, fold_step, matrix_of
from heatbox.models.head import eval_mode, find_head, replaced, tapped
from heatbox.models.stages import Late, Spot, centred_late, find_shift, find_stages, stitched, watched


@dataclass(frozen=True)
class ModelOutput:
    """What one forward pass shows.

    Attributes:
        features: (B, C, h, w), the map that the head reads.
        logits: (B, K).
        middle: maps (B, C_i, h_i, w_i) at the ends of the last stages before the last one, finest first.
        sharp: (B, C, 2 h, 2 w), the last feature map at twice the resolution, where it was asked for; a side
            is one less where the last stage rounds an odd one up.
    """

    features: Tensor
    logits: Tensor
    middle: tuple[Tensor, ...]
    sharp: Tensor | None

    def cloned(self) -> ModelOutput:
        """Copies, which may need gradients where the originals, made in inference mode, refuse."""
        sharp = None if self.sharp is None else self.sharp.clone()
        return ModelOutput(
            self.features.clone(), self.logits.clone(), tuple(one.clone() for one in self.middle), sharp
        )


class ClassifierView:
    """The feature map and the class weights of a convolutional classifier.

    Works on any network whose logits are computed from a global average pooling of a (B, C, H, W) map by
    linear layers, BatchNorm, LayerNorm and elementwise activations: timm's CNNs, and most of one's own.

    Args:
        model: the classifier; images (B, 3, H, W) → logits (B, K). It is not changed, and its training
            mode is restored after every use.

    Raises:
        InputError: the model cannot be seen through; the message says why.
        TypeError: it is no `nn.Module`.
    """

    def __init__(self, model: nn.Module) -> None:
        check_module(model, "model")
        self.model = model
        self._late: dict[tuple[int, int], Late] = {}
        with eval_mode(model), torch.no_grad():
            self._tap, self._head = find_head(model)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer, whose rows are the raw class weights."""
        return self._head[-1]

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return matrix_of(self.classifier).shape[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the classifier once, in eval mode.

        Args:
            images: (B, 3, H, W), preprocessed as the model expects.

        Returns:
            features (B, C, h, w), the map that the head reads, and logits (B, K).

        Raises:
            InputError: images of another number of dimensions.
            TypeError: no tensor.
        """
        _check_images(images)
        caught: list[Tensor] = []
        with eval_mode(self.model), tapped(self._tap, caught):
            logits = self.model(images)
        return caught[-1], logits

    @cached_property
    def stages(self) -> list[Spot]:
        """Where the stages before the last one end, finest first."""
        return find_stages(self.model, self._tap)

    @cached_property
    def shift(self) -> Spot:
        """The input of the last stage, which shifts make sharp.

        Raises:
            InputError: the last stage does not double the stride, or cannot be run alone.
        """
        return find_shift(self.model, self._tap, self.stages)

    def late(self, size: Sequence[int]) -> Late:
        """Which positions of the sharp map are those of the last one for images of (height, width) `size`:
        ``sharp[:, :, row::2, column::2]`` for (row, column), 0 or 1 each.

        Raises:
            InputError: as `shift`.
        """
        height, width = size
        if (height, width) not in self._late:
            self._late[height, width] = centred_late(self.model, self.shift, (height, width))
        return self._late[height, width]

    def extract(self, images: Tensor, layers: int = 2, sharp: bool = False) -> ModelOutput:
        """Run the classifier once, in eval mode, and keep what its middle layers say.

        Args:
            images: (B, 3, H, W), preprocessed as the model expects.
            layers: number of stages before the last whose outputs are kept, if there are as many: 2 are those
                at strides 8 and 16 of a network of stride 32.
            sharp: also run the last stage on shifted inputs for a feature map of twice the resolution, see
                `heatbox.models.stages`. Features and logits stay what they are.

        Raises:
            InputError: a sharp map of a model whose last stage cannot be run alone, images of another
                number of dimensions, or negative `layers`.
            TypeError: no tensor, or no whole number.
        """
        _check_images(images)
        check_whole(layers, "layers", 0)
        spots = self.stages[-layers:] if layers else []
        shift = self.shift if sharp else None
        late = self.late(images.shape[2:]) if sharp else (False, False)
        caught: list[Tensor] = []
        with eval_mode(self.model), watched(spots, shift, late) as seen, tapped(self._tap, caught):
            logits = self.model(images)
        features, many = caught[-1], len(images)
        middle = tuple(seen[spot][:many] for spot in spots)  # past the shifts there are four batches
        if shift is None:
            return ModelOutput(features, logits, middle, None)
        height, width = seen[shift].shape[2:]
        return ModelOutput(
            features[:many], logits[:many], middle, stitched(features, late)[:, :, :height, :width]
        )

    def features(self, images: Tensor) -> Tensor:
        """The last feature map alone, (B, C, h, w)."""
        return self(images)[0]

    def through(self, function: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """While open, forward passes of the model go on with `function` of the feature map (B, C, h, w)."""
        return replaced(self._tap, function)

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of a feature map (B, C, h, w), computed from the folded chain."""
        value = features.float().mean((2, 3))
        for step in self._head:
            value = apply_step(step, value)
        return value

    def class_weights(
        self, features: Tensor, targets: Tensor, norm: Literal["fold", "ignore"] = "fold"
    ) -> tuple[Tensor, Tensor]:
        """Weights and bias that make the logit of a class from the spatial mean of the feature map.

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
                do not match the channels of the feature map; or an unknown `norm`.
            TypeError: no tensors, or targets that are no whole numbers.
        """
        check_tensor(features, "features", "(B, C, h, w)")
        check_choice(norm, "norm", ("fold", "ignore"))
        self._check_targets(targets)
        weights = matrix_of(self.classifier).float()[targets]  # (B, C_last)
        bias = bias_of(self.classifier, weights)[targets]
        if norm == "ignore":
            if weights.shape[1] != features.shape[1]:
                raise InputError(
                    f"norm='ignore' needs a classifier that reads the {features.shape[1]} channels of the "
                    f"feature map; this one reads {weights.shape[1]} of a hidden layer"
                )
            return weights, bias
        inputs = [features.float().mean((2, 3))]
        for step in self._head[:-1]:
            inputs.append(apply_step(step, inputs[-1]))
        for step, value in zip(reversed(self._head[:-1]), reversed(inputs[:-1]), strict=True):
            weights, bias = fold_step(step, value, weights, bias)
        return weights, bias

    def _check_targets(self, targets: Tensor) -> None:
        check_tensor(targets, "targets", "(B,) of class indices")
        if targets.is_floating_point() or targets.dtype == torch.bool:
            raise TypeError(f"targets: a tensor of {targets.dtype}, expected class indices in torch.int64")
        if torch.compiler.is_compiling():
            return  # a graph that is being recorded has no values to look at
        if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= self.num_classes):
            bad = targets[(targets < 0) | (targets >= self.num_classes)][0].item()
            raise InputError(
                f"class {bad} is out of range: the model has classes 0 to {self.num_classes - 1}"
            )


def _check_images(images: Tensor) -> None:
    check_tensor(images, "images", "(B, 3, H, W)")
    if images.ndim != 4:
        raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
