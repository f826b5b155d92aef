"""Small residual networks and ConvNeXts for 64-pixel images, which train in minutes on a CPU."""

from __future__ import annotations

from functools import partial

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from heatbox.models._blocks import initialise

_SMALL = {
    "num_classes": 10,
    "input_size": (3, 64, 64),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}
default_cfgs = generate_default_cfgs(
    {
        "resnet10_small": _SMALL | {"pool_size": (16, 16), "first_conv": "conv1.0", "classifier": "fc"},
        "convnext_atto_64": _SMALL | {"pool_size": (8, 8), "first_conv": "stem.0", "classifier": "head.fc"},
        "convnext_micro": _SMALL | {"pool_size": (8, 8), "first_conv": "stem.0", "classifier": "head.fc"},
    }
)


class _FineResNet(ResNet):
    """A ResNet of output stride 4; the smallest that timm's ResNets support is 8."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        first = self.layer2[0]
        first.conv1.stride = (1, 1)
        first.aa = nn.Identity()
        for stage in (self.layer2, self.layer3, self.layer4):
            # At stride 1 timm averages 2 x 2 neighbours here, which shifts the map by half a cell per stage.
            stage[0].downsample[0] = nn.Identity()


@register_model
def resnet10_small(pretrained: bool = False, **options: object) -> nn.Module:
    """A residual network of four blocks; a 64-pixel image gives a 16 x 16 feature map.

    0.28 million parameters with ten classes; later stages are dilated for a large receptive field on the
    fine map.
    """
    shape = {
        "block": BasicBlock,
        "layers": (1, 1, 1, 1),
        "channels": (32, 48, 64, 96),
        "stem_type": "deep",
        "stem_width": 16,
        "output_stride": 8,
        # Every strided 3 x 3 convolution shifts its output by half a pixel; averaging 2 x 2 pixels instead
        # keeps the feature map aligned with the image.
        "aa_layer": nn.AvgPool2d,
        "avg_down": True,
        "num_classes": 10,
    }
    return build_model_with_cfg(_FineResNet, "resnet10_small", pretrained, **(shape | options))


class _FineConvNeXt(ConvNeXt):
    """A ConvNeXt whose last two stages keep the resolution of the second.

    timm's `output_stride` would dilate them: on a map of 8 x 8 positions most of a dilated 7 x 7 kernel lies
    outside the map, and neighbouring positions share few inputs.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        for stage in self.stages[2:]:
            strided = stage.downsample[1]
            stage.downsample[1] = nn.Conv2d(strided.in_channels, strided.out_channels, 1)
        self.apply(partial(initialise, std=None))


@register_model
def convnext_atto_64(pretrained: bool = False, **options: object) -> nn.Module:
    """ConvNeXt-Atto for 64-pixel images: its last two stages keep the 8 x 8 positions of the second."""
    shape = {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320), "ls_init_value": 1.0, "num_classes": 10}
    return build_model_with_cfg(_FineConvNeXt, "convnext_atto_64", pretrained, **(shape | options))


@register_model
def convnext_micro(pretrained: bool = False, **options: object) -> nn.Module:
    """A ConvNeXt of 0.7 million parameters for 64-pixel images, trained on a CPU; an 8 x 8 feature map."""
    shape = {
        "depths": (1, 1, 2, 1),
        "dims": (40, 80, 120, 160),
        "patch_size": 2,
        "ls_init_value": 1.0,
        "num_classes": 10,
    }
    return build_model_with_cfg(_FineConvNeXt, "convnext_micro", pretrained, **(shape | options))
