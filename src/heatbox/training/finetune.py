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
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from heatbox._utils import processes
from heatbox._utils.checks import check_integer
from heatbox._utils.io import read_json
from heatbox._utils.json_schema import TEXT, Kind, checked, one_of
from heatbox._utils.progress import Track, silent
from heatbox.config import ModelSpec
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, LEFT_OUT, Run
from heatbox.training.classifier import (
    FEATURES,
    FITTED,
    HEAD,
    HELD_OUT,
    KNOWN,
    NUMBER,
    TEST_FEATURES,
    Classifier,
    other_images,
)
from heatbox.training.config import FinetuneConfig
from heatbox.training.images import FinetuneImages
from heatbox.training.log import LOGS, Row
from heatbox.training.state import STATE
from heatbox.training.weights import WEIGHTS
from heatbox.training.whole_network import train_whole

RESULT = "finetune.json"

_CLASS = {"name": TEXT, "train": NUMBER, "images": NUMBER, "precision": KNOWN}
_RESULT = {
    **FITTED,
    "scores": one_of("softmax", "sigmoid"),
    "measured_on": TEXT,
    "epoch": NUMBER,
    "epochs?": NUMBER,
    "top1": KNOWN,
    "balanced": KNOWN,
    "mAP?": KNOWN,
    "classes": [{**_CLASS, "accuracy?": KNOWN, "AP?": KNOWN}],
    "confusion": Kind("a list", lambda value: isinstance(value, list)),
    "left_out": {...: NUMBER},
}
_HELD_OUT = {"data": TEXT, "ids": [TEXT]}
"""Forms of the files that are read again."""


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
    images = FinetuneImages(config, split)
    run = Run(out)
    if (out / CONFIG).exists() and run.config().get("recipe") != config.recipe and not overwrite:
        raise InputError(f"{out}: contains a run that is no fine-tuning; choose another --out")
    # The folder is begun after the network is there: weights that are missing leave no configuration behind.
    network = Classifier.start(config, images) if overwrite or not (out / RESULT).exists() else None
    run.start(config, config.seed, resume=not overwrite)
    if overwrite:
        _drop(out)
    _require_same_data(out, images.digest)
    if network is not None:
        train, measured = network.parts(out, track)
        scores = network.fit_head(train, measured, out, track)
        if config.epochs:
            scores = train_whole(
                network, config, train, measured, out, scores, report, track, workers, save_minutes
            )
        left_out = images.left_out
        if left_out is not None and left_out.counts():
            run.write_json(LEFT_OUT, left_out.as_dict())
        run.write_json(RESULT, {**scores, "left_out": {} if left_out is None else left_out.counts()})
    spec = dataclasses.replace(config.spec, checkpoint=str(out / WEIGHTS), num_classes=None)
    held_out = tuple(checked(read_json(out / HELD_OUT), _HELD_OUT, str(out / HELD_OUT))["ids"])
    found = checked(read_json(out / RESULT), _RESULT, str(out / RESULT))
    return Finetuned(spec, spec.build(), found, images.class_names, held_out)


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


# ------------------------------------------------------------------------------------------- the run folder


def _require_same_data(out: Path, digest: str) -> None:
    """Raise where the folder's last layer was fitted to other images or labels."""
    path = out / HELD_OUT
    if path.exists() and read_json(path).get("data") != digest:
        raise other_images(out)


def _drop(out: Path) -> None:
    """Remove the files of an earlier fine-tuning from the folder, and no others."""
    for name in (HELD_OUT, HEAD, WEIGHTS, RESULT, STATE, *LOGS):
        (out / name).unlink(missing_ok=True)
    for name in (FEATURES, TEST_FEATURES):
        shutil.rmtree(out / name, ignore_errors=True)
