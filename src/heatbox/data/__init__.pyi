from .check import CheckReport, check_data
from .glyphs import cue_conflict, glyphs
from .loader import TrainCrop
from .open import DataSet, open_data_set, open_split
from .prepare import prepare_cub
from .transforms import Preprocess
from .types import Example, Split

__all__ = [
    "CheckReport",
    "DataSet",
    "Example",
    "Preprocess",
    "Split",
    "TrainCrop",
    "check_data",
    "cue_conflict",
    "glyphs",
    "open_data_set",
    "open_split",
    "prepare_cub",
]
