"""The interface timm expects of a network of stages, once for both large-kernel families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import create_classifier
from timm.models._features import feature_take_indices
from torch import Tensor, nn


class StagedNet(nn.Module):
    """Stages in a row, then `norm`, average pooling and `head` in the order `forward_head` gives them.

    A family's class makes `stages` (modules with a `grad_checkpointing` flag), `norm`, and
    `enter(i, x)`: the stem for i = 0, else what leads from stage i - 1 to stage i.
    """

    stages: nn.ModuleList
    norm: nn.Module
    global_pool: nn.Module
    head: nn.Module

    def __init__(
        self,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        channels: Sequence[int],
        strides: Sequence[int],
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.in_chans, self.drop_rate = in_chans, drop_rate
        self.num_features = self.head_hidden_size = channels[-1]
        self.pool_type = global_pool
        reductions = torch.tensor(strides, device="cpu").cumprod(0).tolist()
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            for i, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]

    def make_head(self, num_classes: int) -> None:
        """Pooling, dropout and a new linear layer of `num_classes` outputs (0 for none)."""
        self.num_classes = num_classes
        self.global_pool, self.head = create_classifier(
            self.num_features, num_classes, pool_type=self.pool_type
        )
        self.head_drop = nn.Dropout(self.drop_rate)

    def enter(self, i: int, x: Tensor) -> Tensor:
        """Input of stage `i` from the output of the stage before it (or from the image)."""
        raise NotImplementedError

    def keep_stages(self, number: int) -> None:
        """Drop all stages after the first `number`."""
        self.stages = self.stages[:number]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves out: norms, biases and layer scales."""
        return {name for name, parameter in self.named_parameters() if parameter.ndim < 2}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in backward instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        """The linear layer that makes the logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, untrained classifier of `num_classes` outputs (0 for none)."""
        self.pool_type = self.pool_type if global_pool is None else global_pool
        weight = next(self.parameters())
        self.make_head(num_classes)
        self.head.to(weight.device, weight.dtype).train(self.training)
        self.head_drop.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the chosen stages, and unless `intermediates_only` first the last stage computed.

        Args:
            x: images (B, 3, H, W).
            indices: the last n stages for a number, all for None, else these stages.
            norm: has no effect on feature maps here; timm passes it.
            stop_early: compute no stage after the last chosen one.
            output_fmt: only "NCHW".
            intermediates_only: return the list alone.
        """
        assert output_fmt == "NCHW", "feature maps of a CNN are NCHW"
        chosen, last = feature_take_indices(len(self.stages), indices)
        taken = []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(self.enter(i, x))  # (B, channels[i], h, w)
            if i in chosen:
                taken.append(x)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the chosen stages do not need; returns their indices."""
        chosen, last = feature_take_indices(len(self.stages), indices)
        if prune_norm or last < len(self.stages) - 1:
            self.norm = nn.Identity()
        self.keep_stages(last + 1)
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, h, w), the output of the last stage, before any final norm."""
        for i, stage in enumerate(self.stages):
            x = stage(self.enter(i, x))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, h, w) → (B, C) for `pre_logits`, else logits (B, num_classes)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def described(side: int = 224, **overrides: Any) -> dict[str, Any]:
    """timm's description of weights for images of `side` pixels: 1000 classes, ImageNet's mean and std.

    From 384 pixels on both families squash the whole image to the square; below, they crop 7/8 of it.
    """
    squash = {"crop_pct": 1.0, "crop_mode": "squash"} if side >= 384 else {"crop_pct": 0.875}
    return {
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 32, side // 32),
        "interpolation": "bicubic",
        "classifier": "head",
        "license": "mit",
        **squash,
        **overrides,
    }
