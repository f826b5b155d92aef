"""From images to boxes in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from heatbox._utils.checks import check_choice, check_integer, check_length, kind_of
from heatbox._utils.extras import require as require_extra
from heatbox.boxes.contours import Contours, Protocol
from heatbox.config import ModelOptions, ScoreFunction
from heatbox.data.files.images import network_image, picture_size
from heatbox.data.objects import detections_of
from heatbox.data.transforms import Preprocess, Region
from heatbox.errors import AssumptionWarning, InputError
from heatbox.inference.boxes import check_box_options, map_to_boxes, place_map
from heatbox.inference.calibration import DEFAULT_THRESHOLD, Calibration, outer_boxes
from heatbox.inference.collection import (
    MOST_IMAGES,
    HeadFit,
    drawn,
    features_shape,
    fitted_on,
    head_seed,
    sample_size,
    usable_head,
)
from heatbox.inference.confidence import box_confidence, is_large
from heatbox.inference.networks import (
    common_outputs,
    logits_of,
    mean_name,
    mean_scores,
    require_same_order,
)
from heatbox.inference.scores import class_scores, score_function, trained_function
from heatbox.maps.foreground import ForegroundHead, average_maps
from heatbox.maps.normalize import check_normalization, normalize_heatmap
from heatbox.maps.registry import (
    ENLARGED,
    MapFunction,
    MapInputs,
    Requirements,
    check_requirements,
    find_method,
    named_for,
    requirements_of,
    run_model,
)
from heatbox.models.introspect import ClassifierView, ModelOutput
from heatbox.models.spec import as_input, class_names, input_channels, model_name, placement

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Prediction:
    """The output of a localizer for a batch of B images.

    Attributes:
        labels: (B,) predicted class.
        targets: (B,) class that the maps were made for.
        logits: (B, K) float32.
        maps: (B, h, w) float32, as the method returned them: low resolution, not scaled. Of several networks
            the mean of the scaled maps, on the finest of their grids.
        heatmaps: B arrays (H, W) float32 in [0, 1], each of its image's size.
        boxes: B arrays (N, 4) float64 xyxy in pixels of the image, half-open; see `map_to_boxes`.
        score_function: "softmax" or "sigmoid", by which `scores` are made of logits; None if it is not known.
        confidences: B arrays (N,), the probability of each box that its IoU with an object is at least .5;
            None where it was not asked for. Without a calibration it is expected, not measured, see
            `heatbox.inference.confidence.box_confidence`.
        outer_boxes: B arrays (N, 4), boxes widened by the margin of the calibration; None without one.
    """

    labels: Tensor
    targets: Tensor
    logits: Tensor
    maps: Tensor
    heatmaps: list[np.ndarray]
    boxes: list[np.ndarray]
    score_function: ScoreFunction | None = None
    confidences: list[np.ndarray] | None = None
    outer_boxes: list[np.ndarray] | None = None

    def scores(self) -> np.ndarray:
        """(B,) float32, the probability of each image's target; see `heatbox.inference.scores`.

        Warns:
            AssumptionWarning: softmax is assumed, since nothing is known of how the network was trained.
        """
        classes = self.logits.shape[1]
        scores = class_scores(self.logits.numpy(), score_function(self.score_function, classes))
        return np.take_along_axis(scores, self.targets.numpy()[:, None], 1)[:, 0].astype(np.float32)

    def to_detections(self) -> list[supervision.Detections]:
        """The boxes of each image as `supervision.Detections`.

        Every box has its image's target as class_id. Its confidence is that of the calibration, or without
        one the probability of the class.

        Raises:
            InputError: supervision is not installed.
        """
        require_extra("supervision", "to_detections()")
        per_box = self.confidences
        if per_box is None or self.outer_boxes is None:  # not calibrated
            scores = self.scores()
            per_box = [np.full(len(boxes), score) for boxes, score in zip(self.boxes, scores, strict=True)]
        return [
            detections_of(boxes, [target] * len(boxes), scores)
            for boxes, scores, target in zip(self.boxes, per_box, self.targets.tolist(), strict=True)
        ]


class _Network:
    """One of the classifiers of a localizer: its preprocessing, the method's name for it, its head.

    Args:
        model, method, output, preprocess, foreground, norm, scores: as for `Localizer`, of one model.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | MapFunction,
        output: str | int | None,
        preprocess: Preprocess | None,
        foreground: ForegroundHead | str | Path | None,
        norm: Literal["fold", "ignore"],
        scores: ScoreFunction | None,
    ) -> None:
        self.view = ClassifierView(model, output, preprocess.size if preprocess else None)
        self.name = named_for(self.view, method) if isinstance(method, str) else None
        method = self.name or method
        self.method = find_method(method)
        self.head_seed = head_seed([method], self.view)
        self.requirements = requirements_of([method], self.view)
        check_requirements(self.view, self.requirements)
        self.norm = norm
        trained, classes = trained_function(self.view), self.view.num_classes
        known = scores or trained or classes == 1
        self.score_function = score_function(scores, classes, trained) if known else None
        self.preprocess = preprocess or ModelOptions().preprocess(model)
        channels = input_channels(model) if preprocess else self.preprocess.channels
        if self.preprocess.channels != channels:
            raise InputError(
                f"preprocess has {self.preprocess.channels} channels, but the model reads {channels}"
            )
        self.head: ForegroundHead | None = None
        if foreground is not None:
            if self.head_seed is None:
                raise InputError(
                    f"{self.name or 'the method'} has no foreground head, expected none to be given"
                )
            shape = features_shape(self.view, self.preprocess.size, self.requirements)
            self.head = usable_head(foreground, self.view, shape.channels, self.preprocess.size)

    def run(self, images: Tensor | Sequence[Any], requirements: Requirements) -> _Pass:
        """A forward pass of preprocessed images (B, C, H, W), or of what `network_image` returns."""
        extents = None
        if isinstance(images, Tensor):
            batches = [images]
        else:
            wanted = [self.preprocess]
            wanted += [self.preprocess.enlarged(ENLARGED)] if requirements.larger else []
            batches = [torch.stack([preprocess(one) for one in images]) for preprocess in wanted]
            if self.preprocess.crop_pct is not None:
                extents = [self.preprocess.extent(picture_size(image)) for image in images]
        batch, *more = (as_input(self.view.model, one) for one in batches)
        return _Pass(batch, more[0] if more else None, run_model(self.view, batch, requirements), extents)

    def inputs(self, done: _Pass, targets: Tensor) -> MapInputs:
        """What the method reads, for the classes (B,) of some images."""
        wanted = targets.to(done.output.logits.device)
        return MapInputs.from_output(
            done.output, self.view, done.batch, wanted, self.norm, done.larger, self.head
        )

    def fit(self, fit: HeadFit, size: Sequence[int], seed: int) -> ForegroundHead:
        """Fit the head to what was gathered of images of (height, width) pixels."""
        assert self.head_seed is not None
        head = fit.fit()
        about = fitted_on(self.view, len(fit), self.head_seed, size) | {"random_seed": seed}
        head.fitted_on = {name: str(value) for name, value in about.items()}
        self.head = head.to(placement(self.view.model)[0])
        return self.head


class _Pass(NamedTuple):
    """Input and output of a network, its input of twice the side, and what the input shows, None for all."""

    batch: Tensor
    larger: Tensor | None
    output: ModelOutput
    extents: list[Region] | None


class Localizer:
    """A classifier that returns boxes, or several whose maps and class scores are averaged.

    Args:
        model: a classifier that `ClassifierView` can analyse; or a list of classifiers of the same classes in
            the same order. Their maps are averaged by `heatbox.maps.foreground.average_maps`, their scores
            of classes too. Each has its own preprocessing and foreground head.
        method: "cam", "pc1", "walk", "walk-one-pass", "foreground", a name composed of these such as
            "walk+foreground" (see `heatbox.maps.registry`), or a callable (model, images, targets) →
            (B, h, w).
        threshold: fraction of a map's maximum above which pixels belong to the object, in [0, 1). No value
            is right for all networks and maps: choose it on images with boxes (`heatbox evaluate`
            prints the best one). By default that of the calibration, or .35. "mean", for random walks, is
            the mean of the boxes at several, see `map_to_boxes`.
        contours: "largest" returns one box per image, "all" one per contour.
        norm: "fold" or "ignore", see `ClassifierView.class_weights`.
        preprocess: how images become input; by default what is known of the model, see
            `heatbox.models.spec.find_preprocessing`. With its `crop_pct`, maps cover the crop; heatmaps and
            boxes are still those of the whole image. Of several models, a list.
        protocol: how maps are binarized, "reference" or "exact"; see `map_to_boxes`.
        scores: how `Prediction.scores` are made of logits: "softmax", one class per image, or "sigmoid", each
            class alone. By default as the model was trained, where that is known; otherwise sigmoid for one
            output and softmax for several.
        output: which of several outputs of the model are the logits, by name or position; see
            `heatbox.models.outputs.select_output`.
        calibration: what `heatbox.inference.calibration.load_calibration` read: the threshold of the method,
            and the confidence and outer box of each of its boxes.
        confidence: return the confidence of boxes without a calibration too.
        normalize: how maps are brought to [0, 1], see `heatbox.maps.normalize_heatmap`; by default as those
            of the calibration, or min-max.
        foreground: the head of a method with "foreground", or its file; without it, `fit_foreground` is to be
            called first. Of several models, a list.

    Raises:
        InputError: an unknown method, contours, norm, protocol, scores or normalization, a threshold outside
            [0, 1), a model whose head cannot be found, a calibration of another method, of another
            normalization or beside a threshold; or several models of other classes, score functions or
            numbers of channels.
        TypeError: an argument of a wrong type.

    Warns:
        AssumptionWarning: the model's preprocessing is not known and none is given; the threshold is "mean"
            and the map is no random walk; or the classes of several models have other names, or none.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        method: str | MapFunction = "cam",
        threshold: float | Literal["mean"] | None = None,
        contours: Contours = "largest",
        norm: Literal["fold", "ignore"] = "fold",
        preprocess: Preprocess | Sequence[Preprocess | None] | None = None,
        protocol: Protocol = "reference",
        scores: ScoreFunction | None = None,
        output: str | int | None = None,
        calibration: Calibration | None = None,
        confidence: bool = False,
        normalize: str | None = None,
        foreground: ForegroundHead | str | Path | Sequence[ForegroundHead | str | Path | None] | None = None,
    ) -> None:
        if threshold is not None and calibration is not None:
            where = calibration.where
            raise InputError(f"threshold is {threshold}, but {where} has one; expected only one of them")
        check_box_options(DEFAULT_THRESHOLD if threshold is None else threshold, contours, protocol)
        check_choice(norm, "norm", ("fold", "ignore"))
        if not isinstance(method, str) and not callable(method):
            raise TypeError(
                f"method: {kind_of(method)}, expected a name or a callable (model, images, targets)"
            )
        usual = "min-max" if calibration is None else calibration.normalize
        self.normalize = usual if normalize is None else normalize
        check_normalization(self.normalize)
        if calibration is not None:
            calibration.require_settings({"normalize": self.normalize})
        models = list(model) if isinstance(model, Sequence) else [model]
        if not models:
            raise InputError("there is no model, expected one or several")
        self.networks = [
            _Network(one, method, output, prepared, head, norm, scores)
            for one, prepared, head in zip(
                models,
                _for_each(preprocess, len(models), "preprocess"),
                _for_each(foreground, len(models), "foreground"),
                strict=True,
            )
        ]
        asked = method if isinstance(method, str) else ""
        self.name = mean_name([one.name or "" for one in self.networks], asked) or None
        """Name of the method; it differs from the one asked for where a model has no exact class map."""
        self.score_function = self._common()
        self.calibration = None if calibration is None else calibration.of(self.name)
        self.confidence = confidence or calibration is not None
        default: float = DEFAULT_THRESHOLD if self.calibration is None else self.calibration.threshold
        self.threshold: float | Literal["mean"] = default if threshold is None else threshold
        if self.threshold == "mean" and not is_large(self.name or ""):
            what = "the mean of boxes at .35 to .70 was measured on random walks"
            words = f"assumed: it suits {self.name or 'your function'} too, whose best threshold may be lower"
            warnings.warn(f"{what}; {words}", AssumptionWarning, stacklevel=2)
        self.contours = contours
        self.protocol = protocol

    def _common(self) -> ScoreFunction | None:
        """The score function of all networks; None if it is not known and there is one network only."""
        first, *others = self.networks
        if not others:
            return first.score_function
        names = [f"{model_name(one.view.model)} ({n})" for n, one in enumerate(self.networks, 1)]
        classes = [one.view.num_classes for one in self.networks]
        functions = [score_function(one.score_function, one.view.num_classes) for one in self.networks]
        found = common_outputs(names, classes, functions)
        require_same_order(names, [class_names(one.view.model, classes[0]) for one in self.networks])
        for name, one in zip(names, self.networks, strict=True):
            if (channels := one.preprocess.channels) != first.preprocess.channels:
                raise InputError(
                    f"{names[0]} reads {first.preprocess.channels} channels and {name} {channels}, expected "
                    "networks that read the same images"
                )
        return found

    @property
    def view(self) -> ClassifierView:
        """The analysed model, the first of several."""
        return self.networks[0].view

    @property
    def preprocess(self) -> Preprocess:
        """How images become input of the model, the first of several."""
        return self.networks[0].preprocess

    @property
    def head_seed(self) -> str | None:
        """The method to whose maps a foreground head is fitted; None for a method without a head."""
        return self.networks[0].head_seed

    @property
    def head(self) -> ForegroundHead | None:
        """The foreground head of the model, the first of several; None where there is none yet."""
        return self.networks[0].head

    @property
    def heads(self) -> list[ForegroundHead | None]:
        """The foreground head of each model."""
        return [one.head for one in self.networks]

    def fit_foreground(
        self,
        images: Tensor | Iterable[Image.Image | np.ndarray],
        targets: Tensor | Sequence[int] | None = None,
        *,
        seed: int = 0,
        batch_size: int = 16,
    ) -> ForegroundHead:
        """Fit the foreground head of the method to images, without boxes; later calls use it.

        The network is run on each image once; about 50 KB are kept of an image of 224 pixels.

        Args:
            images: as for a call; or an iterable of such images, which are read one batch at a time. Of a
                tensor or list, at most `heatbox.inference.collection.MOST_IMAGES` are drawn by the seed, and
                an iterable is read to its end.
            targets: class of each image, for the maps that the head is fitted to; by default the predicted.
            seed: of all random numbers; the same images and seed give the same head.
            batch_size: images per forward pass.

        Returns:
            The head; its `fitted_on` says on what, and ``head.save(file, **head.fitted_on)`` writes it. Each
            of several models gets one: this is that of the first, `heads` has all.

        Raises:
            InputError: the method has no head, no image, nothing to learn; or as a call.
            TypeError: as a call.

        Warns:
            AssumptionWarning: there are fewer than `heatbox.inference.collection.FEW_IMAGES` images.
        """
        if self.head_seed is None:
            raise InputError(f"{self.name or 'the method'} has no foreground head that could be fitted")
        check_integer(batch_size, "batch size")
        requirements = [
            requirements_of([one.name or "", one.head_seed or ""], one.view) for one in self.networks
        ]
        for one, needed in zip(self.networks, requirements, strict=True):
            check_requirements(one.view, needed)
        if isinstance(images, Tensor | Sequence):
            order = drawn(len(images), MOST_IMAGES, seed)
            if targets is not None:
                check_length(targets, "targets", f"class indices ({len(images)},)")
                if len(targets) != len(images):
                    raise InputError(f"there are {len(targets)} targets of {len(images)} images")
                targets = [int(targets[index]) for index in order]
            if isinstance(images, Tensor):
                return self._fit(torch.split(images[order], batch_size), targets, requirements, seed)
            reading: Iterator[Image.Image | np.ndarray] = map(images.__getitem__, order)
        else:
            reading = iter(images)
        batches = iter(lambda: list(islice(reading, batch_size)), [])
        return self._fit(batches, targets, requirements, seed)

    def _fit(
        self,
        batches: Iterable[Tensor | Sequence[Image.Image | np.ndarray]],
        targets: Tensor | Sequence[int] | None,
        requirements: Sequence[Requirements],
        seed: int,
    ) -> ForegroundHead:
        sizes: list[Sequence[int]] = [one.preprocess.size for one in self.networks]
        fits = [HeadFit(seed) for _ in self.networks]
        for images in batches:
            start = len(fits[0])
            part = None if targets is None else targets[start : start + len(images)]
            with torch.no_grad():
                passes, _, wanted, _ = self._run(images, part, requirements)
                for index, (network, done, fit) in enumerate(zip(self.networks, passes, fits, strict=True)):
                    inputs = network.inputs(done, wanted)
                    if not start:
                        sizes[index] = (done.batch.shape[2], done.batch.shape[3])
                        fit.sample = sample_size(inputs.head_shape)
                    assert network.head_seed is not None
                    fit.add(inputs, network.head_seed)
        for network, fit, size in zip(self.networks, fits, sizes, strict=True):
            network.fit(fit, size, seed)
        assert self.head is not None
        return self.head

    def _run(
        self,
        images: Tensor | Sequence[Image.Image | np.ndarray],
        targets: Tensor | Sequence[int] | None,
        requirements: Sequence[Requirements],
    ) -> tuple[list[_Pass], Tensor, Tensor, list[tuple[int, int]]]:
        """Passes of all networks, logits (B, K) and targets (B,), and (width, height) of each image."""
        read, sizes = self._read(images)
        passes = [one.run(read, needed) for one, needed in zip(self.networks, requirements, strict=True)]
        logits = passes[0].output.logits
        if len(passes) > 1:
            assert self.score_function is not None
            each = [one.output.logits.float().cpu().numpy() for one in passes]
            logits = torch.from_numpy(logits_of(mean_scores(each, self.score_function), self.score_function))
        labels = logits.argmax(1)
        return passes, logits, labels if targets is None else self._targets(targets, labels), sizes

    def __call__(
        self,
        images: Tensor | Sequence[Image.Image | np.ndarray],
        targets: Tensor | Sequence[int] | None = None,
    ) -> Prediction:
        """Localize the objects of some images.

        Args:
            images: (B, C, H, W) already preprocessed; or PIL images of any sizes and modes, turned as their
                EXIF says; or arrays (H, W), (H, W, C) or (C, H, W). They are read as `heatbox locate` reads
                files, see `heatbox.data.files.images.network_image`.
            targets: class to localize in each image; by default the predicted one.

        Raises:
            InputError: images or targets of a wrong shape, images of another number of channels or bands than
                the model reads, a class that the model does not have, no image, or something else among the
                images.
            TypeError: images that are not a sequence, or targets that are not integers.
        """
        # Not in inference mode: custom methods may need gradients, which its tensors do not support.
        with torch.no_grad():
            needed = [one.requirements for one in self.networks]
            passes, logits, wanted, sizes = self._run(images, targets, needed)
            each = [
                one.method(one.inputs(done, wanted)).float().cpu()
                for one, done in zip(self.networks, passes, strict=True)
            ]
        placed = [_placed(maps, done.extents) for maps, done in zip(each, passes, strict=True)]
        several = len(each) > 1
        maps = (
            average_maps([torch.stack([*map(torch.as_tensor, one)]) for one in placed])
            if several
            else each[0]
        )
        whole = maps if several else placed[0]
        heatmaps = [
            normalize_heatmap(one, (size[1], size[0]), self.normalize)
            for one, size in zip(whole, sizes, strict=True)
        ]
        boxes = [
            map_to_boxes(one, size, self.threshold, self.contours, self.protocol, self.normalize)
            for one, size in zip(whole, sizes, strict=True)
        ]
        confidences = outer = None
        if self.confidence:
            known = None if self.calibration is None else self.calibration.confidence
            confidences = [
                box_confidence({self.name or "map": one}, found, size, known)
                for one, found, size in zip(whole, boxes, sizes, strict=True)
            ]
        if self.calibration is not None:
            margin = self.calibration.margin
            outer = [outer_boxes(found, size, margin) for found, size in zip(boxes, sizes, strict=True)]
        return Prediction(
            logits.argmax(1).cpu(),
            wanted.cpu(),
            logits.float().cpu(),
            maps,
            heatmaps,
            boxes,
            self.score_function,
            confidences,
            outer,
        )

    def _read(
        self, images: Tensor | Sequence[Image.Image | np.ndarray]
    ) -> tuple[Tensor | list[Any], list[tuple[int, int]]]:
        """Preprocessed images, or images as the networks read them; and (width, height) of each."""
        expected = "a tensor (B, C, H, W) of preprocessed images, or a list of PIL images or arrays"
        check_length(images, "images", expected)
        if isinstance(images, np.ndarray):
            raise TypeError(f"images: {kind_of(images)}, expected {expected}")
        if len(images) == 0:
            raise InputError("there is no image to localize in")
        channels = self.preprocess.channels
        if isinstance(images, Tensor):
            if images.ndim != 4 or images.shape[1] != channels:
                shape = f"(B, {channels}, H, W)"
                raise InputError(f"images have shape {tuple(images.shape)}, expected {shape}")
            if any(one.preprocess != self.preprocess for one in self.networks):
                raise InputError(
                    "a tensor is preprocessed for one network, but these have different preprocessing; "
                    "expected a list of PIL images or arrays"
                )
            self.preprocess.warn_of_scale(images, "a tensor, which has to be preprocessed, has")
            return images, [(images.shape[3], images.shape[2])] * len(images)
        if not all(isinstance(image, Image.Image | np.ndarray) for image in images):
            raise InputError(f"images contain something else; expected {expected}")
        read = [network_image(image, channels) for image in images]
        return read, [picture_size(image) for image in read]

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


def _placed(maps: Tensor, extents: list[Region] | None) -> Sequence[Any]:
    """Maps of whole images."""
    return [*maps] if extents is None else [place_map(*pair) for pair in zip(maps, extents, strict=True)]


def _for_each(value: Any, number: int, what: str) -> list[Any]:
    """A value for each network.

    Raises:
        InputError: one value for several networks, or another number of them.
    """
    if value is None:
        return [None] * number
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) != number:
        raise InputError(f"{what} has {len(values)} values, expected one for each of {number} models")
    return values
