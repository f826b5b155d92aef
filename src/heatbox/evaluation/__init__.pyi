from .compare import compare_runs
from .predict import evaluate
from .run import Run
from .score import score_heatmaps
from .stream import SplitScore, score_folder, score_stream
from .summary import MapScore, summarise

__all__ = [
    "MapScore",
    "Run",
    "SplitScore",
    "compare_runs",
    "evaluate",
    "score_folder",
    "score_heatmaps",
    "score_stream",
    "summarise",
]
