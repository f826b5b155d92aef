"""Run folders, as the commands that read them do: report, compare, export, evaluate, score, analyze."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.mutate import AWARE, Case, damaged
from fuzz.target import Target, files_of, one_sentence, written
from heatbox.analysis.config import ModelsConfig
from heatbox.analysis.runner import compared_models
from heatbox.cli.evaluate import rescore
from heatbox.config import EvaluateConfig
from heatbox.data.open import open_split
from heatbox.errors import InputError
from heatbox.evaluation.compare import compare_runs, comparison_lines
from heatbox.evaluation.export import RunMaps, write_coco, write_heatmaps, write_overlays
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from heatbox.evaluation.score import score_folder
from heatbox.models.factory import create_model
from heatbox.visualization.report.build import write_report
from helpers import data_trees as trees
from helpers.scenes import write_model, write_split

SET = "work/set"  # the data set's path as seen from where an input is run


_MADE: list[Case] = []


def parquet_changed(data: bytes, random: Random) -> bytes | None:
    """A column of a Parquet file missing, renamed, of another type, with other values, or other rows."""
    try:
        table = pq.read_table(io.BytesIO(data))
        known = table.column_names
    except Exception:  # what an earlier mutation has left
        return None
    if not known:
        return None
    place = random.randrange(len(known))
    name, count = known[place], table.num_rows
    kind = random.randrange(8)
    if kind == 0:
        table = table.remove_column(place)
    elif kind == 1:
        names = list(known)
        names[place] = random.choice(
            (name + "x", "", "id", "boxes", "map_cam", "map_<b>", random.choice(names))
        )
        table = table.rename_columns(names)
    elif kind == 2:
        rows = (
            [random.randrange(count) for _ in range(random.choice((0, 1, count, count + 1)))] if count else []
        )
        table = table.take(pa.array(rows, pa.int64()))
    else:
        try:
            table = table.set_column(place, name, _column(table[name].to_pylist(), kind, random))
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return None
    out = io.BytesIO()
    try:
        pq.write_table(table, out)
    except (pa.ArrowException, OSError):
        return None
    return out.getvalue()


def _column(values: list[Any], kind: int, random: Random) -> pa.Array:
    if not values:
        return pa.array([], pa.null())
    at = random.randrange(len(values))
    if kind == 3:
        return pa.array([str(value) for value in values])
    if kind == 4:
        values[at] = None
    elif kind == 5:
        return pa.array([random.choice((None, 0, 1, -1, 2**31))] * len(values))
    elif isinstance(values[at], list):
        inner = random.choice((0, -1, 1e300, float("nan"), float("inf"), None, 3))
        values[at] = random.choice(([], values[at][:-1], values[at] * 2, [inner] * len(values[at]), [inner]))
    elif isinstance(values[at], str):
        values[at] = random.choice(("", "../x", "/x", "a\0b", "<script>", "x" * 5000, values[0], "\x1b[2J"))
    else:
        values[at] = random.choice((0, -1, 2**31, 2**62, 10, 1.5, float("nan"), float("inf"), -1e300))
    return pa.array(values)


AWARE[".parquet"] = parquet_changed


def _config(**changes: Any) -> EvaluateConfig:
    """What all runs here were asked, but for some settings."""
    asked = {"size": 32, "batch_size": 4, "thresholds": 50, "device": "cpu", **changes}
    return EvaluateConfig("mine.py:blobs", SET, **asked)


@cache
def _model() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return create_model(write_model(Path(folder)), 10)


def _finished(_: Path) -> list[Case]:
    """A finished run of boxes, the same with thresholds chosen elsewhere, and one of masks."""
    with tempfile.TemporaryDirectory() as folder:
        return [dict(case) for case in _made(Path(folder))]


def _made(root: Path) -> list[Case]:
    if _MADE:  # several targets begin with the same runs
        return _MADE
    cases: list[Case] = []
    for name, masks, fullsup in (("boxes", False, None), ("fullsup", False, SET), ("masks", True, None)):
        folder = root / name
        if masks:
            trees.openimages(folder / SET)
        else:
            write_split(folder / SET, 4)
        cases.append(_evaluated(folder, _config(fullsup=fullsup), _model()))
    _MADE.extend(cases)
    return _MADE


def _evaluated(folder: Path, config: EvaluateConfig, model: Any) -> Case:
    here = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch(
            "heatbox.evaluation.predict.time.perf_counter", return_value=0.0
        ):  # each time the same run
            evaluate(config, Run(folder / "work/run"), model=model)
    finally:
        os.chdir(here)
    return files_of(folder / "work")


def damage_run(case: Case, others: Sequence[Case], random: Random) -> Case:
    """Files of the run damaged, sometimes missing; the data set stays whole."""
    names = [name for name in case if name.startswith("run/")]
    if random.random() < 0.05:
        case = dict(case)
        del case[random.choice(names)]
        return case
    return damaged(case, others, random, names)


def _run_report(case: Case, folder: Path) -> None:
    written(case, folder)
    for note in write_report([folder / "run"], folder / "page.html"):
        assert note.strip()
    assert (folder / "page.html").read_text().rstrip().endswith("</html>")


def _finished_with_other(root: Path) -> list[Case]:
    """As `_finished`; the first case goes along with each as "other/", whole."""
    cases = _finished(root)
    other = {f"other/{name}": data for name, data in cases[0].items()}
    return [case | other for case in cases]


def _run_compare(case: Case, folder: Path) -> None:
    written(case, folder)
    for pair in (("run", "other/run"), ("other/run", "run")):
        try:
            comparison_lines(compare_runs(folder / pair[0], folder / pair[1]))
        except InputError as error:
            one_sentence(str(error))


def _run_export(case: Case, folder: Path) -> None:
    written(case, folder)
    found = RunMaps(folder / "run")
    for work in (
        lambda: write_coco(found, folder / "out/boxes.json"),
        lambda: write_heatmaps(found, folder / "out/maps"),
        lambda: write_overlays(found, folder / "out/overlays", open_split(str(folder / "set")), limit=2),
    ):
        try:
            work()
        except InputError as error:
            one_sentence(str(error))


def _run_rescore(case: Case, folder: Path) -> None:
    written(case, folder)
    rescore(folder / "run", thresholds=20, as_json=True)


def _unfinished(root: Path) -> list[Case]:
    cases = []
    for case in _finished(root):
        records = case.pop("run/predictions.parquet")
        table = pq.read_table(io.BytesIO(records))
        table = table.select([name for name in table.column_names if not name.startswith(("box_", "iou_"))])
        out = io.BytesIO()
        pq.write_table(table.slice(0, 2), out)
        case["run/parts/000000.parquet"] = out.getvalue()
        del case["run/metrics.json"]
        cases.append(case)
    return cases


def _run_resume(case: Case, folder: Path) -> None:
    """The command that began the run is given again, with thresholds chosen elsewhere where it had them."""
    written(case, folder)
    fullsup = SET if b'work/set",\n  "fullsup_' in case.get("run/config.json", b"") else None
    evaluate(_config(fullsup=fullsup), Run(folder / "run"), model=_model())


def _recorded(root: Path) -> list[Case]:
    """Heatmaps, a data set, and the records of an earlier scoring."""
    data = write_split(root / "set", 4)
    split = open_split(str(data))
    for index, example in enumerate(split):
        path = root / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(index).random((224, 224)).astype(np.float32))
    score_folder(root / "maps", split.examples, thresholds=20, threads=1, records=root / "records")
    return [files_of(root)]


def _damage_records(case: Case, others: Sequence[Case], random: Random) -> Case:
    names = [name for name in case if name.startswith("records/")]
    return damaged(case, others, random, names)


def _run_records(case: Case, folder: Path) -> None:
    written({name: data for name, data in case.items() if not name.startswith("set/images")}, folder)
    split = open_split(str(folder / "set"))
    score_folder(folder / "maps", split.examples, thresholds=20, threads=1, records=folder / "records")


def _trained(root: Path) -> list[Case]:
    content = {
        "run/config.json": {
            "recipe": "glyphs_resnet",
            "model": "resnet10_small",
            "size": 64,
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
            "model_options": {},
        },
        "run/training.json": {
            "recipe": "x",
            "epochs": 3,
            "last": {"epoch": 3, "weights": {"top1": 1.0}, "ema": {"top1": 2}},
        },
        "run/log.json": [{"epoch": 1, "loss": 0.5}],
    }
    return [{name: json.dumps(value).encode() for name, value in content.items()}]


def _run_subjects(case: Case, folder: Path) -> None:
    written(case, folder)
    for model in compared_models(ModelsConfig(model=(str(folder / "run"),)), folder / "out"):
        EvaluateConfig(**vars(model.spec), data=SET)


TARGETS = [
    Target("runs-report", _finished, _run_report, 3_000, damage_run),
    Target("runs-compare", _finished_with_other, _run_compare, 3_000, damage_run),
    Target("runs-export", _finished, _run_export, 3_000, damage_run),
    Target("runs-score-again", _finished, _run_rescore, 3_000, damage_run),
    Target("runs-resume", _unfinished, _run_resume, 3_000, damage_run),
    Target("runs-records", _recorded, _run_records, 4_000, _damage_records),
    Target("runs-subjects", _trained, _run_subjects, 10_000, damage_run),
]
