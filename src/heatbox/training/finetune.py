"""A classifier for the classes of a data set, from a pretrained network.

The last linear layer is fitted to features of the images that are computed once; with `epochs`, the whole
network is then trained from there by `heatbox.training.trainer.fit`, and the best epoch is kept. The run
folder:

``config.json``           the configuration; a rerun with the same configuration resumes
``environment.json``      versions, platform, git commit, seed
``features/``             the input of the last layer for each image, float16, in shards
``held-out.json``         ids of the images that were measured on and not trained on
``head.safetensors``      the fitted last layer
``weights.safetensors``   the network, which every command takes as its checkpoint: with class names,
                          preprocessing and score function
``finetune.json``         accuracy, of each class too, and the confusion matrix; written last
``log.csv``, ``log.json``, ``state.pt``   of the training of the whole network
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer
from heatbox._utils.io import read_json, to_json
from heatbox._utils.json_schema import FINITE, TEXT, Kind, checked, one_of, or_null
from heatbox._utils.plugins import is_plugin
from heatbox._utils.progress import Track, silent
from heatbox.config import ModelSpec, ScoreFunction
from heatbox.data.classes import match_classes
from heatbox.data.files.trees import raise_problem
from heatbox.data.held_out import held_out_part
from heatbox.data.loader import preprocessed
from heatbox.data.open import open_split, open_training_split
from heatbox.data.problems import UNREADABLE, BadImage, LeftOut, Problem, require_fit
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Example, Split
from heatbox.errors import AssumptionWarning, InputError
from heatbox.evaluation.predict import run_inference
from heatbox.evaluation.run import CONFIG, LEFT_OUT, Run, ShardStore, ids_of
from heatbox.metrics.classification import multi_label_scores, single_label_scores
from heatbox.models.checkpoints import classes_of, read_checkpoint, read_safetensors, write_safetensors
from heatbox.models.factory import PRETRAINED, create_with_new_head
from heatbox.models.introspect import ClassifierView
from heatbox.models.outputs import select_output
from heatbox.models.spec import as_input, eval_mode
from heatbox.ops import accelerate
from heatbox.training.config import FinetuneConfig, TrainConfig, TrainOptions
from heatbox.training.distributed import failures_explained, make_fabric
from heatbox.training.linear import Objective, balanced_weights, fit_linear
from heatbox.training.log import LOGS, Log, Row
from heatbox.training.state import STATE
from heatbox.training.trainer import fit, make_plan
from heatbox.training.weights import WEIGHTS

FEATURES, TEST_FEATURES = "features", "features-test"
HELD_OUT, HEAD, RESULT = "held-out.json", "head.safetensors", "finetune.json"

_NUMBER, _KNOWN = Kind("an integer from 0", lambda value: type(value) is int and value >= 0), or_null(FINITE)
_IMAGES = {"train": _NUMBER, "measured": _NUMBER}
_FITTED = {"images": _IMAGES, "loss": _KNOWN, "weight_decay": FINITE, "weight_decays": [[_KNOWN]]}
_CLASS = {"name": TEXT, "train": _NUMBER, "images": _NUMBER, "precision": _KNOWN}
_RESULT = {
    **_FITTED,
    "scores": one_of("softmax", "sigmoid"),
    "measured_on": TEXT,
    "epoch": _NUMBER,
    "epochs?": _NUMBER,
    "top1": _KNOWN,
    "balanced": _KNOWN,
    "mAP?": _KNOWN,
    "classes": [{**_CLASS, "accuracy?": _KNOWN, "AP?": _KNOWN}],
    "confusion": Kind("a list", lambda value: isinstance(value, list)),
    "left_out": {...: _NUMBER},
}
_HELD_OUT = {"data": TEXT, "ids": [TEXT]}
"""Forms of the files that are read again."""
_LARGEST = 6e4
"""Features beyond this are kept as float32: float16 ends at 65504."""


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned classifier.

    Attributes:
        spec: the network and its weights, from which `spec.build()` makes it again; every command takes the
            same.
        model: the network, in eval mode, on the device of the configuration.
        scores: the content of finetune.json.
        class_names: of the network's classes; empty where the data set numbers them.
        held_out: ids of the images that were measured on and not trained on.
    """

    spec: ModelSpec
    model: nn.Module
    scores: dict[str, Any]
    class_names: tuple[str, ...]
    held_out: tuple[str, ...]


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    split: Split | None = None,
    track: Track = silent,
    report: Callable[[Row], None] = lambda row: None,
    overwrite: bool = False,
    workers: int = 0,
    save_minutes: float = 10,
) -> Finetuned:
    """Fit a pretrained network to the classes of a data set, or resume where an earlier call was interrupted.

    The last linear layer becomes a logistic regression on its input, with the weight decay of the least loss
    on a stratified, held-out part of the images; its accuracy there is therefore that of the best of a few
    candidates. With `config.epochs` the whole network is trained from there, and the epoch of the least loss
    on the held-out part is kept, which may be none. Images of several classes make every class a decision of
    its own (sigmoid).

    Args:
        config: the network, the data and the training.
        out: the run folder.
        split: the images; by default they are opened from the configuration.
        track: progress display.
        report: called with a row of scores after each epoch.
        overwrite: drop an earlier fine-tuning in the folder.
        workers: processes that decode images for `config.epochs`; 0 decodes in this process.
        save_minutes: minutes between saved states of the training.

    Raises:
        InputError: unusable data, weights or settings; a network that does not end in a linear layer applied
            to one vector an image; or a folder that contains something else, or was made with other images.
        heatbox.training.TrainingStopped: by a signal; the same call resumes.

    Examples:
        >>> from heatbox.training import FinetuneConfig
        >>> config = FinetuneConfig("tf_efficientnet_lite0", "photos")
        >>> found = finetune(config, "runs/mine")  # doctest: +SKIP
        >>> found.scores["top1"], found.model  # doctest: +SKIP
    """
    out = Path(out)
    _check_settings(config)
    data = _open(config, split)
    run = Run(out)
    if (out / CONFIG).exists() and run.config().get("recipe") != config.recipe and not overwrite:
        raise InputError(f"{out}: contains a run that is no fine-tuning; choose another --out")
    # The folder is begun after the network is there: weights that are missing leave no configuration behind.
    network = _Network.start(config, data) if overwrite or not (out / RESULT).exists() else None
    run.start(config, config.seed, resume=not overwrite)
    if overwrite:
        _drop(out)
    _require_same_data(out, data.digest)
    if network is not None:
        examples, features = network.features(data.train, out / FEATURES, data.left_out, track)
        train, measured = network.parts(examples, features, out, track)
        scores = network.fit_head(train, measured, out, track)
        if config.epochs:
            scores = _train(
                network, config, train, measured, out, scores, report, track, workers, save_minutes
            )
        if data.left_out.counts():
            run.write_json(LEFT_OUT, data.left_out.as_dict())
        run.write_json(RESULT, {**scores, "left_out": data.left_out.counts()})
    spec = dataclasses.replace(config.spec, checkpoint=str(out / WEIGHTS), num_classes=None)
    held_out = tuple(checked(read_json(out / HELD_OUT), _HELD_OUT, str(out / HELD_OUT))["ids"])
    found = checked(read_json(out / RESULT), _RESULT, str(out / RESULT))
    return Finetuned(spec, spec.build(), found, data.class_names, held_out)


def _check_settings(config: FinetuneConfig) -> None:
    """Refuse impossible settings before anything is read or written."""
    for name in ("epochs", "patience", "batch_size"):
        check_integer(getattr(config, name), name.replace("_", " "), 0 if name == "epochs" else 1)
    if config.from_scratch and config.checkpoint is not None:
        raise InputError(f"--from-scratch and --checkpoint {config.checkpoint} exclude each other")
    if config.num_classes is not None:
        raise InputError("the number of classes is that of the data; leave --num-classes out")
    if not 0 <= config.held_out < 1:
        raise InputError(f"the held-out fraction is {config.held_out}, expected one in [0, 1)")
    if processes.started()[1] > 1 and processes.count() == 1:
        raise InputError("finetune runs in one process; start it without torchrun")


# ------------------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class _Data:
    """The images of a fine-tuning: `train` is all that is not `test`; `function` makes scores of logits."""

    train: Split
    test: Split | None
    function: ScoreFunction
    left_out: LeftOut

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.train.class_names)

    @property
    def digest(self) -> str:
        """A fingerprint of the images' ids and labels."""
        seen = hashlib.sha256(to_json(self.class_names).encode())
        for split in (self.train, self.test):
            for example in split or ():
                seen.update(f"{example.id}\0{example.labels}\n".encode())
            seen.update(b"\n")
        return seen.hexdigest()[:16]


def _open(config: FinetuneConfig, split: Split | None) -> _Data:
    """The images, and whether an image has one class or several."""
    left_out = LeftOut()
    problem = left_out if config.on_bad == "skip" else raise_problem
    train = open_training_split(config.data, problem) if split is None else split.by_image()
    test = None
    if config.test is not None:
        classes, names = train.num_classes, train.class_names
        test = match_classes(
            open_split(config.test, report=problem), classes, names, config.test, "the training data"
        )
        if test.num_classes > classes:
            raise InputError(
                f"{config.test}: has {test.num_classes} classes, {config.data} {classes} to train on"
            )
    several = [example for one in (train, test) for example in one or () if len(example.labels) > 1]
    function: ScoreFunction = config.scores or ("sigmoid" if several else "softmax")
    single = function == "softmax"
    if several and not config.scores:
        _say(
            train.name,
            f"{len(several)} images are of several classes, so each class is decided alone (sigmoid)",
        )
    for one in (train, test):
        empty = sum(not example.labels for example in one or ())
        if one is not None and empty and not single:
            _say(one.name, f"{empty} images without a label count as images of none of the classes")
    train = _fit(train, config, left_out, single)
    test = None if test is None else _fit(test, config, left_out, single)
    if train.num_classes < (2 if single else 1):
        raise InputError(
            f"{train.name}: has {train.num_classes} classes, expected at least two to tell apart"
        )
    return _Data(train, test, function, left_out)


def _fit(split: Split, config: FinetuneConfig, left_out: LeftOut, single: bool) -> Split:
    """The split without the images that cannot be used, if these are left out."""
    if config.on_bad == "skip":
        return left_out.filter(split, boxes=False, single=single)
    try:
        return require_fit(split, boxes=False, single=single)
    except BadImage as error:
        several = "; without --scores softmax each class is decided alone" if "classes" in str(error) else ""
        raise InputError(f"{error}{several}; --on-bad skip leaves such images out") from error


def _say(where: str, words: str) -> None:
    warnings.warn(f"{where}: {words}", AssumptionWarning, 3)


@dataclass(frozen=True)
class _Part:
    """Images that are trained on, or measured on.

    Attributes:
        split: the images.
        features: (N, D), input of the last layer.
        targets: (N,) int64 labels, or (N, K) uint8 of several classes.
    """

    split: Split
    features: Tensor
    targets: Tensor

    @property
    def per_class(self) -> list[int]:
        """Number of images of each class."""
        if self.targets.ndim == 2:
            return [int(one) for one in self.targets.sum(0, dtype=torch.int64)]
        return torch.bincount(self.targets, minlength=self.split.num_classes).tolist()


def _part(split: Split, examples: Sequence[Example], features: Tensor, classes: int, single: bool) -> _Part:
    if single:
        targets = torch.tensor([example.label for example in examples], dtype=torch.int64)
    else:
        targets = torch.zeros(len(examples), classes, dtype=torch.uint8)
        for row, example in enumerate(examples):
            targets[row, list(example.labels)] = 1
    return _Part(dataclasses.replace(split, examples=list(examples)), features, targets)


# ---------------------------------------------------------------------------------------------- the network


class _Network:
    """A network with a new last layer, and what is read at that layer.

    Args:
        model: the classifier, on its device.
        layer: name of its last linear layer.
        config: of the fine-tuning.
        data: whose classes are the network's.
    """

    def __init__(self, model: nn.Module, layer: str, config: FinetuneConfig, data: _Data) -> None:
        self.model, self.config, self.data = model, config, data
        self.layer_name = layer
        self.layer: Any = model.get_submodule(layer)
        self.preprocess: Preprocess = config.preprocess(model)
        self._check_layer()
        self.fields = {
            "input_size": (self.preprocess.channels, *self.preprocess.size),
            "mean": self.preprocess.mean,
            "std": self.preprocess.std,
            "interpolation": self.preprocess.interpolation,
            "crop_pct": config.crop_pct or 1.0,
            "crop_mode": "squash" if config.crop_pct is None else "center",
            **({"channel_order": "bgr"} if self.preprocess.bgr else {}),
        }

    @classmethod
    def start(cls, config: FinetuneConfig, data: _Data) -> _Network:
        """The network with its initial weights."""
        torch.manual_seed(config.seed)
        checkpoint = None if config.from_scratch else config.checkpoint or PRETRAINED
        classes = data.train.num_classes
        model, layer = create_with_new_head(config.model, classes, checkpoint, **config.model_options)
        if is_plugin(config.model) and checkpoint == PRETRAINED:
            _say(config.model, "its weights are used as the function returns them")
        if checkpoint not in (None, PRETRAINED):
            before = classes_of(read_checkpoint(checkpoint))
            if before not in (None, classes):
                _say(checkpoint, f"its classifier of {before} classes is replaced by one of {classes}")
        accelerate(model, verbose=False)
        return cls(config.to_device(model).to(memory_format=torch.channels_last), layer, config, data)

    def _check_layer(self) -> None:
        """Raise unless the logits are the last layer applied to the vectors that `pooled` returns."""
        height, width = self.preprocess.size
        images = torch.randn(
            2, self.preprocess.channels, height, width, generator=torch.Generator().manual_seed(0)
        )
        view = ClassifierView(self.model, self.config.output, self.preprocess.size)
        with torch.inference_mode():
            logits = view(as_input(self.model, images))[1].float().cpu()
            vectors = self.pooled(images)
            weight = self.layer.weight.flatten(1).float().cpu()
            bias = 0 if self.layer.bias is None else self.layer.bias.float().cpu()
            error = "" if vectors.shape[1:] == weight.shape[1:] else "another width"
            error = error or ("" if _close(vectors @ weight.T + bias, logits) else "other logits")
        if error:
            raise InputError(
                f"{self.config.model}: its logits are not its last linear layer applied to one vector an "
                "image, so it cannot be fitted; expected a network that ends in pooling and a linear layer"
            )

    def pooled(self, images: Tensor) -> Tensor:
        """The input of the last layer (B, D) float32 on the CPU, its mean where the layer is applied to a
        map.

        Args:
            images: (B, C, H, W).
        """
        found: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda module, args: found.append(args[0].detach()))
        try:
            with eval_mode(self.model), torch.inference_mode():
                batch = as_input(self.model, images).contiguous(memory_format=torch.channels_last)
                self.model(batch)
        finally:
            handle.remove()
        vectors = found[-1].float()
        if isinstance(self.layer, nn.Conv2d):
            vectors = vectors.flatten(2).mean(2)
        elif vectors.ndim > 2:
            vectors = vectors.flatten(1, -2).mean(1)
        return vectors.cpu()

    def features(
        self, split: Split, folder: Path, left_out: LeftOut, track: Track
    ) -> tuple[list[Example], Tensor]:
        """The readable images and their features (N, D), computed where they are not in the folder yet."""
        store = _FeatureStore(folder, self.layer.weight.shape[1])
        settings = {"weights": self.config.weights, "preprocessing": self.fields}
        store.shards.require(json.loads(to_json(settings)))

        def records(examples: Sequence[Example], images: Tensor) -> list[dict[str, Any]]:
            vectors = self.pooled(images).numpy()
            return [{"id": one.id, "feature": row} for one, row in zip(examples, vectors, strict=True)]

        def unreadable(example: Example, error: InputError) -> None:
            left_out(Problem(str(error), example.id, UNREADABLE))

        skipped = unreadable if self.config.on_bad == "skip" else None
        what = f"features of {len(split)} images"
        run_inference(
            split, self.preprocess, self.config.batch_size, store, records, what, track, unreadable=skipped
        )
        return store.read(split)

    def parts(
        self,
        examples: list[Example],
        features: Tensor,
        out: Path,
        track: Track,
    ) -> tuple[_Part, _Part]:
        """The images to train on and those to measure on, which are noted in the run folder."""
        config, data = self.config, self.data
        classes, single = data.train.num_classes, data.function == "softmax"
        if data.test is not None:
            others = self.features(data.test, out / TEST_FEATURES, data.left_out, track)
            train = _part(data.train, examples, features, classes, single)
            measured = _part(data.test, *others, classes, single)
        else:
            chosen = held_out_part(examples, classes, config.held_out, config.seed)
            train, measured = (
                _part(data.train, [examples[i] for i in rows], features[rows], classes, single)
                for rows in (np.flatnonzero(~chosen).tolist(), np.flatnonzero(chosen).tolist())
            )
        _say_small_classes(data, train, measured)
        ids = [example.id for example in measured.split]
        Run(out).write_json(HELD_OUT, {"data": data.digest, "split": config.test, "ids": ids})
        return train, measured

    def objective(self, train: _Part, smoothing: float = 0.0) -> Objective:
        """The loss, with the class weights of the configuration."""
        function, classes = self.data.function, self.data.train.num_classes
        wanted = self.config.class_weights
        balanced = wanted == "balanced" or (wanted == "auto" and function == "softmax")
        weights = balanced_weights(train.targets, classes, function) if balanced else torch.ones(classes)
        return Objective(function, weights, smoothing)

    def fit_head(self, train: _Part, measured: _Part, out: Path, track: Track) -> dict[str, Any]:
        """Fit the last layer, write it and the network into the run folder; returns the scores."""
        path = out / HEAD
        if not path.exists():
            found = fit_linear(
                train.features, train.targets, self.objective(train), (measured.features, measured.targets),
                self.layer.bias is not None, track=track,
            )  # fmt: skip
            logits = found(measured.features)
            scores = self.scores(train, measured, logits, 0)
            scores |= {"weight_decay": found.weight_decay, "weight_decays": found.losses}
            tensors = {"weight": found.weight, "bias": found.bias}
            write_safetensors(path, tensors, {"scores": to_json(scores)})
        tensors, metadata = read_safetensors(path)
        fitted = _fitted(path, metadata)
        if fitted["images"] != {"train": len(train.split), "measured": len(measured.split)}:
            raise _other_images(out)  # files that could not be read before, or cannot any more
        with torch.no_grad():
            self.layer.weight.copy_(tensors["weight"].view_as(self.layer.weight))
            if self.layer.bias is not None:
                self.layer.bias.copy_(tensors["bias"])
        if not (out / WEIGHTS).exists():  # of a later epoch otherwise
            self.save(out / WEIGHTS, 0)
        return fitted

    def save(self, path: Path, epoch: int) -> None:
        """Write the network as a checkpoint that every command reads."""
        config, data = self.config, self.data
        metadata = {
            "model": config.model,
            "kwargs": to_json(config.model_options),
            "num_classes": str(data.train.num_classes),
            "classifier": self.layer_name,
            "preprocessing": to_json(self.fields),
            "scores": data.function,
            "recipe": config.recipe,
            "pretraining": "scratch" if config.from_scratch else str(config.checkpoint or PRETRAINED),
            "epoch": str(epoch),
        }
        if len(data.class_names) == data.train.num_classes:
            metadata["class_names"] = to_json(data.class_names)
        write_safetensors(path, self.model.state_dict(), metadata)

    def logits(self, part: _Part, track: Track = silent) -> Tensor:
        """Logits (N, K) float32 of the images of a part, on the CPU."""
        size, found = self.config.batch_size, []
        with eval_mode(self.model), torch.inference_mode():
            batches = preprocessed(part.split, part.split.examples, self.preprocess, size)
            for _, images in track(
                batches, f"measuring on {len(part.split)} images", -(-len(part.split) // size)
            ):
                batch = as_input(self.model, images).contiguous(memory_format=torch.channels_last)
                output = select_output(self.model(batch), self.config.output, len(images))
                found.append(output.float().cpu())
        return torch.cat(found) if found else torch.zeros(0, self.data.train.num_classes)

    def scores(self, train: _Part, measured: _Part, logits: Tensor, epoch: int) -> dict[str, Any]:
        """The content of finetune.json; see `heatbox.metrics.classification` for the numbers."""
        data, config = self.data, self.config
        single = data.function == "softmax"
        score = single_label_scores if single else multi_label_scores
        targets = measured.targets.numpy() if single else measured.targets.numpy().astype(bool)
        found = score(logits.numpy(), targets)
        names = data.class_names or tuple(str(label) for label in range(data.train.num_classes))
        rows = zip(names, train.per_class, found.pop("per_class"), strict=True)
        confusion = found.pop("confusion")
        loss = float(self.objective(train).mean(logits, measured.targets)) if len(logits) else None
        return {
            "recipe": config.recipe,
            "model": config.model,
            "scores": data.function,
            "measured_on": config.test or "held-out",
            "images": {"train": len(train.split), "measured": len(measured.split)},
            "epoch": epoch,
            "loss": loss,
            **found,
            "classes": [{"name": name, "train": count, **row} for name, count, row in rows],
            "confusion": confusion,
        }


def _fitted(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The scores of a fitted last layer, from the metadata of its file."""
    try:
        found = json.loads(metadata["scores"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: has no scores of a fine-tuning; --overwrite starts again") from error
    fitted: dict[str, Any] = checked(found, _FITTED, str(path))
    return fitted


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-3 * expected.norm().clamp_min(1e-6))


def _say_small_classes(data: _Data, train: _Part, measured: _Part) -> None:
    """Say which classes have no image to train on, or none to measure on."""
    names = data.class_names or tuple(str(label) for label in range(data.train.num_classes))
    where = data.train.name
    for counts, words in (
        (train.per_class, "to train on, so that it is never found"),
        (measured.per_class, "to measure on, so that nothing is known of its accuracy"),
    ):
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        if empty and len(measured.split):
            shown = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
            _say(where, f"no image of {shown} is left {words}")
    if not len(measured.split):
        _say(
            where,
            "no image is held out, so that nothing is known of the accuracy and nothing is chosen by it",
        )


class _FeatureStore:
    """Features of images on disk, float16 where their values fit; what `run_inference` appends to."""

    def __init__(self, folder: Path, width: int) -> None:
        self.shards, self.width = ShardStore(folder), width

    def _decode(self, table: pa.Table) -> tuple[list[str], np.ndarray]:
        ids, column = ids_of(table), table["feature"].combine_chunks()
        rows = column.values.to_numpy(zero_copy_only=False).reshape(len(ids), self.width)
        if not np.issubdtype(rows.dtype, np.floating):
            raise TypeError("features that are no numbers")
        return ids, rows

    def done(self) -> set[str]:
        """Ids of the images whose features are there."""
        return {name for _, (ids, _) in self.shards.read(self._decode) for name in ids}

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the features of some images as the next shard."""
        if not records:
            return
        rows = np.stack([record["feature"] for record in records])
        if not np.isfinite(rows).all():
            bad = next(r["id"] for r in records if not np.isfinite(r["feature"]).all())
            raise InputError(f"{bad}: the network's features of this image are not finite")
        kind = np.float16 if np.abs(rows).max() < _LARGEST else np.float32
        values = pa.array(rows.astype(kind).ravel())
        column = pa.FixedSizeListArray.from_arrays(values, self.width)
        self.shards.append(pa.table({"id": [record["id"] for record in records], "feature": column}))

    def read(self, split: Split) -> tuple[list[Example], Tensor]:
        """The images of a split whose features are there, and these (N, D), in the order of the split."""
        found = [content for _, content in self.shards.read(self._decode)]
        place = {name: index for index, name in enumerate(name for ids, _ in found for name in ids)}
        rows = np.concatenate([rows for _, rows in found]) if found else np.zeros((0, self.width), np.float16)
        examples = [example for example in split if example.id in place]
        if not examples:
            raise InputError(f"{split.name}: no image is left to use")
        return examples, torch.from_numpy(rows[[place[example.id] for example in examples]])


# ------------------------------------------------------------------------------------- the whole network


class _NoBetter(Exception):
    """Ends a training whose held-out loss has not improved for some epochs."""


def _train(
    network: _Network,
    config: FinetuneConfig,
    train: _Part,
    measured: _Part,
    out: Path,
    fitted: dict[str, Any],
    report: Callable[[Row], None],
    track: Track,
    workers: int,
    save_minutes: float,
) -> dict[str, Any]:
    """Train the whole network, and keep the weights of the best epoch; returns their scores."""
    settings = _train_config(network, config, len(train.split))
    options = TrainOptions(config.device, workers=workers, save_minutes=save_minutes, tensorboard=False)
    fabric = make_fabric(settings, options)
    smoothed, plain = network.objective(train, config.smoothing), network.objective(train)
    log = Log(out, tensorboard=False)
    best = _least([fitted["loss"], *(row["weights"]["loss"] for row in _logged(out))])

    def validate_epoch(weights: dict[str, nn.Module], epoch: int) -> Row:
        logits = network.logits(measured)
        loss = float(plain.mean(logits, measured.targets)) if len(logits) else None
        found = network.scores(train, measured, logits, epoch)
        nonlocal best
        if loss is None or loss < best:  # written before the log, so a loss in the log has its weights here
            network.save(out / WEIGHTS, epoch)
        best = min(best, _least([loss]))
        named = {name: found.get(name) for name in ("top1", "balanced", "mAP") if found.get(name) is not None}
        return {"weights": {"loss": loss, **named}}

    def loss_of(logits: Tensor, indices: Tensor) -> Tensor:
        return smoothed.mean(logits, train.targets[indices.cpu()])

    def report_epoch(history: list[Row]) -> None:
        log(history)
        report(history[-1])
        losses = [_least([one]) for one in (fitted["loss"], *(row["weights"]["loss"] for row in history))]
        if len(measured.split) and len(losses) - 1 - int(np.argmin(losses)) >= config.patience:
            raise _NoBetter

    with failures_explained(settings, 1):
        try:
            plan = make_plan(settings, train.split, fabric)
            fit(
                settings, options, plan, network.model, train.split, out, fabric,
                validate_epoch, track, report_epoch, loss_of,
            )  # fmt: skip
        except _NoBetter:
            pass
    tensors, metadata = read_safetensors(out / WEIGHTS)
    network.model.load_state_dict(tensors)
    epoch = int(metadata["epoch"])
    logits = network.logits(measured, track)
    kept = {name: fitted[name] for name in ("weight_decay", "weight_decays")}
    return network.scores(train, measured, logits, epoch) | kept | {"epochs": len(_logged(out))}


def _train_config(network: _Network, config: FinetuneConfig, images: int) -> TrainConfig:
    """The training of the whole network: one learning rate, because the last layer is fitted already."""
    preprocess = network.preprocess
    height, width = preprocess.size
    if preprocess.channels != 3 or preprocess.bgr or height != width:
        raise InputError(
            f"{config.model}: reads images of {preprocess.channels} channels and {width} x {height} pixels"
            f"{' in the order BGR' if preprocess.bgr else ''}, but a whole network is trained on square RGB "
            "images only; leave --epochs out to fit its last layer"
        )
    batch = min(config.batch_size, images)
    return TrainConfig(
        recipe=config.recipe, model=config.model, data=config.data, size=height,
        mean=preprocess.mean, std=preprocess.std,  # type: ignore[arg-type]
        crop=config.crop, jitter=config.jitter, epochs=config.epochs, batch_size=batch, per_device=batch,
        lr=config.lr, lr_head=config.lr, warmup_epochs=1, weight_decay=config.weight_decay, clip=1.0,
        checkpoint_every=1, seed=config.seed,
    )  # fmt: skip


def _least(losses: Sequence[float | None]) -> float:
    """The least loss; infinity for none."""
    return min((loss for loss in losses if loss is not None), default=float("inf"))


def _logged(out: Path) -> list[Row]:
    """The rows of log.json so far."""
    path = out / LOGS[1]
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON ({error}); --overwrite starts again") from error
    found: list[Row] = checked(rows, [{"weights": {"loss": _KNOWN}}], str(path))
    return found


# ------------------------------------------------------------------------------------------- the run folder


def _require_same_data(out: Path, digest: str) -> None:
    """Raise where the folder's last layer was fitted to other images or labels."""
    path = out / HELD_OUT
    if path.exists() and read_json(path).get("data") != digest:
        raise _other_images(out)


def _other_images(out: Path) -> InputError:
    return InputError(
        f"{out}: was made with other images or labels; choose another --out or pass --overwrite"
    )


def _drop(out: Path) -> None:
    """Remove the files of an earlier fine-tuning from the folder, and no others."""
    for name in (HELD_OUT, HEAD, WEIGHTS, RESULT, STATE, *LOGS):
        (out / name).unlink(missing_ok=True)
    for name in (FEATURES, TEST_FEATURES):
        shutil.rmtree(out / name, ignore_errors=True)
