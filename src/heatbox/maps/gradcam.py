"""Methods of pytorch-grad-cam by name, under the same protocol as all maps.

Each method uses the last feature map, as `ClassifierView` finds it; for a model that reads a class token it
is the map that the last attention reads. The feature map is a leaf of the graph, and only the head is run and
differentiated: the values equal those from the whole network. Maps have the resolution of the feature map.

Requires the extra `gradcam`. Sources: Grad-CAM (Selvaraju et al., ICCV 2017), Grad-CAM++ (Chattopadhyay et
al., WACV 2018), HiResCAM (Draelos and Carin, 2020), LayerCAM (Jiang et al., TIP 2021), XGrad-CAM (Fu et
al., BMVC 2020), Eigen-CAM (Muhammad and Yeasin, IJCNN 2020), KPCA-CAM (Karmani et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from heatbox._utils.extras import require
from heatbox.errors import InputError
from heatbox.models.spec import eval_mode

if TYPE_CHECKING:
    from heatbox.models.introspect import ClassifierView

GRADIENT_METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "kpcacam": "KPCA_CAM",
}
"""Name of a method → its class in pytorch-grad-cam."""


def gradient_map(
    name: str, view: ClassifierView, images: Tensor, targets: Tensor, features: Tensor | None = None
) -> Tensor:
    """Maps of a method of pytorch-grad-cam for a batch of images.

    Args:
        name: one of `GRADIENT_METHODS`.
        view: the classifier; the gradients of its parameters are not computed.
        images: (B, C, H, W) preprocessed images.
        targets: (B,) class that each map is for.
        features: (B, C, h, w) that the view returned for these images; None computes it.

    Returns:
        (B, h, w) float32 in [0, 1], at the resolution of the feature map, on the device of the images.

    Raises:
        InputError: pytorch-grad-cam is not installed, or there is no such method.
    """
    tool = tool_class(name)
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(view.model), _frozen(view.model):
        if features is None:
            features = view.features(images)
        value, function = view.gradient_features(features)
        head = _Head(value.detach().float().clone(), function)
        method = tool(model=head, target_layers=[head.leaf])
        try:
            # The tool would resize maps to the images; runs store small maps, which scoring resizes.
            method.get_target_width_height = lambda _: (value.shape[-1], value.shape[-2])
            # The tool differentiates what a function of an image's logits (K,) returns: here one of them.
            maps = method(head.features, [itemgetter(target) for target in targets.tolist()])
        finally:
            method.activations_and_grads.release()
    return torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).to(images.device)


def tool_class(name: str) -> Any:
    """The class of a method in pytorch-grad-cam.

    Raises:
        InputError: as `gradient_map`.
    """
    if name not in GRADIENT_METHODS:
        raise InputError(f"there is no map method {name!r}, expected one of {', '.join(GRADIENT_METHODS)}")
    require("gradcam", f"the map method {name!r}")
    return getattr(import_module("pytorch_grad_cam"), GRADIENT_METHODS[name])


class _Head(nn.Module):
    """The head of a classifier as a model, whose one layer returns the feature map as a leaf of the graph."""

    def __init__(self, features: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.function, self.leaf = features, function, nn.Identity()
        self.register_parameter("unused", nn.Parameter(features.new_zeros(())))  # by it the device is found

    def forward(self, _: Tensor) -> Tensor:
        return self.function(self.leaf(self.features.requires_grad_()))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Exclude all parameters from gradients; afterwards their flags and gradients are restored."""
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted, gradient in parameters:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
