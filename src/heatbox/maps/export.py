"""Export of a classifier with its feature map and class activation map, for torch.export and ONNX."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from heatbox._utils.extras import require
from heatbox.maps.cam import cam
from heatbox.models.introspect import ClassifierView

OUTPUTS = ("logits", "features", "cam")


class ExplainedClassifier(nn.Module):
    """A classifier that also returns its last feature map and the activation map of the predicted class.

    The map is `heatbox.maps.cam.cam` with the class weights of `ClassifierView`, norms folded in: its
    spatial mean plus the bias is the logit.

    Args:
        model: a classifier that `ClassifierView` supports; set to eval mode.

    Raises:
        InputError: the model is not supported.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()
        self.view = ClassifierView(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) → logits (B, K), features (B, C, h, w), maps (B, h, w) in logit units."""
        features, logits = self.view(images)
        weights, _ = self.view.class_weights(features, logits.argmax(1))
        return logits, features, cam(features, weights)


def export_program(model: nn.Module, side: int) -> torch.export.ExportedProgram:
    """Export a classifier with its feature map and CAM as one graph.

    Args:
        model: the classifier, on the CPU; set to eval mode.
        side: side in pixels of the square input images; the batch size is dynamic.

    Returns:
        a program: images (B, 3, side, side) → logits, features and CAM as in `ExplainedClassifier`.

    Raises:
        InputError: the model is not supported.
    """
    images = torch.zeros(2, 3, side, side)
    batch = {0: torch.export.Dim("batch", min=1, max=2**31 - 1)}  # PyTorch 2.6 requires a maximum
    with torch.no_grad():
        return torch.export.export(
            ExplainedClassifier(model), (images,), dynamic_shapes=(batch,), strict=False
        )


def export_onnx(model: nn.Module, path: str | Path, side: int) -> None:
    """Write a classifier with its feature map and CAM as an ONNX file.

    The input is "images" (B, 3, side, side) for any B; the outputs are "logits", "features" and
    "cam". Requires the extra `heatbox[onnx]`.

    Args:
        model: the classifier, on the CPU; set to eval mode.
        path: the file to write.
        side: side of the images in pixels.

    Raises:
        InputError: the extra is not installed, or the model is not supported.
    """
    require("onnx", "ONNX export", "onnx", "onnxscript")
    program = export_program(model, side)
    onnx_program = torch.onnx.export(
        program, input_names=["images"], output_names=list(OUTPUTS), dynamo=True, verbose=False
    )
    assert onnx_program is not None
    onnx_program.save(str(path), external_data=False)
