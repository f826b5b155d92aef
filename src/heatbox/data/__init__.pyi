from .annotations import open_annotations
from .check import CheckReport, check_data
from .glyphs import glyphs, glyphs_cue_conflict
from .loader import TrainCrop
from .objects import to_detections, to_fiftyone
from .open import DataSet, open_data_set, open_split
from .prepare import prepare_cub
from .transforms import Preprocess
from .types import Example, Split
from .write import write_splits

__all__ = [
    "CheckReport",
    "DataSet",
    "Example",
    "Preprocess",
    "Split",
    "TrainCrop",
    "check_data",
    "glyphs",
    "glyphs_cue_conflict",
    "open_annotations",
    "open_data_set",
    "open_split",
    "prepare_cub",
    "to_detections",
    "to_fiftyone",
    "write_splits",
]
