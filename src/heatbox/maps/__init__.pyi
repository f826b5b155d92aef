from .baselines import centre_gaussian, full_image, with_centre_prior
from .cam import cam
from .export import ExplainedClassifier, export_onnx, export_program
from .foreground import (
    ForegroundHead,
    Projection,
    average_maps,
    collection_features,
    fit_foreground,
    fit_projection,
    foreground,
    foreground_walk,
    load_foreground,
)
from .normalize import normalize_heatmap
from .pc1 import pc1
from .random_walk import random_walk
from .registry import METHODS, MapInputs, find_method

__all__ = [
    "METHODS",
    "ExplainedClassifier",
    "ForegroundHead",
    "MapInputs",
    "Projection",
    "average_maps",
    "cam",
    "centre_gaussian",
    "collection_features",
    "export_onnx",
    "export_program",
    "find_method",
    "fit_foreground",
    "fit_projection",
    "foreground",
    "foreground_walk",
    "full_image",
    "load_foreground",
    "normalize_heatmap",
    "pc1",
    "random_walk",
    "with_centre_prior",
]
