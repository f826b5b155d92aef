from .adapters import TorchMetric
from .bootstrap import Interval, bootstrap_interval, paired_interval
from .localization import LocalizationAccuracy, LocalizationScore
from .max_box_acc import V2_IOU, BoxScore, MaxBoxAcc, oracle_and_transferred, update_together
from .pxap import PixelScore, PxAP

__all__ = [
    "V2_IOU",
    "BoxScore",
    "Interval",
    "LocalizationAccuracy",
    "LocalizationScore",
    "MaxBoxAcc",
    "PixelScore",
    "PxAP",
    "TorchMetric",
    "bootstrap_interval",
    "oracle_and_transferred",
    "paired_interval",
    "update_together",
]
