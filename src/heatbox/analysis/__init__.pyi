from .channels import (
    ChannelStatistics,
    Correlation,
    activation_area,
    channel_statistics,
    correlate,
    correlate_by_class,
)
from .complexity import Reconstruction, explained_variance, reconstruction_error
from .erf import (
    GaussianFit,
    ReceptiveField,
    ReceptiveFieldGrid,
    effective_receptive_field,
    fit_gaussian,
    receptive_field_grid,
)
from .shape_bias import ShapeBias, shape_bias
from .thresholds import ThresholdCurve, threshold_curve

__all__ = [
    "ChannelStatistics",
    "Correlation",
    "GaussianFit",
    "ReceptiveField",
    "ReceptiveFieldGrid",
    "Reconstruction",
    "ShapeBias",
    "ThresholdCurve",
    "activation_area",
    "channel_statistics",
    "correlate",
    "correlate_by_class",
    "effective_receptive_field",
    "explained_variance",
    "fit_gaussian",
    "receptive_field_grid",
    "reconstruction_error",
    "shape_bias",
    "threshold_curve",
]
