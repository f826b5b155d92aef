from .accelerate import Acceleration, accelerate, restore
from .depthwise import depthwise_conv2d
from .module import DepthwiseConv2d

__all__ = [
    "Acceleration",
    "DepthwiseConv2d",
    "accelerate",
    "depthwise_conv2d",
    "restore",
]
