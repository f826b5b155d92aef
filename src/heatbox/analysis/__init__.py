"""How a backbone localizes, and why: receptive fields, shape bias, channels, complexity, thresholds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
