"""A linear classifier fitted to fixed features: logistic regression by L-BFGS.

Minimized is the weighted mean of the losses plus half the weight decay times the squared weights, of features
that are standardized with the mean and standard deviation of each over the training images; the result is
written for the features as they are. The loss is the cross-entropy of the softmax, or the mean over the
classes of the binary cross-entropies of the sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from heatbox._utils.progress import Track, silent
from heatbox.config import ScoreFunction

WEIGHT_DECAYS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Candidates, strongest first: each fit starts from the one before."""
UNMEASURED = 1e-2
"""The weight decay where there is nothing to choose it on."""
ITERATIONS = 100
ROWS = 8192
"""Images at a time."""
IN_FULL = 2**27
"""Numbers up to which standardized features are float32 in memory (512 MiB); beyond, they are float16."""
_LARGEST = 6e4


@dataclass(frozen=True)
class Objective:
    """The loss of a classifier, weighted by class.

    Attributes:
        function: "softmax" or "sigmoid".
        weights: (K,) float32, the weight of an image of a class (softmax), or of an image of the class
            against one that is not (sigmoid).
        smoothing: label smoothing of the softmax.
    """

    function: ScoreFunction
    weights: Tensor
    smoothing: float = 0.0

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses (), to be divided by `size`.

        Args:
            logits: (B, K).
            targets: (B,) int64 class indices for the softmax, (B, K) in {0, 1} for the sigmoid.
        """
        weights = self.weights.to(logits.device)
        targets = targets.to(logits.device)
        if self.function == "softmax":
            smoothing = self.smoothing
            return cross_entropy(logits.float(), targets, weights, reduction="sum", label_smoothing=smoothing)
        losses = binary_cross_entropy_with_logits(
            logits.float(), targets.float(), pos_weight=weights, reduction="none"
        )
        return losses.mean(1).sum()

    def size(self, targets: Tensor) -> Tensor:
        """Sum of the weights of some images ()."""
        if self.function == "softmax":
            return self.weights[targets.cpu()].sum()
        return torch.tensor(float(len(targets)))

    def mean(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean loss () of some images."""
        return self.total(logits, targets) / self.size(targets).to(logits.device)


def balanced_weights(targets: Tensor, num_classes: int, function: ScoreFunction) -> Tensor:
    """Class weights (K,) float32 with which all classes count alike; 1 for a class without images.

    Args:
        targets: as for `Objective.total`.
        num_classes: number of classes K.
        function: softmax: N / (K n) for a class of n of the N images; sigmoid: (N - n) / n.
    """
    if function == "softmax":
        counts = torch.bincount(targets, minlength=num_classes).float()
        present = (counts > 0).sum()
        return torch.where(counts > 0, len(targets) / (present * counts.clamp_min(1)), 1.0)
    counts = targets.float().sum(0)
    return torch.where(
        (counts > 0) & (counts < len(targets)), (len(targets) - counts) / counts.clamp_min(1), 1.0
    )


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear layer.

    Attributes:
        weight: (K, D) float32.
        bias: (K,) float32; zeros where the layer has none.
        weight_decay: the chosen one.
        losses: (weight decay, loss on the held-out images or None) of each candidate that was tried.
    """

    weight: Tensor
    bias: Tensor
    weight_decay: float
    losses: tuple[tuple[float, float | None], ...]

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, K) float32 of features (N, D)."""
        return torch.cat(
            [part.float() @ self.weight.T + self.bias for part in features.split(ROWS)]
            or [torch.zeros(0, len(self.weight))]
        )


def fit_linear(
    features: Tensor,
    targets: Tensor,
    objective: Objective,
    held_out: tuple[Tensor, Tensor] | None = None,
    has_bias: bool = True,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    track: Track = silent,
) -> LinearFit:
    """Fit a linear classifier with the weight decay of the least loss on held-out images.

    The candidates are tried from the strongest on; two in a row that are worse than the best end the search.

    Args:
        features: (N, D) in any floating-point dtype.
        targets: as for `Objective.total`.
        objective: the loss.
        held_out: features and targets of the images on which the weight decay is chosen; without any it is
            `UNMEASURED`, or the only candidate.
        has_bias: whether the layer has a bias.
        weight_decays: candidates, strongest first.
        track: progress display.
    """
    if held_out is None or not len(held_out[1]):
        held_out = None
        weight_decays = weight_decays if len(weight_decays) == 1 else (UNMEASURED,)
    problem = _Problem(features, targets, objective, has_bias)
    best, losses, worse = None, [], 0
    for decay in track(weight_decays, "fitting the classifier", len(weight_decays)):
        problem.minimize(decay)
        found = problem.unscaled()
        fit = LinearFit(*found, decay, ())
        loss = None if held_out is None else float(objective.mean(fit(held_out[0]), held_out[1]))
        losses.append((decay, loss))
        if best is None or loss is None or loss < best[0]:
            best, worse = (loss or 0.0, fit), 0
            continue
        worse += 1
        if worse == 2:
            break
    assert best is not None
    return LinearFit(best[1].weight, best[1].bias, best[1].weight_decay, tuple(losses))


class _Problem:
    """The regression on standardized features, and its current solution."""

    def __init__(self, features: Tensor, targets: Tensor, objective: Objective, has_bias: bool) -> None:
        self.targets, self.objective = targets, objective
        count = len(features)
        mean = sum(part.double().sum(0) for part in features.split(ROWS)) / count
        square = sum((part.double() - mean).square().sum(0) for part in features.split(ROWS)) / count
        self.std = square.sqrt().clamp_min(1e-6 * float(square.mean().sqrt().clamp_min(1e-12))).float()
        self.mean = mean.float() if has_bias else torch.zeros_like(self.std)
        kind = torch.float32 if features.numel() <= IN_FULL else torch.float16
        self.features = torch.empty_like(features, dtype=kind)
        for part, standardized in zip(features.split(ROWS), self.features.split(ROWS), strict=True):
            standardized.copy_(((part.float() - self.mean) / self.std).clamp_(-_LARGEST, _LARGEST))
        classes = len(objective.weights)
        self.weight = torch.zeros(classes, features.shape[1], requires_grad=True)
        self.bias = torch.zeros(classes, requires_grad=has_bias)
        self.total = objective.size(targets)

    def unscaled(self) -> tuple[Tensor, Tensor]:
        """The weights and the bias for features as they are."""
        weight = self.weight.detach() / self.std
        return weight, self.bias.detach() - weight @ self.mean

    def minimize(self, decay: float) -> None:
        """Minimize the objective from the current solution on."""
        parameters = [one for one in (self.weight, self.bias) if one.requires_grad]
        optimizer = torch.optim.LBFGS(
            parameters, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=1e-6, tolerance_change=1e-8,
        )  # fmt: skip

        def loss() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros(())
            for part, targets in zip(self.features.split(ROWS), self.targets.split(ROWS), strict=True):
                logits = part.float() @ self.weight.T + self.bias
                one = self.objective.total(logits, targets) / self.total
                one.backward()
                total += one.detach()
            penalty = decay / 2 * self.weight.square().sum()
            penalty.backward()
            return total + penalty.detach()

        optimizer.step(loss)
