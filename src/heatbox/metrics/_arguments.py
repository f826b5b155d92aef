"""Arguments that the metrics share, and their data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from heatbox._utils.checks import as_array, check_integer, check_length
from heatbox._utils.extras import require
from heatbox.errors import InputError

if TYPE_CHECKING:
    import pandas


def as_maps(heatmaps: Any) -> np.ndarray | Sequence[np.ndarray]:
    """N heatmaps as an (N, H, W) array, or as a list of N arrays if given as a list or tuple.

    Raises:
        InputError: an array that is not three-dimensional.
    """
    check_length(heatmaps, "heatmaps", "(N, H, W) or N maps")
    if isinstance(heatmaps, (list, tuple)):
        return [as_array(one) for one in heatmaps]
    maps = as_array(heatmaps)
    if maps.ndim != 3:
        raise InputError(f"heatmaps have shape {maps.shape}, expected (N, H, W)")
    return maps


def data_frame(columns: dict[str, Any]) -> pandas.DataFrame:
    """The columns as a data frame; an InputError where pandas is not installed."""
    require("pandas", "to_pandas()")
    import pandas as pd

    return pd.DataFrame(columns)


def check_threads(threads: int | None) -> int | None:
    """A number of threads, or None for all cores.

    Raises:
        InputError: a number below 1.
        TypeError: not an integer.
    """
    if threads is not None:
        check_integer(threads, "threads")
    return threads
