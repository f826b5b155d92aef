from .boxes import map_to_boxes
from .localizer import Localizer, Prediction
from .locate import locate_files

__all__ = [
    "Localizer",
    "Prediction",
    "locate_files",
    "map_to_boxes",
]
