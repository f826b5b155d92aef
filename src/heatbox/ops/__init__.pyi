from .accelerate import Acceleration, accelerate, restore
from .depthwise import DepthwiseConv2d, depthwise_conv2d

__all__ = [
    "Acceleration",
    "DepthwiseConv2d",
    "accelerate",
    "depthwise_conv2d",
    "restore",
]
