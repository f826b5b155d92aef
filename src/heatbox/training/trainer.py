"""From a recipe and a data set to trained, scored weights in a run folder.

``config.json``        what was asked; the same command with the same configuration goes on
``environment.json``   versions, platform, git commit, seed
``state.pt``           what the training needs to go on
``checkpoints/``       weights every so many epochs: epoch-0050.safetensors, and their average epoch-0050-ema
``log.csv``            a row an epoch; the same as log.json, and in tensorboard/
``training.json``      the best checkpoint of each map, as the paper reports it, and the last one beside it
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from heatbox._utils.io import to_json
from heatbox._utils.progress import Track, silent
from heatbox.data.open import TrainingSplits, open_training
from heatbox.data.transforms import Preprocess
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, ENVIRONMENT, Run, environment
from heatbox.maps.registry import find_method
from heatbox.models.checkpoints import load_checkpoint
from heatbox.training.config import TrainConfig, TrainOptions
from heatbox.training.data import cached
from heatbox.training.distributed import make_fabric
from heatbox.training.failures import explained
from heatbox.training.log import BOARD, LOGS, Log
from heatbox.training.loop import Assess, Row, fit, plan_of
from heatbox.training.state import STATE
from heatbox.training.validate import assess
from heatbox.training.weights import (
    CHECKPOINTS,
    TRAINING,
    built,
    checkpoint_path,
    save_weights,
    start_model,
)


def train(
    config: TrainConfig,
    out: Path,
    options: TrainOptions | None = None,
    track: Track = silent,
    report: Callable[[Row], None] = lambda row: None,
    overwrite: bool = False,
    accept_changes: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train as a configuration says, or go on with a training that was interrupted.

    Args:
        config: what to compute; see `heatbox.training.recipes`.
        out: the run folder.
        options: how to spread the work over the machine.
        track: how to show progress.
        report: is told each epoch's row.
        overwrite: drop what an earlier training left in the folder.
        accept_changes: go on although the configuration differs from the one the folder was begun with.

    Returns:
        the model with the last weights (their average where there is one), in eval mode on the CPU, and what
        training.json says.

    Raises:
        InputError: data, weights or settings that cannot be used, or a folder that holds something else.
        heatbox.training.loop.Stopped: by a signal; the same call goes on.
    """
    options = options or TrainOptions()
    splits = open_training(config.data, config.test, config.limit)
    fabric = make_fabric(config, options)
    with explained(config, fabric.world_size):
        return _train(config, out, options, splits, fabric, track, report, (overwrite, accept_changes))


def _train(
    config: TrainConfig,
    out: Path,
    options: TrainOptions,
    splits: TrainingSplits,
    fabric: Any,
    track: Track,
    report: Callable[[Row], None],
    claim: tuple[bool, bool],
) -> tuple[nn.Module, dict[str, Any]]:
    first = fabric.global_rank == 0
    plan_of(config, splits.train, fabric)
    for method in config.method:
        find_method(method)
    model = start_model(config, splits.train.num_classes, options.recompute)
    if first:
        claim_folder(config, out, *claim)
    fabric.barrier()
    log = Log(out, options.tensorboard) if first else None

    def tell(history: list[Row]) -> None:
        assert log is not None
        log(history)
        Run(out).write_json(TRAINING, summary(config, history))
        report(history[-1])

    track = track if first else silent
    images = cached(splits.train, track) if options.cache else splits.train
    look = _looker(config, splits, out, fabric)
    history = fit(config, options, model, images, out, fabric, look, track, tell)
    fabric.barrier()  # the first process may still be writing what the others are about to read
    trained = built(config, splits.train.num_classes)
    load_checkpoint(trained, checkpoint_path(out, config.epochs, "ema" if config.ema else "weights"))
    return trained.eval(), summary(config, history)


def _looker(config: TrainConfig, splits: TrainingSplits, out: Path, fabric: Any) -> Assess:
    """What is done after each epoch: accuracy, and every so many epochs weights are saved and maps scored."""
    preprocess = Preprocess((config.size, config.size), config.mean, config.std)
    methods = config.method if splits.has_boxes else ()

    def look(weights: dict[str, nn.Module], epoch: int) -> Row:
        scored = config.is_scored(epoch)
        row: Row = {}
        for name, network in weights.items():
            if scored and fabric.global_rank == 0:
                save_weights(network, config, splits.train, checkpoint_path(out, epoch, name))
            if splits.test is not None:
                maps = methods if scored else ()
                row[name] = assess(network, splits.test, preprocess, maps, config.per_device, fabric)
        return row

    return look


def summary(config: TrainConfig, history: list[Row]) -> dict[str, Any]:
    """What training.json says: the last epoch, and for each map the checkpoint of the best MaxBoxAcc.

    The paper reports the best of the checkpoints saved every 50 epochs, chosen on the images it reports
    (supplement 8): an optimistic number, which is why the last one stands beside it.
    """
    scored = [
        (row["epoch"], name, row[name])
        for row in history
        for name in ("weights", "ema")
        if any(isinstance(value, dict) for value in row.get(name, {}).values())
    ]
    maps = {method for _, _, found in scored for method, value in found.items() if isinstance(value, dict)}
    return {
        "recipe": config.recipe,
        "epochs": len(history),
        "last": history[-1] if history else None,
        "best": {
            method: _described(method, *max(scored, key=lambda one: one[2][method]["MaxBoxAcc"]))
            for method in sorted(maps)
        },
    }


def _described(method: str, epoch: int, name: str, found: Row) -> Row:
    return {"epoch": epoch, "weights": name, "top1": found["top1"], **found[method]}


def claim_folder(config: TrainConfig, out: Path, overwrite: bool, accept_changes: bool) -> None:
    """Begin the run folder, or check that the training in it is of the same configuration.

    Raises:
        InputError: it is not, listing the differences; or the folder holds something that is no training.
    """
    run, wanted = Run(out), json.loads(to_json(config))
    if (out / CONFIG).exists() and "recipe" not in run.config():
        raise InputError(f"{out}: holds a run that is no training; choose another --out")
    if overwrite or not (out / CONFIG).exists():
        run.start(config, config.seed, resume=not overwrite)
        drop_training(out)
        return
    found = run.config()
    changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if not changed:
        return
    if not accept_changes:
        listed = "; ".join(f"{key} {found.get(key)!r} → {wanted.get(key)!r}" for key in changed)
        raise InputError(
            f"{out}: holds a training of another configuration ({listed}); choose another --out, "
            "--overwrite it, or go on all the same with --accept-changes"
        )
    run.write_json(CONFIG, wanted)
    run.write_json(ENVIRONMENT, environment(config.seed))


def drop_training(out: Path) -> None:
    """Remove what an earlier training left in the folder, and nothing else."""
    for name in (STATE, TRAINING, *LOGS):
        (out / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, BOARD):
        shutil.rmtree(out / name, ignore_errors=True)
