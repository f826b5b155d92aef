"""Random weights with which every part of a classifier matters, and images with structure.

At initialisation norm layers are identities, layer scales and many last layers nearly zero and position
embeddings constant: a head that ignored them would pass every test. `scrambled` gives each of them a value
that counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def structured_images(size: tuple[int, int, int], number: int = 2, seed: int = 0) -> Tensor:
    """(number, *size) float32: coarse shapes with noise, so that the positions of deep maps differ."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = size
    coarse = torch.randn(number, channels, 5, 5, generator=generator)
    shapes = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return shapes + 0.3 * torch.randn(number, *size, generator=generator)


def _scramble(values: Tensor, generator: torch.Generator) -> None:
    """Replace constants and scale up what is too small to matter; other weights stay as initialised."""
    if not values.numel() or not values.is_floating_point() or isinstance(values, nn.UninitializedParameter):
        return
    noise = torch.randn(values.shape, generator=generator).to(values)
    constant = values.numel() == 1 or bool((values == values.flatten()[0]).all())
    if values.ndim < 2 or constant:
        level = float(values.float().mean())
        if abs(level) > 0.5:  # a norm's weight, a gain, a temperature
            values.copy_(values * (1 + 0.2 * noise))
        elif level == 0 and values.ndim >= 2 and constant:  # a last layer, an embedding
            values.copy_(0.1 * noise)
        elif constant and values.ndim < 2 and abs(level) > 0:  # a layer scale
            values.copy_(0.3 * (1 + 0.3 * noise))
        else:  # a bias
            values.add_(0.1 * noise)
    elif values.ndim >= 2:
        usual, deviation = (values[0].numel()) ** -0.5, float(values.float().std())
        if deviation < 0.5 * usual:
            values.mul_(usual / deviation)


def _calibrate(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Running statistics: those of the images, disturbed. Without them deep random networks overflow."""
    norms = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        level = variance.mean().clamp_min(1e-12)
        variance.clamp_(min=0.1 * float(level))
        mean.add_(0.2 * variance.sqrt() * torch.randn(mean.shape, generator=generator).to(mean))
        variance.mul_((0.6 + torch.rand(variance.shape, generator=generator)).to(variance))


@torch.no_grad()
def scrambled(model: nn.Module, size: tuple[int, int, int] = (3, 224, 224), seed: int = 0) -> nn.Module:
    """The model in eval mode, changed in place to random weights of which every one counts.

    Args:
        model: with its initial weights, on the CPU.
        size: of the images with which the running statistics of BatchNorms are set.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for values in model.parameters():
        _scramble(values, generator)
    model.eval()
    _calibrate(model, structured_images(size, 2, seed + 1).to(next(model.parameters())), generator)
    return model
