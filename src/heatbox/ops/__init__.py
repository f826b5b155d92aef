"""The large depthwise convolution: fast on any machine, without a compiler or an extension."""

from heatbox.ops.accelerate import Acceleration, accelerate, restore
from heatbox.ops.depthwise import depthwise_conv2d
from heatbox.ops.module import DepthwiseConv2d

__all__ = ["Acceleration", "DepthwiseConv2d", "accelerate", "depthwise_conv2d", "restore"]
