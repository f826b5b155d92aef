from .label import Labelled, make_maps
from .output import write_labels
from .photos import open_photos
from .propose import BoxSettings, find_objects, propose

__all__ = [
    "BoxSettings",
    "Labelled",
    "find_objects",
    "make_maps",
    "open_photos",
    "propose",
    "write_labels",
]
