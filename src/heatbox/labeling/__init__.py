"""Labelling: from photographs with labels to boxes that a person corrects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
