"""The training loop: labels → weights, on one device or many, and on again after any interruption."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heatbox._utils.progress import Track, silent
from heatbox.data.types import Split
from heatbox.errors import InputError
from heatbox.models.spec import placement
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.data import Plan, augment_of, batches
from heatbox.training.optim import make_optimizer, rate_at, set_rates
from heatbox.training.randomness import STEP, derived, seed_all
from heatbox.training.sparse import Masks, snip_counts
from heatbox.training.state import STATE, TrainState, stop_on_signals

Row = dict[str, Any]
Assess = Callable[[dict[str, nn.Module], int], Row]
"""(weights by name, epoch) → what is known of them; runs in every process, after every epoch."""


class Stopped(Exception):
    """The training was asked to stop by a signal, and its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.number, self.step = number, step


def fit(
    config: TrainConfig,
    options: TrainOptions,
    model: nn.Module,
    split: Split,
    folder: Path,
    fabric: Any,
    assess: Assess,
    track: Track = silent,
    report: Callable[[list[Row]], None] = lambda history: None,
) -> list[Row]:
    """Train a model on the labels of a split; its boxes are never looked at.

    Args:
        config: what to compute.
        options: how to spread it over the machine.
        model: the network, with the weights to start from; trained in place.
        split: the training images.
        folder: where the state is kept; what it holds of an earlier process is gone on with.
        fabric: a launched Lightning Fabric.
        assess: is asked after every epoch, with the weights and their average where there is one.
        track: how to show progress; it counts steps.
        report: is told the history after every epoch, in the first process.

    Returns:
        the history: a row for each epoch.

    Raises:
        InputError: a loss that is not finite, pictures or settings that cannot be used, memory that does not
            suffice, a disk that is full.
        Stopped: by Ctrl-C or SIGTERM; the state is saved.
    """
    plan = plan_of(config, split, fabric)
    mix = augment_of(config).on_batch(split.num_classes)
    wrapped, optimizer = fabric.setup(model, make_optimizer(model, config))
    masks = _masks(config, model, split, plan, folder, fabric)
    ema = _average(model, config.ema)
    weights = {"weights": model} | ({"ema": ema.module} if ema is not None else {})
    state = TrainState(model, optimizer, weights.get("ema"), masks.kept)
    state.load(folder)
    clock = _Clock(plan, state)
    warmup = round(config.warmup_epochs * plan.steps_per_epoch)

    def finish_epoch() -> None:
        epoch = len(state.history) + 1
        if config.is_scored(epoch):  # which may take longer than the epoch itself
            _save(state, folder, fabric)
        mean_loss, state.loss_sum = state.loss_sum / plan.steps_per_epoch, 0.0
        row = {"epoch": epoch, "step": state.step, "loss": mean_loss, "lr": optimizer.param_groups[0]["lr"]}
        state.history.append(row | clock.lap() | assess(weights, epoch))
        if fabric.global_rank == 0:
            report(state.history)
        clock.resume()

    model.train()
    slots = batches(split, config, plan, state.step, options.workers)
    with stop_on_signals() as stop:
        if state.step == plan.steps_per_epoch * (len(state.history) + 1):  # interrupted while assessing
            finish_epoch()
        for step in track(range(state.step, plan.steps), clock.status, plan.steps - state.step):
            set_rates(optimizer, rate_at(step, plan.steps, warmup, config.lr_floor))
            loss, seen = _forward_backward(wrapped, mix, slots, config, plan, step, fabric)
            mean_loss, stopping = _agree(fabric, loss, stop.requested)
            _refuse_not_finite(mean_loss, loss, seen, split, step)
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
                _save(state, folder, fabric)
            if stopping and state.step < plan.steps:
                raise Stopped(stop.signal, state.step)
    return state.history


def plan_of(config: TrainConfig, split: Split, fabric: Any) -> Plan:
    """The division of a training's steps among the processes.

    Raises:
        InputError: a setting that cannot be, said before anything is computed or written.
    """
    if not 0 <= config.sparsity < 1:
        raise InputError(f"sparsity is {config.sparsity}, expected a share in [0, 1)")
    if config.checkpoint_every < 1:
        raise InputError(f"checkpoint every {config.checkpoint_every} epochs, expected 1 or more")
    augment_of(config).on_picture(config.size, config.mean)
    if (config.mixup or config.cutmix) and config.per_device % 2:
        raise InputError(f"mixup and cutmix pair images: --per-device {config.per_device} has to be even")
    return Plan(
        images=len(split),
        batch_size=config.batch_size,
        slot_size=config.per_device,
        epochs=config.epochs,
        seed=config.seed,
        world_size=fabric.world_size,
        rank=fabric.global_rank,
    )


def _forward_backward(
    wrapped: Any,
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    slots: Iterator[tuple[Tensor, Tensor, Tensor]],
    config: TrainConfig,
    plan: Plan,
    step: int,
    fabric: Any,
) -> tuple[Tensor, list[int]]:
    """Accumulate the gradients of this device's slots; returns its mean loss and the images it has seen."""
    total, seen = torch.zeros((), device=fabric.device), []
    for slot in plan.slots:
        images, labels, indices = next(slots)
        seen += indices.tolist()
        images, labels = fabric.to_device((images, labels))
        seed_all(derived(config.seed, STEP, step, slot))  # for mixup, erasing, dropout and stochastic depth
        images, targets = mix(images.contiguous(memory_format=torch.channels_last), labels)
        with fabric.no_backward_sync(wrapped, enabled=slot != plan.slots[-1]):
            loss = nn.functional.cross_entropy(wrapped(images), targets) / plan.accumulation
            fabric.backward(loss)
        total += loss.detach()
    return total, seen


def _agree(fabric: Any, loss: Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss of all processes, and whether any of them was asked to stop."""
    if fabric.world_size == 1:
        return loss.item(), stop
    both = torch.stack([loss, torch.full_like(loss, float(stop))])
    mean_loss, stops = fabric.all_reduce(both, reduce_op="mean").tolist()
    return mean_loss, stops > 0


def _refuse_not_finite(mean_loss: float, own: Tensor, seen: list[int], split: Split, step: int) -> None:
    if math.isfinite(mean_loss):
        return
    if math.isfinite(own.item()):
        raise InputError(f"the loss of another process is not finite at step {step}")
    ids = ", ".join(split.examples[index].id for index in seen)
    raise InputError(
        f"the loss is {own.item()} at step {step}; lower the learning rate, or look at the images of the "
        f"batch: {ids}"
    )


def _masks(
    config: TrainConfig, model: nn.Module, split: Split, plan: Plan, folder: Path, fabric: Any
) -> Masks:
    """The masks to begin with: of the file's zeros, or drawn by SNIP.

    Empty for a dense training, and where a saved state will bring them.
    """
    schedule: dict[str, Any] = {
        "prune_rate": config.prune_rate,
        "every": config.mask_every,
        "steps": plan.steps,
        "seed": config.seed,
    }
    if config.sparsity == 0 or (folder / STATE).exists():
        return Masks(model, {}, **schedule)
    if config.pretrained != "scratch":
        masks = Masks.recovered(model, **schedule)
        if not masks.kept:
            raise InputError(
                f"{config.pretrained}: has no zeros to be kept sparse; --sparsity 0 trains it dense"
            )
        return masks

    first = Plan(
        plan.images, plan.batch_size, plan.slot_size, plan.epochs, plan.seed
    )  # the same in each process
    images, labels, _ = (part.to(placement(model)[0]) for part in next(batches(split, config, first)))

    def loss(network: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    seed_all(derived(config.seed, STEP))
    counts = snip_counts(copy.deepcopy(model).train(), loss, config.sparsity)
    return Masks.drawn(model, counts, **schedule)


def _average(model: nn.Module, decay: float | None) -> Any:
    """timm's exponential moving average of the weights, warmed up so that it forgets the start."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


def _save(state: TrainState, folder: Path, fabric: Any) -> None:
    if fabric.global_rank == 0:
        state.save(folder)


class _Clock:
    """How fast it goes, for the progress line, and when to save."""

    def __init__(self, plan: Plan, state: TrainState) -> None:
        self.plan, self.state = plan, state
        self.saved = self.ticked = time.monotonic()
        self.loss, self.steps, self.seconds = math.nan, 0, 0.0

    def tick(self, loss: float) -> None:
        """A step is done."""
        self.loss = loss
        self.steps += 1
        self.seconds += time.monotonic() - self.ticked
        self.resume()

    def resume(self) -> None:
        """What was done since the last step does not count."""
        self.ticked = time.monotonic()

    def status(self) -> str:
        """The words beside the progress bar."""
        epoch = min(self.state.step // self.plan.steps_per_epoch + 1, self.plan.epochs)
        line = f"epoch {epoch}/{self.plan.epochs}"
        return line + (f"  loss {self.loss:.3f}  {self._speed:.0f} images/s" if self.steps else "")

    def lap(self) -> Row:
        """The speed of the epoch that ends."""
        row = {"images_per_second": round(self._speed, 1)}
        self.steps, self.seconds = 0, 0.0
        return row

    def due(self, minutes: float) -> bool:
        """Whether so much time has passed since this last said so."""
        now = time.monotonic()
        if now - self.saved < 60 * minutes:
            return False
        self.saved = now
        return True

    @property
    def _speed(self) -> float:
        return self.steps * self.plan.batch_size / max(self.seconds, 1e-9)
