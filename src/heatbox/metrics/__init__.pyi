from . import functional
from .adapters import TorchMetric
from .bootstrap import (
    Interval,
    best_threshold_interval,
    bootstrap_interval,
    paired_interval,
    pxap_interval,
)
from .collection import BoxMetrics
from .confidence import accuracy_by_group, area_under_roc, expected_calibration_error
from .detection import CorLoc, CorLocScore, LocalizationAP, LocalizationAveragePrecision
from .functional import V2_IOU, BoxScore, LocalizationScore, PixelScore, oracle_and_transferred
from .localization import LocalizationAccuracy
from .localization_scores import MapScores
from .map_score import (
    EnergyPointingGame,
    InsideOutsideAUC,
    LocalizationScores,
    MapIoU,
    MeanScore,
    PointingGame,
    RelevanceRank,
    TopKIntersection,
)
from .max_box_acc import MaxBoxAcc, MaxBoxAccV2, MaxBoxAccV3
from .pxap import PxAP

__all__ = [
    "V2_IOU",
    "BoxMetrics",
    "BoxScore",
    "CorLoc",
    "CorLocScore",
    "EnergyPointingGame",
    "InsideOutsideAUC",
    "Interval",
    "LocalizationAP",
    "LocalizationAccuracy",
    "LocalizationAveragePrecision",
    "LocalizationScore",
    "LocalizationScores",
    "MapIoU",
    "MapScores",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "MaxBoxAccV3",
    "MeanScore",
    "PixelScore",
    "PointingGame",
    "PxAP",
    "RelevanceRank",
    "TopKIntersection",
    "TorchMetric",
    "accuracy_by_group",
    "area_under_roc",
    "best_threshold_interval",
    "bootstrap_interval",
    "expected_calibration_error",
    "functional",
    "oracle_and_transferred",
    "paired_interval",
    "pxap_interval",
]
