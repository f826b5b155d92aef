from .corrections import box_accuracy
from .output import write_labels
from .photos import open_photos
from .pipeline import Labelled, LabelledImage, label, make_maps
from .propose import BoxSettings, find_objects, propose

__all__ = [
    "BoxSettings",
    "Labelled",
    "LabelledImage",
    "box_accuracy",
    "find_objects",
    "label",
    "make_maps",
    "open_photos",
    "propose",
    "write_labels",
]
