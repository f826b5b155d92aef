"""Gradients with respect to the input, with everything about the model put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.head import eval_mode
from heatbox.models.introspect import ClassifierView

CHECKPOINT_FROM = 2**19
"""Input pixels of a batch from which activations are recomputed instead of kept: half a 1024 x 1024 image."""


def feature_function(model: nn.Module | ClassifierView) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, H, W) → last feature map (B, C, h, w), before a final norm that the head reads through.

    This is the map `ClassifierView` sees. A network that it cannot see through (without a classifier, or
    with a head of another kind) gives the output of its `forward_features`.

    Raises:
        InputError: there is no such map.
    """
    if isinstance(model, ClassifierView):
        return model.features
    try:
        return ClassifierView(model).features
    except InputError:
        own = getattr(model, "forward_features", None)
        if not callable(own):
            raise

        def features(images: Tensor) -> Tensor:
            value = own(images)
            if not isinstance(value, Tensor) or value.ndim != 4:
                raise InputError(f"{type(model).__name__}.forward_features returns no map (B, C, h, w)")
            return value

        return features


def network_of(model: nn.Module | ClassifierView) -> nn.Module:
    """The network itself, also of a view of it."""
    return model.model if isinstance(model, ClassifierView) else model


@contextmanager
def input_gradients(model: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Make the model ready for gradients of its input alone; yields the images as a leaf that wants them.

    Inside, the model is in eval mode, no parameter collects a gradient, and for large inputs activations are
    recomputed in the backward pass where the model knows how (`set_grad_checkpointing`), so that memory
    grows with one block, not with the depth.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    like = next(model.parameters(), images)
    leaf = images.detach().to(like.device, like.dtype).clone().requires_grad_()
    large = leaf.shape[0] * leaf.shape[2] * leaf.shape[3] >= CHECKPOINT_FROM
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with eval_mode(model), torch.enable_grad(), _recomputing(model, large):
            yield leaf
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    flags = [
        (module, module.grad_checkpointing)
        for module in model.modules()
        if isinstance(getattr(module, "grad_checkpointing", None), bool)
    ]
    switch = getattr(model, "set_grad_checkpointing", None)
    try:
        if wanted and callable(switch):
            # timm's way of saying that a network cannot; then it keeps its activations.
            with suppress(AssertionError, NotImplementedError):
                switch(True)
        yield
    finally:
        for module, flag in flags:
            module.grad_checkpointing = flag
