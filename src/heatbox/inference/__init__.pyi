from .boxes import map_to_boxes
from .calibration import Calibration, MapCalibration, load_calibration, outer_boxes
from .confidence import ConfidenceModel, box_confidence, box_features, fit_confidence
from .localizer import Localizer, Prediction
from .locate import find_images, locate_files, located_split

__all__ = [
    "Calibration",
    "ConfidenceModel",
    "Localizer",
    "MapCalibration",
    "Prediction",
    "box_confidence",
    "box_features",
    "find_images",
    "fit_confidence",
    "load_calibration",
    "locate_files",
    "located_split",
    "map_to_boxes",
    "outer_boxes",
]
