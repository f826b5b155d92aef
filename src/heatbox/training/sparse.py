"""Dynamic sparse training of SLaK: a fraction of the weights is zero at every step.

Liu et al., "More ConvNets in the 2020s", ICLR 2023, section 3, after Liu et al., "Do We Actually Need Dense
Over-Parameterization?", ICML 2021. SNIP (Lee et al., ICLR 2019) distributes the zeros over the layers. At a
fixed interval of steps the smallest weights of each layer are pruned and as many are grown at random
positions, at a rate that decays by a cosine.

Where the sources draw the number of weights at random, it is exact here: kept weights are counted, so the
sparsity has the requested value at every step. A layer with fewer zeros than weights to replace replaces only
as many weights as it has zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from heatbox.errors import InputError
from heatbox.models.slak import recover_masks
from heatbox.models.spec import placement
from heatbox.training.data import MASKS, derived

LEAST_PRUNE_RATE = 0.005  # where the authors' cosine ends


def maskable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that can be sparse: those of convolutions and linear layers, as in the authors' code."""
    return {name: weight for name, weight in model.named_parameters() if weight.ndim in (2, 4)}


def snip_counts(model: nn.Module, loss: Callable[[nn.Module], Tensor], sparsity: float) -> dict[str, int]:
    """Number of weights each layer keeps: those among the model's largest |weight x gradient|.

    Args:
        model: a model; neither its weights nor their `.grad` change.
        loss: of one batch.
        sparsity: fraction of the maskable weights to be zero, in [0, 1).

    Returns:
        name → number of kept weights; they sum to (1 - sparsity) of all, rounded.
    """
    weights = maskable(model)
    gradients = torch.autograd.grad(loss(model), list(weights.values()), allow_unused=True)
    saliency = [
        (weight.detach() * (torch.zeros_like(weight) if gradient is None else gradient))
        .abs()
        .float()
        .flatten()
        for weight, gradient in zip(weights.values(), gradients, strict=True)
    ]
    sizes = [len(values) for values in saliency]
    kept = torch.zeros(sum(sizes), dtype=torch.bool, device=saliency[0].device)
    kept[torch.cat(saliency).topk(round((1 - sparsity) * len(kept))).indices] = True
    counts = [int(part.sum()) for part in kept.split(sizes)]
    return dict(zip(weights, counts, strict=True))


class Masks:
    """The masks of kept weights, and their updates.

    Args:
        model: the model whose weights are masked.
        kept: name → bool tensor of the weight's shape; weights that are not named are dense, and
            with an empty dictionary every method does nothing.
        prune_rate: fraction of a layer's kept weights that the first update replaces.
        every: steps between updates.
        steps: of the whole training.
        seed: of the training.
    """

    def __init__(
        self,
        model: nn.Module,
        kept: Mapping[str, Tensor],
        prune_rate: float = 0.3,
        every: int = 2000,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        if every < 1 or not 0 <= prune_rate <= 1:
            raise InputError(
                f"prune rate {prune_rate} and update every {every} steps: expected a fraction in [0, 1] and "
                "1 or more"
            )
        self.model = model
        self.kept = {name: mask.to(placement(model)[0]) for name, mask in kept.items()}
        self.prune_rate, self.every, self.steps, self.seed = prune_rate, every, steps, seed
        self._broadcast()
        self.apply(model)

    @classmethod
    def drawn(
        cls, model: nn.Module, counts: Mapping[str, int], seed: int = 0, **schedule: float | int
    ) -> Masks:
        """Masks at random positions, with a given number of kept weights per layer, to train from scratch."""
        kept = {}
        for layer, (name, weight) in enumerate(maskable(model).items()):
            generator = _generator(weight.device, seed, 0, layer)
            mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
            order = (
                torch.rand(len(mask), generator=generator, device=weight.device).topk(counts[name]).indices
            )
            mask[order] = True
            kept[name] = mask.view(weight.shape)
        return cls(model, kept, seed=seed, **schedule)  # type: ignore[arg-type]

    @classmethod
    def recovered(cls, model: nn.Module, seed: int = 0, **schedule: float | int) -> Masks:
        """The masks given by the zeros of sparsely trained weights; layers without zeros are dense."""
        return cls(model, recover_masks(model.state_dict()), seed=seed, **schedule)  # type: ignore[arg-type]

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The masked weights by name, in the model's order."""
        if not self.kept:
            return {}
        return {name: weight for name, weight in maskable(self.model).items() if name in self.kept}

    @property
    def sparsity(self) -> float:
        """Fraction of the masked layers' weights that are zero."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / max(total, 1)

    def prune_rate_at(self, step: int) -> float:
        """Fraction of the kept weights to replace at a step: a cosine that starts at `prune_rate`."""
        low = min(LEAST_PRUNE_RATE, self.prune_rate)
        return low + (self.prune_rate - low) * 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1.0)))

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Set gradients of weights that are not kept to zero, for clipping and the optimizer's moments."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.kept[name])

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set weights that are not kept to zero, in the trained model or in the average of its weights."""
        parameters = dict(model.named_parameters()) if self.kept else {}
        for name, mask in self.kept.items():
            parameters[name].mul_(mask)

    @torch.no_grad()
    def update(self, step: int, optimizer: torch.optim.Optimizer | None = None) -> bool:
        """Prune and regrow after a step, if an update is due.

        Args:
            step: steps done so far.
            optimizer: the moments of pruned and of regrown weights are set to zero.

        Returns:
            whether the masks were updated.
        """
        if not self.kept or step % self.every or step >= self.steps:
            return False
        rate = self.prune_rate_at(step)
        for layer, (name, weight) in enumerate(self.weights.items()):
            before = self.kept[name]
            generator = _generator(weight.device, self.seed, step, layer)
            self.kept[name] = pruned_and_regrown(weight, before, rate, generator)
        self._broadcast()
        for name, weight in self.weights.items():
            weight.mul_(self.kept[name])
            for moment in (optimizer.state.get(weight, {}) if optimizer is not None else {}).values():
                if isinstance(moment, Tensor) and moment.shape == weight.shape:
                    moment.mul_(self.kept[name])
        return True

    def _broadcast(self) -> None:
        """Give every process the masks of the first: rounding may differ between devices, masks must not."""
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for mask in self.kept.values():
                as_bytes = mask.to(torch.uint8)
                dist.broadcast(as_bytes, 0)
                mask.copy_(as_bytes.bool())


def pruned_and_regrown(weight: Tensor, kept: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Prune the smallest kept weights and grow as many others, drawn at random from those that were not kept.

    Args:
        weight: any shape.
        kept: bool, of the weight's shape.
        rate: fraction of the kept weights to replace, at most as many as are not kept.
        generator: on the weight's device.

    Returns:
        bool, of the weight's shape, with as many True as `kept`. Weights pruned now are not regrown.
    """
    flat = kept.flatten()
    number = min(round(rate * int(flat.sum())), int((~flat).sum()))
    if number == 0:
        return kept
    size = weight.detach().abs().flatten().masked_fill(~flat, math.inf)
    pruned = size.topk(number, largest=False).indices
    draw = torch.rand(len(flat), generator=generator, device=weight.device).masked_fill(flat, -1.0)
    grown = draw.topk(number).indices
    result = flat.clone()
    result[pruned] = False
    result[grown] = True
    return result.view(kept.shape)


def _generator(device: torch.device, seed: int, step: int, layer: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(derived(seed, MASKS, step, layer))
