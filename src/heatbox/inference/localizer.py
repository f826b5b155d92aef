"""From pictures to boxes in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils.checks import check_choice, check_length, check_number, kind_of
from heatbox.boxes.contours import heatmap_to_boxes
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.maps.normalize import normalize_heatmap
from heatbox.maps.registry import ENLARGED, MapFunction, MapInputs, find_method, look_at, needs_of, require
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, data_config

BOX_FRAME = 224  # boxes are read off maps of this side, as in scoring, and scaled to the image


@dataclass(frozen=True)
class Prediction:
    """What a localizer found in a batch of B images.

    Attributes:
        labels: (B,) predicted class.
        targets: (B,) class that the maps were made for.
        logits: (B, K) float32.
        maps: (B, h, w) float32, as the method made them: low resolution, not scaled.
        heatmaps: B arrays (H, W) float32 in [0, 1], each of its image's size.
        boxes: B arrays (N, 4) float64 xyxy in pixels of the image; x2 and y2 are past the last pixel.
    """

    labels: Tensor
    targets: Tensor
    logits: Tensor
    maps: Tensor
    heatmaps: list[np.ndarray]
    boxes: list[np.ndarray]


class Localizer:
    """A classifier made to say where.

    Args:
        model: a convolutional classifier that `ClassifierView` can see through.
        method: "cam", "pc1", "walk", "walk-one-pass", a name put together from these (see
            `heatbox.maps.registry`), or a callable (model, images, targets) → (B, h, w).
        threshold: share of a map's maximum above which pixels belong to the object, in [0, 1). No value
            is right for all networks and maps: choose it on images with boxes (`heatbox evaluate`
            prints the best one).
        contours: "largest" gives one box an image, "all" one for every connected region.
        norm: "fold" or "ignore", see `ClassifierView.class_weights`.
        preprocess: how PIL images become input; by default from the model's own timm config.

    Raises:
        InputError: an unknown method, contours or norm, a threshold outside [0, 1), a model that cannot be
            seen through.
        TypeError: an argument of a wrong kind.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | MapFunction = "cam",
        threshold: float = 0.35,
        contours: Literal["largest", "all"] = "largest",
        norm: Literal["fold", "ignore"] = "fold",
        preprocess: Preprocess | None = None,
    ) -> None:
        check_number(threshold, "threshold", "a share of the maximum in [0, 1)")
        check_choice(contours, "contours", ("largest", "all"))
        check_choice(norm, "norm", ("fold", "ignore"))
        if not isinstance(method, str) and not callable(method):
            raise TypeError(
                f"method: {kind_of(method)}, expected a name or a callable (model, images, targets)"
            )
        if not 0 <= threshold < 1:
            raise InputError(f"threshold is {threshold}, expected a share of the maximum in [0, 1)")
        self.view = ClassifierView(model)
        self.method = find_method(method)
        self.needs = needs_of([method])
        require(self.view, self.needs)
        self.threshold = threshold
        self.contours = contours
        self.norm = norm
        self.preprocess = preprocess or Preprocess.from_config(data_config(model))

    def __call__(
        self, images: Tensor | Sequence[Image.Image], targets: Tensor | Sequence[int] | None = None
    ) -> Prediction:
        """Localize the objects of some images.

        Args:
            images: (B, 3, H, W) already preprocessed, or PIL images of any sizes.
            targets: class to localize in each image; by default the predicted one.

        Raises:
            InputError: images or targets of a wrong shape, a class that the model does not have, no image, or
                something else among the PIL images.
            TypeError: images that are no sequence at all, or targets that are no whole numbers.
        """
        (batch, *more), sizes = self._batch(images)
        with torch.inference_mode():
            look = look_at(self.view, batch, self.needs)
            logits = look.logits
            labels = logits.argmax(1)
            wanted = labels if targets is None else self._targets(targets, labels)
        # Methods of one's own may need gradients, which tensors made in inference mode refuse.
        with torch.no_grad():
            look = look.cloned()
            scene = MapInputs.of(look, self.view, batch, wanted.clone(), self.norm, *more)
            maps = self.method(scene).float().cpu()
        heatmaps = [normalize_heatmap(one, (size[1], size[0])) for one, size in zip(maps, sizes, strict=True)]
        boxes = [self._boxes(one, size) for one, size in zip(maps, sizes, strict=True)]
        return Prediction(labels.cpu(), wanted.cpu(), logits.float().cpu(), maps, heatmaps, boxes)

    def _batch(self, images: Tensor | Sequence[Image.Image]) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Input on the model's device, pictures also larger if needed, and each image's (width, height)."""
        check_length(images, "images", "a tensor (B, 3, H, W) or a sequence of PIL images")
        if len(images) == 0:
            raise InputError("there is no image to localize in")
        if isinstance(images, Tensor):
            if images.ndim != 4:
                raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
            batches, sizes = [images], [(images.shape[3], images.shape[2])] * len(images)
        else:
            if not all(isinstance(image, Image.Image) for image in images):
                raise InputError("images are neither a tensor (B, 3, H, W) nor a sequence of PIL images")
            pictures = [image.convert("RGB") for image in images]
            wanted = [self.preprocess]
            wanted += [self.preprocess.enlarged(ENLARGED)] if self.needs.larger else []
            batches = [torch.stack([preprocess(one) for one in pictures]) for preprocess in wanted]
            sizes = [image.size for image in images]
        return [as_input(self.view.model, batch) for batch in batches], sizes

    def _targets(self, targets: Tensor | Sequence[int], labels: Tensor) -> Tensor:
        """(B,) int64 classes, on the device of the labels."""
        try:
            wanted = torch.as_tensor(targets, device=labels.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"targets: {kind_of(targets)}, expected class indices ({len(labels)},)") from None
        if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
            raise TypeError(f"targets: {wanted.dtype}, expected class indices ({len(labels)},)")
        if wanted.shape != labels.shape:
            raise InputError(f"targets have shape {tuple(wanted.shape)}, expected ({len(labels)},)")
        classes = self.view.num_classes
        if bool(((wanted < 0) | (wanted >= classes)).any()):
            raise InputError(f"targets are {wanted.tolist()}, but the model has classes 0 to {classes - 1}")
        return wanted.long()

    def _boxes(self, one: Tensor, size: tuple[int, int]) -> np.ndarray:
        frame = normalize_heatmap(one, BOX_FRAME)
        found = heatmap_to_boxes(frame, [self.threshold], self.contours, protocol="exact")[0]
        return found * np.tile(np.array(size, dtype=np.float64) / BOX_FRAME, 2)
