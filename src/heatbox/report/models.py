"""What runs say of the models they scored: family, training resolution, pre-training, augmentation, ERF."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heatbox.errors import InputError
from heatbox.report.figures.scores import ModelScore
from heatbox.report.runs import ANALYSIS, Folder
from heatbox.store import CONFIG, read_json

COMPARISON = "comparison.json"


def model_scores(folders: Sequence[Folder]) -> list[ModelScore]:
    """A model for each folder that holds scores, with what its training and any analysis beside it tell."""
    areas = dict(_areas(folders))
    found = []
    for folder in folders:
        if folder.metrics is None:
            continue
        config = folder.run.settings() if (folder.path / CONFIG).is_file() else {}
        training = _training_of(config)
        scores = {
            name: one
            for name, one in folder.metrics["methods"].items()
            if name not in folder.metrics["baselines"]
        }
        name = str(training.get("recipe") or folder.name)
        known = describe(str(training.get("model") or config.get("model") or ""), training)
        area = areas.get(_key(config.get("model"), config.get("checkpoint")))
        found.append(ModelScore(name, scores, auc=area, **known))
    return found if len({one.name for one in found}) == len(found) else _renamed(found, folders)


def describe(model: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """Family, variant, pre-training, resolution and augmentation of a model, by its name and training.

    Args:
        model: name of the model, such as "convnext_base_384_in22ft1k".
        training: config of its training; empty where it is not known.
    """
    name = model.rpartition(":")[2]
    words = f"{name} {training.get('pretrained', '')}"
    many = re.search(r"in22|ImageNet-22K", words, re.IGNORECASE)
    one = re.search(r"in1k|ImageNet-1K|published|_224|_384", words, re.IGNORECASE)
    scratch = training.get("pretrained") == "scratch"
    return {
        "family": "" if ".py:" in model else re.split(r"[_\d]", name)[0],
        "variant": re.sub(r"_(224|384)|[_.]in22(ft1)?k?(_in22ft1k)?|_in22ft1k|[_.]in1k", "", name),
        "pretraining": "" if scratch else "in22k" if many else "in1k" if one and training else "",
        "resolution": size if isinstance(size := training.get("size"), int) else None,
        "augmented": bool(training.get("auto")),
    }


def _training_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the training whose folder a run's checkpoint lies in; empty where it lies elsewhere."""
    checkpoint = config.get("checkpoint")
    if not checkpoint:
        return {}
    found = _json(Path(checkpoint).parent.parent / CONFIG)
    return found if "recipe" in found else {}


def _areas(folders: Iterable[Folder]) -> Iterable[tuple[tuple[str, str], float]]:
    """(model, checkpoint) → area under r(t), from the analyses in the folders."""
    for folder in folders:
        for note in sorted({*folder.path.glob(ANALYSIS), *folder.path.glob(f"*/{ANALYSIS}")}):
            asked = _json(note)
            rows = _list(_json(note.with_name(COMPARISON)).get("models"))
            names, checkpoints = _list(asked.get("model")), _list(asked.get("checkpoint"))
            for place, (name, row) in enumerate(zip(names, rows, strict=False)):
                area = row.get("erf_auc") if isinstance(row, dict) else None
                if isinstance(area, float):
                    yield _key(name, checkpoints[place] if place < len(checkpoints) else None), area


def _key(model: Any, checkpoint: Any) -> tuple[str, str]:
    """What tells two networks apart: weights by their file, a network in a file by its function's name."""
    file = Path(checkpoint).resolve() if isinstance(checkpoint, str) and checkpoint else ""
    return str(model or "").rpartition(":")[2], str(file)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _renamed(models: Sequence[ModelScore], folders: Sequence[Folder]) -> list[ModelScore]:
    """Models of one recipe are called by their folders."""
    names = [folder.name for folder in folders if folder.metrics is not None]
    return [dataclasses.replace(model, name=name) for model, name in zip(models, names, strict=True)]


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError:
        return {}
