from .calibrate import calibrate_run
from .compare import compare_runs
from .predict import evaluate
from .run import Run
from .score import score_folder, score_heatmaps, score_run, score_stream
from .summary import Records, SplitScore, summarise, table_of

__all__ = [
    "Records",
    "Run",
    "SplitScore",
    "calibrate_run",
    "compare_runs",
    "evaluate",
    "score_folder",
    "score_heatmaps",
    "score_run",
    "score_stream",
    "summarise",
    "table_of",
]
