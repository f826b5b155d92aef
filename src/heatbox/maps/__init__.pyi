from .baselines import centre_gaussian, full_image, with_centre_prior
from .cam import cam
from .export import ExplainedClassifier, export_onnx, export_program
from .normalize import normalize_heatmap
from .pc1 import pc1
from .random_walk import random_walk
from .registry import METHODS, MapInputs, find_method

__all__ = [
    "METHODS",
    "ExplainedClassifier",
    "MapInputs",
    "cam",
    "centre_gaussian",
    "export_onnx",
    "export_program",
    "find_method",
    "full_image",
    "normalize_heatmap",
    "pc1",
    "random_walk",
    "with_centre_prior",
]
