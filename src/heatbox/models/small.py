"""A small network for small pictures, so that a demonstration trains in a minute or two on a CPU."""

from __future__ import annotations

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

default_cfgs = generate_default_cfgs(
    {
        "resnet6_small": {
            "num_classes": 10,
            "input_size": (3, 64, 64),
            "pool_size": (8, 8),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
    }
)


@register_model
def resnet6_small(pretrained: bool = False, **options: object) -> ResNet:
    """A residual network of four blocks whose feature map has an eighth of the input's side.

    Half a million parameters; a 64-pixel image gives an 8 x 8 feature map, fine enough to localize in.
    """
    shape = {
        "block": BasicBlock,
        "layers": (1, 1, 1, 1),
        "channels": (32, 64, 96, 128),
        "stem_type": "deep",
        "stem_width": 16,
        # Strided 3 x 3 convolutions look half a pixel up and left of where their output lies, stage upon
        # stage; averaging 2 x 2 pixels instead keeps the feature map over the picture it came from.
        "aa_layer": nn.AvgPool2d,
        "avg_down": True,
        "output_stride": 8,
        "num_classes": 10,
    }
    return build_model_with_cfg(ResNet, "resnet6_small", pretrained, **(shape | options))
