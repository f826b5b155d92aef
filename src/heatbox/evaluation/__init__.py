"""Heatmaps of a whole data set: made, scored, saved as a run, compared."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
