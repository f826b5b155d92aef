from .boxes import map_to_boxes
from .localizer import Localizer, Prediction
from .locate import find_images, locate_files, located_split

__all__ = [
    "Localizer",
    "Prediction",
    "find_images",
    "locate_files",
    "located_split",
    "map_to_boxes",
]
