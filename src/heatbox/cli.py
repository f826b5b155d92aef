"""The command line: one function per command, each of which calls one library function and prints."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from heatbox.cli_report import compare, export, report
from heatbox.cli_train import recipes, tell_epoch, train_command
from heatbox.config import EvaluateConfig, ScoreConfig
from heatbox.errors import InputError
from heatbox.files import folder_name
from heatbox.progress import printable
from heatbox.recipes import get_recipe
from heatbox.terminal import INTERRUPTED, SOME_FAILED, USER_ERROR, AsJson, print_table, say


def demo(out: Path = Path("heatbox-demo"), epochs: int = 10, seed: int = 0) -> None:
    """Train on the embedded data set, make maps, score them: the main job in one go.

    Needs no data and no network and takes about three minutes on two CPU cores. The run folder holds the
    trained weights, every prediction, the scores, a contact sheet and a page to explore.

    Args:
        out: The run folder; an earlier demo in it is replaced.
        epochs: Passes over the 4000 training images.
        seed: Of the training.
    """
    from heatbox.demo import PAGE, run_demo, write_page
    from heatbox.progress import on_terminal

    config = dataclasses.replace(get_recipe("glyphs_resnet"), epochs=epochs, seed=seed)
    metrics = run_demo(config, out, on_terminal, tell_epoch)
    _show_scores(metrics, f"glyphs: {metrics['images']} test images, trained on labels alone", False)
    missing = write_page(out, on_terminal)
    say(f"note: {missing}" if missing else f"page:     {out / PAGE} (open it in a browser)")
    say(f"pictures: {out / 'contact-sheet.png'}")
    say(f"run:      {out} (metrics.json, predictions.parquet, training/)")


def evaluate(
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> None:
    """Make maps of a data set and score them against its boxes, or its masks where it has no boxes.

    Writes a run folder and prints a table. Interrupted, the same command goes on where it stopped.
    With --from-run RUN instead of --model and --data, the maps saved in a run are scored again.

    Args:
        config: What to evaluate.
        out: The run folder; by default runs/MODEL-DATA.
        overwrite: Start anew where the folder holds another run.
        as_json: Print the scores as JSON instead of a table.
    """
    from heatbox.evaluation import evaluate as run_evaluation
    from heatbox.progress import on_terminal
    from heatbox.store import Run

    _warn_of_random_weights(config.model, config.checkpoint)
    run = Run(out or Path("runs") / folder_name(f"{config.model}-{config.data}"))
    if run.finished and not overwrite:
        say(f"note: {run.folder} holds maps already, which are scored again; --overwrite makes new ones")
    metrics = run_evaluation(config, run, on_terminal, overwrite)
    _show_scores(metrics, f"{config.model} on {config.data}", as_json)
    say(f"run: {run.folder}")


def rescore(
    from_run: Path,
    protocol: Literal["reference", "exact"] = "reference",
    thresholds: int = 1000,
    as_json: AsJson = False,
) -> None:
    """Score the maps saved in a run again.

    Args:
        from_run: The folder of a finished run.
        protocol: Boxes as the field's reference evaluator compares them, or without its rounding.
        thresholds: Number of thresholds tried.
        as_json: Print the scores as JSON instead of a table.
    """
    from heatbox.evaluation import saved_methods
    from heatbox.evaluation import score as score_run
    from heatbox.progress import on_terminal
    from heatbox.store import Run

    run = Run(from_run)
    run.config()  # says so where this is no run at all
    if len(run) and not run.finished:
        raise InputError(
            f"{from_run}: is an unfinished run that holds maps of {len(run)} images so far; "
            "go on with the command that began it"
        )
    fullsup = Run(from_run / "fullsup")
    methods = saved_methods(run)
    metrics = score_run(
        run, methods, thresholds, protocol, fullsup if fullsup.finished else None, on_terminal
    )
    _show_scores(metrics, f"{from_run}, scored again", as_json)


def score(
    config: Annotated[ScoreConfig, tyro.conf.arg(name="")],
    out: Path | None = None,
    overwrite: bool = False,
    as_json: AsJson = False,
) -> int:
    """Score heatmaps that any tool made: .npy files in the reference layout.

    Prints MaxBoxAcc and MaxBoxAccV2 with intervals, beside baselines; PxAP where the data set has masks and
    no boxes. Heatmaps that are missing or
    malformed are reported and left out; the exit code is then 1. Interrupted, the same command goes on
    (against boxes with the reference protocol; the others keep no records).

    Args:
        config: What to score.
        out: The run folder; by default runs/score-HEATMAPS.
        overwrite: Start anew where the folder holds another run.
        as_json: Print the scores as JSON instead of a table.
    """
    from heatbox.progress import on_terminal
    from heatbox.scoring import score_heatmaps
    from heatbox.store import Run

    run = Run(out or Path("runs") / folder_name(f"score-{config.heatmaps}"))
    metrics, problems = score_heatmaps(config, run, on_terminal, overwrite)
    _show_scores(metrics, f"{config.heatmaps} on {config.data}", as_json)
    for problem in problems:
        say(f"left out: {problem}")
    say(f"run: {run.folder}")
    return SOME_FAILED if problems else 0


def locate(
    photos: tyro.conf.Positional[tuple[Path, ...]],
    model: Annotated[str, tyro.conf.arg(aliases=["-m"])],
    checkpoint: str | None = None,
    num_classes: int | None = None,
    method: str = "cam",
    walk_seed: str = "cam",
    threshold: float = 0.35,
    contours: Literal["largest", "all"] = "largest",
    size: int | None = None,
    target: int | None = None,
    out: Path = Path("heatbox-boxes"),
    overlays: bool = True,
    device: str = "auto",
) -> int:
    """Find the object in pictures of your own.

    Prints one JSON object a picture (file, label, score, boxes in its pixels) and writes overlay PNGs. A
    file that cannot be read is reported and passed over; the exit code is then 1.

    Args:
        photos: Picture files of any size and kind.
        model: A timm model name, or path/to/file.py:function for a model of your own.
        checkpoint: A file of weights, or "pretrained" for those that timm publishes.
        num_classes: Number of classes; by default the model's own.
        method: The map: cam, pc1, walk or walk-one-pass; walk:pc1 is a walk from PC1, and a name ending in
            +centre is a map times the centre prior.
        walk_seed: Map that a walk of no named seed starts from.
        threshold: Share of the map's maximum above which pixels belong to the object; evaluate prints
            the best one for a data set.
        contours: One box a picture, or one for every connected region.
        size: Side of the square input in pixels; by default the model's own.
        target: Class to look for; by default the predicted one.
        out: Folder of the overlays.
        overlays: Whether to draw them.
        device: cpu, cuda, mps, or auto for the best at hand.
    """
    from heatbox.locate import locate_files

    _warn_of_random_weights(model, checkpoint)
    failures = 0
    for line in locate_files(
        photos,
        model=model,
        checkpoint=checkpoint,
        num_classes=num_classes,
        method=method,
        walk_seed=walk_seed,
        threshold=threshold,
        contours=contours,
        size=size,
        target=target,
        out=out if overlays else None,
        device=device,
    ):
        if isinstance(line, InputError):
            failures += 1
            say(f"passed over: {line}")
        else:
            print(json.dumps(line), flush=True)
    if failures:
        say(f"{failures} of {len(photos)} pictures could not be used")
    return SOME_FAILED if failures else 0


def models(as_json: AsJson = False) -> None:
    """What can be built by name, at what cost, and which released weights fit.

    Args:
        as_json: Print JSON instead of a table.
    """
    from heatbox.models.zoo import list_models

    rows = list_models()
    if as_json:
        from heatbox.store import to_json

        print(to_json(rows))
    else:
        from heatbox.report.tables import model_table

        print_table(model_table(rows))


def convert(source: str, target: Path, entry: str | None = None, half: bool = False) -> None:
    """Turn a released checkpoint into safetensors under our names, with what is known of it as metadata.

    Args:
        source: A .pth, .pt or .safetensors file, or hf-hub:owner/name.
        target: The .safetensors file to write.
        entry: Which of several sets of weights to take from the file, such as model_ema.
        half: Store float16 instead of float32.
    """
    from heatbox.models.checkpoints import convert as convert_file

    report = convert_file(source, target, entry=entry, half=half)
    say(f"{target}: {report.model or 'no model of ours'}, {report.num_classes} classes")


def data(action: tyro.conf.Positional[Literal["check", "prepare", "list"]]) -> None:
    """What data there is and what is broken: check PATH, prepare cub, list. See heatbox data --help.

    Args:
        action: Each has its own --help.
    """


def analyze(
    instrument: tyro.conf.Positional[
        Literal[
            "erf",
            "shape-bias",
            "responses",
            "activation",
            "class-weights",
            "complexity",
            "signed-cam",
            "thresholds",
            "all",
        ]
    ],
) -> None:
    """Why a backbone localizes well or badly: an instrument, or all, over several models. See analyze --help.

    Args:
        instrument: Each has its own --help.
    """


def train(recipe: tyro.conf.Positional[str]) -> None:
    """Train a recipe on labels alone: heatbox train RECIPE --data PATH. See heatbox train RECIPE --help.

    Args:
        recipe: One of those that heatbox recipes lists.
    """


COMMANDS = {
    "demo": demo,
    "locate": locate,
    "evaluate": evaluate,
    "score": score,
    "train": train,
    "recipes": recipes,
    "models": models,
    "convert": convert,
    "data": data,
    "analyze": analyze,
    "report": report,
    "compare": compare,
    "export": export,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: some inputs were passed over; 2: input that cannot be used, said in one sentence;
    130: interrupted. A bug keeps its traceback.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Any] = dict(COMMANDS)
    if args[:1] == ["evaluate"] and any(re.match(r"--from[-_]run\b", arg) for arg in args):
        commands["evaluate"] = rescore
    prog = "heatbox"
    if args[:1] == ["data"]:
        from heatbox.cli_data import DATA_COMMANDS

        commands, prog, args = dict(DATA_COMMANDS), "heatbox data", args[1:]
    if args[:1] == ["analyze"]:
        from heatbox.cli_analyze import ANALYZE_COMMANDS

        commands, prog, args = dict(ANALYZE_COMMANDS), "heatbox analyze", args[1:]
    settings = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    try:
        if args[:1] == ["train"] and len(args) > 1 and not args[1].startswith("-"):
            command = train_command(args[1])
            return tyro.cli(command, prog=f"heatbox train {args[1]}", args=args[2:], config=settings)
        code = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=prog,
            description="Weakly supervised object localization: from image-level labels to boxes.",
            args=args,
            config=settings,
        )
    except InputError as error:
        say(f"heatbox: {error}")
        return USER_ERROR
    except KeyboardInterrupt:
        goes_on = args[:1] in (["evaluate"], ["score"], ["train"]) or prog == "heatbox analyze"
        say(
            "heatbox: interrupted"
            + ("; what was computed is kept, the same command goes on from there" if goes_on else "")
        )
        return INTERRUPTED
    return code or 0


# ---------------------------------------------------------------------------------------------- printing


def _show_scores(metrics: dict[str, Any], title: str, as_json: bool) -> None:
    if as_json:
        from heatbox.store import to_json

        print(to_json(metrics))
    else:
        from heatbox.report.tables import difference_lines, mask_table, score_table

        print_table((mask_table if metrics.get("truth") == "masks" else score_table)(metrics, title))
        for line in difference_lines(metrics):
            print(printable(line))


def _warn_of_random_weights(model: str, checkpoint: str | None) -> None:
    if checkpoint is None and ".py:" not in model:
        say(f"note: {model} has random weights; --checkpoint takes a file, or pretrained")


if __name__ == "__main__":
    sys.exit(main())
