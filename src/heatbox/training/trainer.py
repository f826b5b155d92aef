"""From a recipe and a data set to trained and scored weights in a run folder.

``config.json``        the configuration; a rerun with the same configuration resumes the training
``environment.json``   versions, platform, git commit, seed
``state.pt``           everything needed to resume
``checkpoints/``       weights at fixed intervals of epochs, epoch-0050.safetensors, and their average, -ema
``log.csv``            one row per epoch; the same in log.json and in tensorboard/
``training.json``      the best checkpoint of each map, as the paper reports it, and the last one
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatbox._utils.io import to_json
from heatbox._utils.progress import Track, silent
from heatbox.data.open import TrainingSplits
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, ENVIRONMENT, LEFT_OUT, Run, environment
from heatbox.maps.registry import find_method, refuse_heads
from heatbox.models.checkpoints import load_checkpoint
from heatbox.models.outputs import select_output
from heatbox.models.spec import placement
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.data import (
    STEP,
    Plan,
    augment_of,
    batches,
    cached,
    derived,
    seed_all,
)
from heatbox.training.distributed import failures_explained, make_fabric
from heatbox.training.images import Counts, TrainingImages
from heatbox.training.log import BOARD, LOGS, Log, Row
from heatbox.training.optim import make_optimizer, rate_at, set_rates
from heatbox.training.sparse import Masks, snip_counts
from heatbox.training.state import STATE, TrainingStopped, TrainState, stop_on_signals
from heatbox.training.validate import validate
from heatbox.training.weights import (
    CHECKPOINTS,
    SCRATCH,
    TRAINING,
    built,
    checkpoint_path,
    pretraining_of,
    save_weights,
    start_model,
)

Validate = Callable[[dict[str, nn.Module], int], Row]
"""(weights by name, epoch) → their scores; called in every process after every epoch."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), indices (B,) of the images in the split) → mean loss ()."""


def train(
    config: TrainConfig,
    out: Path,
    options: TrainOptions | None = None,
    track: Track = silent,
    report: Callable[[Row], None] = lambda row: None,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a model, or resume a training that was interrupted.

    Args:
        config: the training; see `heatbox.training.recipes`.
        out: the run folder.
        options: how to distribute the work over devices.
        track: progress display.
        report: called with each epoch's row.
        overwrite: drop an earlier training in the folder.
        accept_changes: resume although the configuration differs from that of the training in the folder.

    Returns:
        the model with the last weights (their average if there is one), in eval mode on the CPU, and the
        content of training.json.

    Raises:
        InputError: unusable data, weights or settings, or a folder that contains something else.
        TrainingStopped: by a signal; the same call resumes.
    """
    options = options or TrainOptions()
    images = TrainingImages(config)
    fabric = make_fabric(config, options)
    first = fabric.global_rank == 0
    with failures_explained(config, fabric.world_size):
        check_settings(config)
        track = track if first else silent
        images.leave_out_unreadable(out, fabric, track, overwrite)
        splits, left_out = images.splits, images.counts
        plan = make_plan(config, splits.train, fabric)
        model = start_model(config, splits.train.num_classes, options.recompute)
        pretraining = pretraining_of(config)
        if first:
            claim_folder(config, out, overwrite, accept_changes)
            images.save(Run(out))
        fabric.barrier()
        log = Log(out, options.tensorboard) if first else None

        def report_epoch(history: list[Row]) -> None:
            if log is not None:
                log(history)
                Run(out).write_json(TRAINING, summary(config, history, pretraining, left_out))
                report(history[-1])

        shown = cached(splits.train, track) if options.cache else splits.train
        validate_epoch = _validation(config, splits, out, pretraining, fabric)
        history = fit(config, options, plan, model, shown, out, fabric, validate_epoch, track, report_epoch)
        fabric.barrier()  # the first process may still be writing the checkpoint that the others read next
        trained = built(config, splits.train.num_classes)
        load_checkpoint(trained, checkpoint_path(out, config.epochs, "ema" if config.ema else "weights"))
        return trained.eval(), summary(config, history, pretraining, left_out)


def fit(
    config: TrainConfig,
    options: TrainOptions,
    plan: Plan,
    model: nn.Module,
    split: Split,
    folder: Path,
    fabric: Any,
    validate_epoch: Validate,
    track: Track = silent,
    report: Callable[[list[Row]], None] = lambda history: None,
    loss: Loss | None = None,
    hold_statistics: bool = False,
) -> list[Row]:
    """The training loop, on one device or many; the boxes of the split are not used.

    Args:
        config: the training.
        options: how to distribute the work over devices.
        plan: the division into batches and micro-batches; see `make_plan`.
        model: the model with its initial weights; trained in place.
        split: the training images.
        folder: of the state; a state that an earlier process saved there is resumed.
        fabric: a launched Lightning Fabric.
        validate_epoch: called after every epoch with the weights and, if there is one, their average.
        track: progress display; it counts steps.
        report: called in every process with the history after every epoch.
        loss: of the logits; by default the cross-entropy with the labels, smoothed and mixed as configured.
        hold_statistics: normalize by the statistics that batch norms have, and leave them as they are.

    Returns:
        the history: one row per epoch.

    Raises:
        InputError: a loss that is not finite, unusable images or settings, a full disk.
        TrainingStopped: by Ctrl-C or SIGTERM; the state is saved.
    """
    mix = augment_of(config).batch_transform(split.num_classes)
    wrapped, optimizer = fabric.setup(model, make_optimizer(model, config))
    masks = _initial_masks(config, model, split, plan, folder)
    ema = _average(model, config.ema)
    weights = {"weights": model} | ({"ema": ema.module} if ema is not None else {})
    state = TrainState(model, optimizer, weights.get("ema"), masks.kept)
    state.load(folder)
    clock = _Clock(plan, state)
    warmup = round(config.warmup_epochs * plan.steps_per_epoch)

    def save() -> None:
        if fabric.global_rank == 0:
            state.save(folder)

    def finish_epoch() -> None:
        epoch = len(state.history) + 1
        if config.is_scored(epoch):  # scoring may take longer than the epoch itself
            save()
        mean_loss, state.loss_sum = state.loss_sum / plan.steps_per_epoch, 0.0
        row = {"epoch": epoch, "step": state.step, "loss": mean_loss, "lr": optimizer.param_groups[0]["lr"]}
        state.history.append(row | clock.lap() | validate_epoch(weights, epoch))
        report(state.history)
        clock.resume()

    model.train()
    if hold_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    micro_batches = batches(split, config, plan, state.step, options.workers)
    with stop_on_signals() as stop:
        if state.step == plan.steps_per_epoch * (len(state.history) + 1):  # interrupted during validation
            finish_epoch()
        for step in track(range(state.step, plan.steps), clock.status, plan.steps - state.step):
            set_rates(optimizer, rate_at(step, plan.steps, warmup, config.lr_floor))
            own, seen = _forward_backward(wrapped, mix, micro_batches, config, plan, step, fabric, loss)
            mean_loss, stopping = _reduce(fabric, own, bool(stop.signal))
            _check_finite(mean_loss, own, seen, split, step)
            masks.mask_gradients()
            if config.clip is not None:
                fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip)
            optimizer.step()
            optimizer.zero_grad()
            masks.apply(model)
            masks.update(step + 1, optimizer)
            if ema is not None:
                ema.update(model, step)
                masks.apply(ema.module)
            state.step, state.loss_sum = step + 1, state.loss_sum + mean_loss
            clock.tick(mean_loss)
            if state.step % plan.steps_per_epoch == 0:
                finish_epoch()
            if stopping or state.step == plan.steps or clock.due(options.save_minutes):
                save()
            if stopping and state.step < plan.steps:
                raise TrainingStopped(stop.signal, state.step)
    return state.history


def check_settings(config: TrainConfig) -> None:
    """Refuse impossible settings before anything is computed or written.

    Raises:
        InputError: naming the setting.
    """
    if not 0 <= config.sparsity < 1:
        raise InputError(f"sparsity is {config.sparsity}, expected a fraction in [0, 1)")
    if config.checkpoint_every < 1:
        raise InputError(f"checkpoint every {config.checkpoint_every} epochs, expected 1 or more")
    augment_of(config).image_transform(config.size, config.mean)
    if (config.mixup or config.cutmix) and config.per_device % 2:
        raise InputError(f"mixup and cutmix pair images: --per-device {config.per_device} must be even")
    for method in config.method:
        find_method(method)
    refuse_heads(config.method, "the validation of a training")


def make_plan(config: TrainConfig, split: Split, fabric: Any) -> Plan:
    """The division of a training's steps among the processes of a Lightning Fabric.

    Raises:
        InputError: the batch cannot be divided.
    """
    return Plan(
        images=len(split),
        batch_size=config.batch_size,
        micro_batch_size=config.per_device,
        epochs=config.epochs,
        seed=config.seed,
        world_size=fabric.world_size,
        rank=fabric.global_rank,
    )


def _forward_backward(
    wrapped: Any,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    micro_batches: Iterator[tuple[Tensor, Tensor, Tensor]],
    config: TrainConfig,
    plan: Plan,
    step: int,
    fabric: Any,
    loss_of: Loss | None,
) -> tuple[Tensor, list[int]]:
    """Accumulate the gradients of this device's micro-batches.

    Returns:
        the device's mean loss (), and the indices of its images.
    """
    total, seen = torch.zeros((), device=fabric.device), []
    for index in plan.micro_batches:
        images, labels, indices = next(micro_batches)
        seen += indices.tolist()
        images, labels = fabric.to_device((images, labels))
        seed_all(derived(config.seed, STEP, step, index))  # for mixup, erasing, dropout and stochastic depth
        images = images.contiguous(memory_format=torch.channels_last)
        if loss_of is None:
            images, targets = mix(images, labels)
        with fabric.no_backward_sync(wrapped, enabled=index != plan.micro_batches[-1]):
            logits = select_output(wrapped(images), batch=len(images))
            loss = (
                nn.functional.cross_entropy(logits, targets) if loss_of is None else loss_of(logits, indices)
            )
            loss = loss / plan.accumulation
            fabric.backward(loss)
        total += loss.detach()
    return total, seen


def _reduce(fabric: Any, loss: Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them received a signal to stop."""
    if fabric.world_size == 1:
        return loss.item(), stop
    both = torch.stack([loss, torch.full_like(loss, float(stop))])
    mean_loss, stops = fabric.all_reduce(both, reduce_op="mean").tolist()
    return mean_loss, stops > 0


def _check_finite(mean_loss: float, own: Tensor, seen: list[int], split: Split, step: int) -> None:
    if math.isfinite(mean_loss):
        return
    if math.isfinite(own.item()):
        raise InputError(f"the loss of another process is not finite at step {step}")
    ids = ", ".join(split.examples[index].id for index in seen)
    raise InputError(
        f"the loss is {own.item()} at step {step}; lower the learning rate, or inspect the images of the "
        f"batch: {ids}"
    )


def _initial_masks(config: TrainConfig, model: nn.Module, split: Split, plan: Plan, folder: Path) -> Masks:
    """The masks at the start: the zeros of the initial weights, or drawn with SNIP's counts.

    Empty for a dense training, and where a saved state provides them.
    """
    schedule: dict[str, Any] = {
        "prune_rate": config.prune_rate,
        "every": config.mask_every,
        "steps": plan.steps,
        "seed": config.seed,
    }
    if config.sparsity == 0 or (folder / STATE).exists():
        return Masks(model, {}, **schedule)
    if config.pretrained != SCRATCH:
        masks = Masks.recovered(model, **schedule)
        if not masks.kept:
            raise InputError(f"{config.pretrained}: has no zeros to keep; --sparsity 0 trains a dense model")
        return masks

    first = dataclasses.replace(plan, world_size=1, rank=0)  # the same batch in each process
    images, labels, _ = (part.to(placement(model)[0]) for part in next(batches(split, config, first)))

    def loss(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    seed_all(derived(config.seed, STEP))
    counts = snip_counts(copy.deepcopy(model).train(), loss, config.sparsity)
    return Masks.drawn(model, counts, **schedule)


def _average(model: nn.Module, decay: float | None) -> Any:
    """timm's exponential moving average of the weights, with warm-up, so that it forgets the initial ones."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


class _Clock:
    """Speed of the training, for the progress display, and time to save."""

    def __init__(self, plan: Plan, state: TrainState) -> None:
        self.plan, self.state = plan, state
        self.saved = self.ticked = time.monotonic()
        self.loss, self.steps, self.seconds = math.nan, 0, 0.0

    def tick(self, loss: float) -> None:
        """Count a step."""
        self.loss = loss
        self.steps += 1
        self.seconds += time.monotonic() - self.ticked
        self.resume()

    def resume(self) -> None:
        """Leave out the time since the last step."""
        self.ticked = time.monotonic()

    def status(self) -> str:
        """The text beside the progress bar."""
        epoch = min(self.state.step // self.plan.steps_per_epoch + 1, self.plan.epochs)
        line = f"epoch {epoch}/{self.plan.epochs}"
        return line + (f"  loss {self.loss:.3f}  {self._speed:.0f} images/s" if self.steps else "")

    def lap(self) -> Row:
        """The speed of the epoch that ends."""
        row = {"images_per_second": round(self._speed, 1)}
        self.steps, self.seconds = 0, 0.0
        return row

    def due(self, minutes: float) -> bool:
        """Whether this much time has passed since this last returned True."""
        now = time.monotonic()
        if now - self.saved < 60 * minutes:
            return False
        self.saved = now
        return True

    @property
    def _speed(self) -> float:
        return self.steps * self.plan.batch_size / max(self.seconds, 1e-9)


def _validation(
    config: TrainConfig, splits: TrainingSplits, out: Path, pretraining: str, fabric: Any
) -> Validate:
    """Accuracy after every epoch; at checkpoints the weights are also saved and their maps scored."""
    methods = config.method if splits.has_boxes else ()

    def validate_epoch(weights: dict[str, nn.Module], epoch: int) -> Row:
        scored = config.is_scored(epoch)
        row: Row = {}
        for name, model in weights.items():
            if scored and fabric.global_rank == 0:
                path = checkpoint_path(out, epoch, name)
                names = splits.train.class_names
                save_weights(model, config, splits.train.num_classes, pretraining, path, names)
            if splits.test is not None:
                preprocess = config.spec.preprocess(model)
                maps = methods if scored else ()
                row[name] = validate(model, splits.test, preprocess, maps, config.per_device, fabric)
        return row

    return validate_epoch


def summary(
    config: TrainConfig, history: list[Row], pretraining: str, left_out: Counts | None = None
) -> dict[str, Any]:
    """The content of training.json: the last epoch, and for each map the checkpoint of the best MaxBoxAcc.

    The paper reports the best of the checkpoints saved every 50 epochs, selected on the test images
    (supplement 8): an optimistic number, which is why the last one is listed beside it.
    """
    scored = [
        (row["epoch"], name, row[name])
        for row in history
        for name in ("weights", "ema")
        if any(isinstance(value, dict) for value in row.get(name, {}).values())
    ]
    best = {}
    for method in sorted(
        {key for _, _, row in scored for key, value in row.items() if isinstance(value, dict)}
    ):
        epoch, name, row = max(scored, key=lambda one: one[2][method]["MaxBoxAcc"])
        best[method] = {"epoch": epoch, "weights": name, "top1": row["top1"], **row[method]}
    return {
        "recipe": config.recipe,
        "pretraining": pretraining,
        "epochs": len(history),
        "last": history[-1] if history else None,
        "best": best,
        **({"left_out": left_out} if left_out else {}),
    }


def claim_folder(config: TrainConfig, out: Path, overwrite: bool, accept_changes: bool) -> None:
    """Start the run folder, or check that the training in it has the same configuration.

    A setting that the folder's config.json lacks, because an earlier version did not have it, counts as its
    default.

    Raises:
        InputError: the configuration differs (the message lists the differences), or the folder contains
            something other than a training.
    """
    run, wanted = Run(out), json.loads(to_json(config))
    if (out / CONFIG).exists() and "recipe" not in run.config():
        raise InputError(f"{out}: contains a run that is not a training; choose another --out")
    if overwrite or not (out / CONFIG).exists():
        run.start(config, config.seed, resume=not overwrite)
        drop_training(out)
        return
    found = json.loads(to_json(TrainConfig(recipe="", model=""))) | run.config()
    changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if not changed:
        return
    if not accept_changes:
        differences = "; ".join(f"{key} {found.get(key)!r} → {wanted.get(key)!r}" for key in changed)
        raise InputError(
            f"{out}: contains a training with another configuration ({differences}); choose another --out, "
            "start again with --overwrite, or resume with --accept-changes"
        )
    run.write_json(CONFIG, wanted)
    run.write_json(ENVIRONMENT, environment(config.seed))


def drop_training(out: Path) -> None:
    """Remove the files of an earlier training from the folder, and no others."""
    for name in (STATE, TRAINING, LEFT_OUT, *LOGS):
        (out / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, BOARD):
        shutil.rmtree(out / name, ignore_errors=True)
