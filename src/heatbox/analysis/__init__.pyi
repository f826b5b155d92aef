from .activation import ChannelStatistics, activation_area, channel_statistics
from .class_weights import Correlation, correlate, correlate_by_class
from .complexity import Reconstruction, explained_variance, reconstruction_error
from .erf import ReceptiveField, effective_receptive_field
from .gaussian import GaussianFit, fit_gaussian
from .positions import PositionFields, receptive_fields
from .shape_bias import ShapeBias, shape_bias
from .thresholds import ThresholdCurve, threshold_curve

__all__ = [
    "ChannelStatistics",
    "Correlation",
    "GaussianFit",
    "PositionFields",
    "ReceptiveField",
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
    "receptive_fields",
    "reconstruction_error",
    "shape_bias",
    "threshold_curve",
]
