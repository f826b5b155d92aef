"""The training of a whole network whose last layer is fitted already; the best epoch is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from heatbox._utils.json_schema import checked
from heatbox._utils.progress import Track
from heatbox.errors import InputError
from heatbox.models.checkpoints import read_safetensors
from heatbox.training.classifier import KNOWN, Classifier, Part
from heatbox.training.config import FinetuneConfig, TrainConfig, TrainOptions
from heatbox.training.distributed import failures_explained, make_fabric
from heatbox.training.log import LOGS, Log, Row
from heatbox.training.trainer import fit, make_plan
from heatbox.training.weights import WEIGHTS


class _NoBetter(Exception):
    """Ends a training whose held-out loss has not improved for some epochs."""


def train_whole(
    network: Classifier,
    config: FinetuneConfig,
    train: Part,
    measured: Part,
    out: Path,
    fitted: dict[str, Any],
    report: Callable[[Row], None],
    track: Track,
    workers: int,
    save_minutes: float,
) -> dict[str, Any]:
    """Train the whole network, and keep the weights of the best epoch; returns their scores.

    The statistics of batch norms are held: those of a few small batches would replace what they have learned.
    """
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
                validate_epoch, track, report_epoch, loss_of, hold_statistics=True,
            )  # fmt: skip
        except _NoBetter:
            pass
    tensors, metadata = read_safetensors(out / WEIGHTS)
    network.model.load_state_dict(tensors)
    epoch = int(metadata["epoch"])
    logits = network.logits(measured, track)
    kept = {name: fitted[name] for name in ("weight_decay", "weight_decays")}
    return network.scores(train, measured, logits, epoch) | kept | {"epochs": len(_logged(out))}


def _train_config(network: Classifier, config: FinetuneConfig, images: int) -> TrainConfig:
    """The training of the whole network: one learning rate, because the last layer is fitted already."""
    preprocess = network.last.preprocess
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
    found: list[Row] = checked(rows, [{"weights": {"loss": KNOWN}}], str(path))
    return found
