from .localizer import Localizer, Prediction
from .locate import locate_files

__all__ = [
    "Localizer",
    "Prediction",
    "locate_files",
]
