"""Configurations of models and commands, parsed by the command line and saved in config.json.

This module imports neither torch nor timm, so that the command line starts fast; methods import them when
called.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from torch import nn

    from heatbox.data.transforms import Preprocess

Config = TypeVar("Config")
Target = Literal["label", "predicted"]
OnBad = Literal["stop", "skip"]
ScoreFunction = Literal["softmax", "sigmoid"]
MetricName = Literal[
    "boxes",
    "pointing_game",
    "energy_pointing_game",
    "relevance_rank",
    "top_k_intersection",
    "auc",
    "iou",
    "max_box_acc_v3",
    "cor_loc",
    "localization_ap",
    "pseudo_boxes",
    "all",
]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a classifier is built and how images become its input, whichever classifier it is.

    Every command that runs a model has these options, and only this class interprets them.
    """

    num_classes: int | None = None
    """Number of classes; by default the checkpoint's or the model's."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the function that builds the model."""
    size: int | None = None
    """Side of the square input in pixels; by default the model's."""
    interpolation: Interpolation | None = None
    """Filter that resizes images to the input size; by default the model's."""
    crop_pct: float | None = None
    """Resize the image's shorter side to size / crop_pct and crop its centre, as classifiers are tested; maps
    then cover the crop, and boxes lie in it. By default the whole image is resized to the input size."""
    mean: tuple[float, ...] | None = None
    """Mean in [0, 1] of each channel (RGB), or one for all; by default the model's."""
    std: tuple[float, ...] | None = None
    """Standard deviation in [0, 1] of each channel (RGB), or one for all; by default the model's."""
    output: str | None = None
    """Name or position of the logits among several outputs of the model; by default the one named logits, or
    the only one that can be."""
    scores: ScoreFunction | None = None
    """Scores of classes: softmax, one class per image; or sigmoid, each class alone. By default as the model
    was trained, where that is known; otherwise sigmoid for one output and softmax for several."""
    device: str = "auto"
    """cpu, cuda, mps, or auto for the first available of cuda, mps and cpu."""

    def to_device(self, model: nn.Module) -> nn.Module:
        """A model on the device of this specification; one that accelerate dispatched stays where it is.

        Raises:
            InputError: the device is not available, or the model has no weights that could be moved.
        """
        from heatbox._utils.devices import pick_device
        from heatbox.errors import InputError
        from heatbox.models.spec import execution_device, placement

        device = pick_device(self.device)
        if execution_device(model) is not None:
            return model
        placement(model)  # raises for parameters without values
        try:
            return model.to(device)
        except (
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:  # quantized, or partly without values
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"the model could not be moved to {device} ({reason})") from error

    def preprocess(
        self, model: nn.Module, size: int | None = None, interpolation: str | None = None
    ) -> Preprocess:
        """How images become the input of a model: as in its training, except for the fields that are set.

        What is neither set nor known of the model is assumed, with an `AssumptionWarning` that says so:
        ImageNet's mean and std, 224 x 224 pixels, bilinear.

        Args:
            model: the built classifier.
            size: side of the square input in pixels; takes precedence over the field.
            interpolation: filter that resizes images; takes precedence over the field.

        Raises:
            InputError: a size, mean or standard deviation that no input can have.
        """
        from heatbox.data.transforms import Preprocess, is_filter, per_channel
        from heatbox.errors import InputError
        from heatbox.models.spec import find_preprocessing, input_size

        found = find_preprocessing(model)
        channels, *_ = known_size = input_size(model, found.config)
        own = {**found.config, "input_size": known_size}
        for name in ("mean", "std"):
            if (values := getattr(self, name)) is not None:
                if len(values) not in (1, channels):
                    plural = "s" * (channels > 1)
                    raise InputError(
                        f"{name} has {len(values)} values, but the model reads {channels} channel{plural}"
                    )
                own[name] = per_channel(values, channels)
        size, interpolation = size or self.size, interpolation or self.interpolation
        preprocess = Preprocess.from_config(own, size, interpolation)
        height, width = preprocess.size
        assumed = {
            "mean": "" if "mean" in own else "ImageNet's mean",
            "std": "" if "std" in own else "ImageNet's std",
            "size": "" if size or "input_size" in found.config else f"{width} x {height} pixels",
            "interpolation": ""
            if interpolation or is_filter(found.config.get("interpolation"))
            else f"{preprocess.interpolation} interpolation",
        }
        if self.mean is None or self.std is None:
            notes = list(found.notes)
            if channels != 3 and any(len(own.get(name, (0, 0, 0))) != channels for name in ("mean", "std")):
                plural = "s" * (channels > 1)
                notes.append(f"reads {channels} channel{plural}, with the averages of mean and std over RGB")
        else:
            notes = []
        options = ["mean", "std"] if notes else []
        options += [name for name, words in assumed.items() if words and name not in options]
        if found.framing:
            notes.append(found.framing)
        values = [words for words in assumed.values() if words]
        inside = bool(found.framing or (notes and found.notes))
        _warn_of_assumptions(model, values, notes, options, inside)
        return replace(preprocess, crop_pct=self.crop_pct)


def _warn_of_assumptions(
    model: nn.Module, values: Sequence[str], notes: Sequence[str], options: Sequence[str], inside: bool
) -> None:
    """Warn in one sentence of what is assumed about the preprocessing of a model, if anything is.

    Args:
        model: the classifier.
        values: words on the values that are assumed.
        notes: further clauses about the model.
        options: those that set other values.
        inside: whether the notes tell the model from a network inside it.
    """
    if not values and not notes:
        return
    from heatbox.errors import AssumptionWarning
    from heatbox.models.spec import is_torchvision, model_name, unwrap

    clauses = list(notes)
    if values:
        found = (
            "no preprocessing was found" if len(values) == 4 else "its preprocessing was not found in full"
        )
        whose = ", as most weights of torchvision use" if is_torchvision(model) else ""
        words = ", ".join(values).replace("ImageNet's mean, ImageNet's std", "ImageNet's mean and std")
        clauses.append(f"{found}, so it is assumed ({words}{whose})")
    if options:
        ways = ", ".join(f"--{option}" for option in options)
        clauses.append(f"{ways} or preprocess=Preprocess(...) in Python set others")
    name = type(unwrap(model)).__name__ if inside else model_name(model)
    warnings.warn(f"{name}: {'; '.join(clauses)}", AssumptionWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """The stack level of the first caller outside heatbox, for a warning of the calling function."""
    package, frame, level = str(Path(__file__).parent), inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return max(level, 1)


@dataclass(frozen=True)
class ModelSpec(ModelOptions):
    """A classifier, its weights, and how images become its input."""

    model: str
    """A timm model name; hf:FOLDER or hf:OWNER/NAME for a classifier of transformers, with its weights; or
    path/to/file.py:function for your own model."""
    _: KW_ONLY
    checkpoint: str | None = None
    """A file of weights, or "pretrained" for those included in heatbox or published by timm."""

    @property
    def spec(self) -> ModelSpec:
        """The model's part of a configuration."""
        return ModelSpec(**{name: getattr(self, name) for name in ModelSpec.__dataclass_fields__})

    def build(self) -> nn.Module:
        """The classifier on its device, in eval mode.

        Raises:
            InputError: as `heatbox.create_model`; or the device is not available.
        """
        from heatbox.models.factory import create_model

        model = create_model(self.model, self.num_classes, self.checkpoint, **self.model_options)
        return self.to_device(model)

    def class_names(self, model: nn.Module, number: int) -> Sequence[str]:
        """Names of the classes where they are known; empty where they are not.

        Args:
            model: the built classifier.
            number: number of its classes.
        """
        from heatbox.models.spec import class_names

        return class_names(model, number)

    @property
    def weights(self) -> str | None:
        """The checkpoint and the first 16 digits of its SHA-256, which identify changed weights."""
        if self.checkpoint is None or not Path(self.checkpoint).is_file():
            return self.checkpoint
        with Path(self.checkpoint).open("rb") as file:
            return f"{self.checkpoint} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


@dataclass(frozen=True)
class EvaluateOptions(ModelOptions):
    """Which maps of which data set are computed, and how they are scored, whichever network makes them."""

    data: str
    """A data set: a folder, an archive, PATH:SPLIT, or glyphs:test (glyphs:fullsup, glyphs:train,
    glyphs:several)."""
    _: KW_ONLY
    metadata: Path | None = None
    """Folder with image_ids.txt and the other metadata files, if it is not the data folder."""
    fullsup: str | None = None
    """A fully supervised split, given like --data; the best thresholds on it give the transferred scores."""
    fullsup_metadata: Path | None = None
    """Folder of its metadata files, if it is not the split's folder."""
    method: tuple[str, ...] = ("cam", "pc1")
    """Maps to compute and score: cam, pc1, cam-positive, cam-negative, walk, walk-one-pass, foreground.
    walk:pc1 is the random walk from PC1; foreground is the map of a head that is fitted to the walks of all
    images, walk+foreground the mean of both, foreground-walk a walk of the class map that starts on it;
    larger is the class map of the image of twice the side; a name ending in +centre is a map times the
    centre prior.
    patch-tokens and attention
    are for models with a class token, where cam is patch-tokens. The extra gradcam adds
    gradcam, gradcam++, hirescam, xgradcam, layercam, gradcam-elementwise, eigencam, eigengradcam, kpcacam.
    path/to/file.py:function is your own function of (model, images, targets)."""
    walk_seed: str = "cam"
    """Map from which random walks without a named seed start: cam or pc1 (--seed is always a random seed)."""
    foreground_seed: str = "walk"
    """Maps that a foreground head is fitted to: walk, walk:pc1 or any other map."""
    seed: int = 0
    """Random seed of a foreground head's fit."""
    target: Target = "label"
    """Class that the map is for: the ground-truth label (GT-known), or the predicted class. With label, an
    image of several classes is evaluated once for each."""
    on_bad: OnBad = "stop"
    """What to do with an image that is unreadable, has no box, or has one outside it: stop, or skip it, count
    it by reason and exit with code 1."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights (exact), or ignored (released code)."""
    normalize: str = "min-max"
    """How maps are brought to [0, 1]: min-max, max, percentile or ivr; percentile:0.9 and ivr:0.4 set the
    percentile."""
    protocol: Literal["reference", "exact"] = "reference"
    """How boxes are compared: as in the reference evaluator, or without its rounding."""
    thresholds: int = 1000
    """Number of thresholds."""
    metrics: tuple[MetricName, ...] = ("boxes",)
    """Scores besides those of boxes, which are always computed (PxAP for masks): pointing_game,
    energy_pointing_game, relevance_rank, top_k_intersection, auc, iou, max_box_acc_v3 (reference protocol),
    cor_loc, localization_ap (of a run, which has logits), pseudo_boxes (thresholds and a map chosen without
    ground truth, by the mean boxes of a random walk), or all."""
    channels: int = 3
    """Channels of highest class weight to save for the report page, if a CAM is computed."""
    limit: int | None = None
    """Maximum number of images; the first ones are used."""
    batch_size: int = 32
    """Images per forward pass."""


@dataclass(frozen=True)
class EvaluateConfig(EvaluateOptions, ModelSpec):
    """Compute the maps of a data set and score them."""

    _: KW_ONLY
    foreground: Path | None = None
    """A fitted foreground head, the foreground.safetensors of another run: nothing is fitted. By default a
    head is fitted to the images that are scored, without their boxes."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Several networks whose maps are averaged, beside the options that are for all of them."""

    model: tuple[str, ...]
    """The networks, each named as for one network."""
    checkpoint: tuple[str, ...] = ()
    """A file of weights, "pretrained" or "none" for each network, in their order; one "pretrained" is for
    all."""
    foreground: tuple[Path, ...] = ()
    """A fitted foreground head for each network, in their order. By default a head of each network is fitted
    to the images that are given, without boxes."""

    def each_as(self, kind: Callable[..., Config]) -> list[Config]:
        """The configuration of each network alone.

        Args:
            kind: the configuration of one network, with all other fields of this one.

        Raises:
            InputError: other than one checkpoint or head per network, or a network named twice.
        """
        from heatbox.errors import InputError

        number = len(self.model)
        checkpoints = self.checkpoint * (number if self.checkpoint == ("pretrained",) else 1)
        for name, values in (("checkpoint", checkpoints), ("foreground", self.foreground)):
            if len(values) not in (0, number):
                raise InputError(
                    f"--{name} has {len(values)} values, expected one for each of {number} networks"
                )
        weights = [None if one == "none" else one for one in checkpoints] or [None] * number
        pairs = list(zip(self.model, weights, strict=True))
        if twice := [one for one in pairs if pairs.count(one) > 1]:
            named = " with ".join(filter(None, twice[0]))
            raise InputError(f"{named} is named twice, expected different networks")
        own = ("model", "checkpoint", "foreground")
        common = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in own}
        heads = self.foreground or (None,) * number
        return [
            kind(model=model, checkpoint=checkpoint, foreground=head, **common)
            for (model, checkpoint), head in zip(pairs, heads, strict=True)
        ]

    def names(self) -> list[str]:
        """A short name of each network; numbered where they have the same."""
        short = [model.rstrip("/").rpartition("/")[2] for model in self.model]
        return [f"{name} {number}" if short.count(name) > 1 else name for number, name in enumerate(short, 1)]

    def joined(self) -> dict[str, str | None]:
        """Models, checkpoints and heads in one text each, as runs and calibrations name them."""
        weights = self.checkpoint * (len(self.model) if self.checkpoint == ("pretrained",) else 1)
        return {
            "model": " + ".join(self.model),
            "checkpoint": " + ".join(weights) or None,
            "foreground": " + ".join(map(str, self.foreground)) or None,
        }


@dataclass(frozen=True)
class NetworksConfig(EvaluateOptions, Networks):
    """Compute the maps of a data set with several networks, average them, and score them."""

    def each(self) -> list[EvaluateConfig]:
        """The configuration of each network alone; see `Networks.each_as`.

        Raises:
            InputError: as there, or maps of the predicted class, which may be another one for each network.
        """
        from heatbox.errors import InputError

        if self.target != "label":
            raise InputError(
                "networks may predict different classes, whose maps have no mean; expected --target label"
            )
        return self.each_as(EvaluateConfig)


Faithfulness = Literal["deletion", "insertion", "drop", "road"]


@dataclass(frozen=True)
class FaithfulnessConfig(ModelSpec):
    """Measure how the score of a class follows the map of it."""

    data: str
    """A data set, with or without boxes: a folder, an archive, PATH:SPLIT, or glyphs:test."""
    _: KW_ONLY
    metadata: Path | None = None
    """Folder with image_ids.txt and the other metadata files, if it is not the data folder."""
    method: tuple[str, ...] = ("cam",)
    """Maps to measure; see heatbox evaluate."""
    walk_seed: str = "cam"
    """Map from which random walks without a named seed start."""
    foreground: Path | None = None
    """A fitted foreground head, the foreground.safetensors of a run of heatbox evaluate, for maps of the
    foreground."""
    foreground_seed: str = "walk"
    """Maps that the head was fitted to."""
    measure: tuple[Faithfulness, ...] = ("deletion", "insertion", "drop", "road")
    """deletion, insertion: area under the score while pixels are removed or inserted by the order of the map.
    drop: average drop, increase and gain of images multiplied by their map. road: pixels are removed and
    imputed."""
    target: Target = "label"
    """Class that the map is for: the label, or the predicted class."""
    steps: int = 20
    """Steps of deletion and insertion."""
    fill: Literal["published", "zero", "mean", "blur"] = "published"
    """What removed pixels become: zero (after preprocessing), the image's mean, or a blurred image; published
    is zero, and blur for insertion. ROAD imputes instead."""
    percentiles: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    """Percentiles of the map at which ROAD removes pixels."""
    norm: Literal["fold", "ignore"] = "fold"
    """Norm layers of the head: folded into the class weights, or ignored."""
    on_bad: OnBad = "stop"
    """What to do with an image that is unreadable: stop, or skip it, count it and exit with code 1."""
    limit: int | None = None
    """Maximum number of images; the first ones are used."""
    batch_size: int = 32
    """Images per forward pass."""
    seed: int = 0
    """Random seed, of the baseline of random maps and of the noise of ROAD."""


@dataclass(frozen=True, kw_only=True)
class LocateOptions(ModelOptions):
    """Which boxes are made of images, whichever network makes the maps."""

    method: str = "cam"
    """The map: cam, pc1, walk, walk-one-pass, walk:pc1, foreground, foreground-walk, or one of them with
    +centre; see heatbox evaluate."""
    walk_seed: str = "cam"
    """Map from which a random walk without a named seed starts."""
    threshold: float | Literal["mean"] | None = None
    """Fraction of the map's maximum above which pixels belong to the object; by default that of
    --calibration, or .35. evaluate prints the best. mean, for walks, is the mean of the boxes at .35
    to .70."""
    calibration: Path | None = None
    """A file of heatbox calibrate: its threshold, and the confidence and the outer box of each box."""
    foreground_seed: str = "walk"
    """Maps that a foreground head is fitted to: walk, walk:pc1 or any other map."""
    seed: int = 0
    """Random seed of a foreground head's fit."""
    contours: Literal["largest", "all"] = "largest"
    """One box per image, or one for every contour."""
    normalize: str | None = None
    """How maps are brought to [0, 1]: min-max, max, percentile or ivr; percentile:0.9 and ivr:0.4 set the
    percentile. By default as for --calibration, or min-max."""
    protocol: Literal["reference", "exact"] = "reference"
    """How maps are binarized: at 8-bit levels, as heatbox evaluate scores them, or without rounding."""
    target: int | Literal["folder"] | None = None
    """Class to localize: a number, or folder for the class that the folder of each image names; by default
    the predicted one."""


@dataclass(frozen=True)
class LocateConfig(LocateOptions, ModelSpec):
    """Localize the objects in your own images."""

    _: KW_ONLY
    foreground: Path | None = None
    """A fitted foreground head, the foreground.safetensors of a run; by default a head is fitted to the
    images that are given."""


@dataclass(frozen=True, kw_only=True)
class LocateNetworksConfig(LocateOptions, Networks):
    """Localize the objects in your own images with the mean of the maps of several networks."""

    def each(self) -> list[LocateConfig]:
        """The configuration of each network alone; see `Networks.each_as`."""
        return self.each_as(LocateConfig)


DEFAULT_MAP = "foreground-walk"
OTHER_MAPS = ("walk", "walk-one-pass", "cam", "pc1")
"""The map from which `heatbox label` makes boxes, and those that take its place, the first that is possible,
where there are too few images to learn from or the network has no foreground head."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(ModelOptions):
    """Which boxes are made of photographs, whichever network makes the maps."""

    method: str | None = None
    """The map: any one that heatbox evaluate makes; by default foreground-walk, which learns from all images.
    For fewer than 30 images, and networks without such a map, it is walk or another one, with a note."""
    seed: int = 0
    """Random seed of a foreground head's fit."""
    threshold: float | None = None
    """Fraction of the map's maximum above which pixels belong to an object; by default that of the
    calibration; without one .5 for walks and maps of the foreground, .35 for others."""
    calibration: Path | None = None
    """A file that heatbox calibrate wrote: threshold, normalization and confidence."""
    normalize: str | None = None
    """How maps are brought to [0, 1]: min-max, max, percentile or ivr; percentile:0.9 and ivr:0.4 set the
    percentile. By default as for --calibration, or min-max."""
    objects: Literal["several", "one"] = "several"
    """Boxes of a class in an image: one for each object that the map separates, or one around the largest."""
    keep_features: bool = True
    """Keep what a foreground head reads of each image in the folder of the maps, 50 KB for an input of 224
    pixels: --corrected needs it to teach the head."""
    masks: bool = False
    """Also write the outline of each object as a polygon, where a format has polygons."""
    min_score: float = 0.5
    """Images without labels: least score of the predicted class; below it an image has no box."""
    min_confidence: float = 0.0
    """Least confidence of a box that is written."""
    on_bad: OnBad = "skip"
    """What to do with an image that cannot be read: skip and list it, or stop."""
    limit: int | None = None
    """Maximum number of images; the first ones are used."""
    batch_size: int = 16
    """Images per forward pass."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(LabelOptions):
    """Make boxes of labelled photographs."""

    model: str | None = None
    """A timm model name, hf:FOLDER or hf:OWNER/NAME, or path/to/file.py:function; by default a classifier is
    fitted to the photographs' labels, as heatbox train finetune does."""
    checkpoint: str | None = None
    """A file of weights, or "pretrained" for those included in heatbox or published by timm."""
    finetune: str = "tf_efficientnet_lite0"
    """Without --model: the pretrained network that is fitted, named like a model."""
    finetune_checkpoint: str | None = None
    """A file of its weights; by default the published ones."""
    foreground: Path | None = None
    """A fitted foreground head, the foreground.safetensors of another run: nothing is fitted."""

    @property
    def spec(self) -> ModelSpec:
        """The model's part of the configuration.

        Raises:
            InputError: no model is named.
        """
        from heatbox.errors import InputError

        if self.model is None:
            raise InputError("name a classifier with --model (and its weights with --checkpoint)")
        shared = {name: getattr(self, name) for name in ModelOptions.__dataclass_fields__}
        return ModelSpec(self.model, checkpoint=self.checkpoint, **shared)


@dataclass(frozen=True, kw_only=True)
class LabelNetworksConfig(LabelOptions, Networks):
    """Make boxes of labelled photographs with the mean of the maps of several networks."""

    def each(self) -> list[LabelConfig]:
        """The configuration of each network alone; see `Networks.each_as`."""
        return self.each_as(LabelConfig)


@dataclass(frozen=True)
class ScoreConfig:
    """Score heatmaps made by any tool."""

    heatmaps: Path
    """Folder of <image id>.npy heatmaps, 224 x 224 in [0, 1]."""
    data: str
    """A data set: a folder, an archive or PATH:SPLIT; in the metadata layout its images are not needed."""
    fullsup_heatmaps: Path | None = None
    """Heatmaps of a fully supervised split, on which thresholds are chosen for the transferred scores."""
    fullsup: str | None = None
    """The fully supervised split, given like --data."""
    pseudo_heatmaps: Path | None = None
    """Heatmaps of a random walk of the same images: their mean boxes are taken for the ground truth that
    chooses the thresholds of the pseudo scores."""
    normalize: str = "min-max"
    """How maps are brought to [0, 1]: min-max, max, percentile or ivr; percentile:0.9 and ivr:0.4 set the
    percentile. Only with --resize; other maps are scored as they are."""
    protocol: Literal["reference", "exact"] = "reference"
    """How boxes are compared: as in the reference evaluator, or without its rounding."""
    thresholds: int = 1000
    """Number of thresholds."""
    metrics: tuple[MetricName, ...] = ("boxes",)
    """Scores besides those of boxes, which are always computed (PxAP for masks): pointing_game,
    energy_pointing_game, relevance_rank, top_k_intersection, auc, iou, max_box_acc_v3 (reference protocol),
    cor_loc, or all. (localization_ap is for a run of heatbox evaluate, which has logits; pseudo_boxes come
    with --pseudo-heatmaps.)"""
    on_bad: OnBad = "stop"
    """What to do with an image that has no box or one outside it: stop, or skip it, count it by reason and
    exit with code 1."""
    resize: bool = False
    """Resize maps of any size to 224 x 224 and scale them to [0, 1] first."""
