"""Class activation maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from heatbox._utils.checks import check_choice, check_tensor
from heatbox.errors import InputError
from heatbox.models.heads import weighted_sum

Signs = Literal["all", "positive", "negative"]


def cam(features: Tensor, class_weights: Tensor, signs: Signs = "all") -> Tensor:
    """Class activation map: the feature map summed over channels, weighted by the weights of a class.

    CAM Back Again, supplement 11, eq. 2 (Zhou et al., CVPR 2016). With the weights and bias of
    `ClassifierView.class_weights`, the spatial mean of the map plus the bias equals the logit.

    Args:
        features: (B, C, H, W) feature maps.
        class_weights: (B, C), one row per image, (C,) for all images, or (B, C, H, W) for weights that
            depend on the position.
        signs: the channels that are summed: all, those of positive weight (F_pos) or those of negative
            weight (F_neg; supplement 12).

    Returns:
        (B, H, W) float32 maps in logit units, neither clipped nor scaled, on the device of the features.

    Raises:
        InputError: shapes that do not match, or an unknown `signs`.
        TypeError: not tensors of real numbers.

    Examples:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # one image, two channels, 1 x 2 pixels
        >>> cam(features, torch.tensor([2.0, -1.0]))
        tensor([[[-1.,  4.]]])
        >>> cam(features, torch.tensor([2.0, -1.0]), signs="positive")
        tensor([[[2., 4.]]])
    """
    check_tensor(features, "features", "(B, C, H, W)")
    check_tensor(class_weights, "class_weights", "(B, C), (C,) or (B, C, H, W)")
    check_choice(signs, "signs", ("all", "positive", "negative"))
    if features.ndim != 4:
        raise InputError(f"features have shape {tuple(features.shape)}, expected (B, C, H, W)")
    if class_weights.shape not in (features.shape, features.shape[:2], (features.shape[1],)):
        raise InputError(
            f"class_weights have shape {tuple(class_weights.shape)}, expected {tuple(features.shape)}, "
            f"{tuple(features.shape[:2])} or ({features.shape[1]},) to match the features"
        )
    if signs == "positive":
        class_weights = class_weights.clamp(min=0)
    elif signs == "negative":
        class_weights = class_weights.clamp(max=0)
    return weighted_sum(features, class_weights)
