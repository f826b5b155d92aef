"""The scored models: family, training resolution, pre-training, augmentation, and area of the ERF."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from heatbox._utils.io import read_json
from heatbox.errors import InputError
from heatbox.evaluation.run import CONFIG, METRICS
from heatbox.visualization.figures.scores import SCRATCH, ModelScore
from heatbox.visualization.report.folders import Folder

TRAINING = "training.json"


def model_scores(folders: Sequence[Folder]) -> list[ModelScore]:
    """The model of each folder with scores of boxes, with its training and the area of its ERF if known."""
    areas = dict(_areas(folders))
    scored = [folder for folder in folders if folder.metrics is not None and not folder.has_masks]
    found = []
    for folder in scored:
        config = folder.run.settings() if (folder.path / CONFIG).is_file() else {}
        training = training_of(config)
        scores = {name: folder.scores["methods"][name] for name in folder.maps}
        name = str(training.get("recipe") or folder.name)
        known = describe(str(training.get("model") or config.get("model") or ""), training)
        area = areas.get(_key(config.get("model"), config.get("checkpoint")))
        found.append(ModelScore(name, scores, auc=area, **known))
    if len({one.name for one in found}) < len(found):  # several runs of one recipe
        found = [replace(one, name=folder.name) for one, folder in zip(found, scored, strict=True)]
    return found


def describe(model: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """Family, variant, pre-training, resolution and augmentation of a model, from its name and training.

    Args:
        model: name of the model, such as "convnext_base_384_in22ft1k".
        training: config of its training, with "pretraining" if that was recorded; empty if unknown.
    """
    name = model.rpartition(":")[2]
    name = name.rstrip("/").rpartition("/")[2] if model.startswith("hf:") else name
    options = training.get("model_options")
    kernel = options.get("kernel_size", "") if isinstance(options, dict) else ""
    variant = re.sub(r"_(224|384)|[_.]in22(ft1)?k?(_in22ft1k)?|_in22ft1k|[_.]in1k", "", name)
    return {
        "family": "" if ":" in model else re.split(r"[_\d]", name)[0],
        "variant": f"{variant} {kernel}".strip(),
        "pretraining": str(training.get("pretraining") or _guess_pretraining(name, training)),
        "resolution": size if isinstance(size := training.get("size"), int) else None,
        "augmented": bool(training.get("auto")),
    }


def _guess_pretraining(name: str, training: Mapping[str, Any]) -> str:
    """Pre-training by names, for trainings of 0.1.0, which did not record it.

    "scratch", "in1k", "in22k", or the recipe or file of the initial weights.
    """
    weights = str(training.get("pretrained", ""))
    if weights in ("", SCRATCH):
        return weights
    names = f"{name} {weights}"
    if re.search(r"in22|ImageNet-22K", names, re.IGNORECASE):
        return "in22k"
    if re.search(r"in1k|ImageNet-1K|published|_224|_384", names, re.IGNORECASE):
        return "in1k"
    file = Path(weights)
    return str(_json(file.parent.parent / CONFIG).get("recipe") or file.stem)


def training_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the training whose folder contains a run's checkpoint; empty if there is none."""
    checkpoint = config.get("checkpoint")
    if not checkpoint:
        return {}
    folder = Path(checkpoint).parent.parent
    found = _json(folder / CONFIG)
    return found | {"pretraining": _json(folder / TRAINING).get("pretraining")} if "recipe" in found else {}


def _areas(folders: Iterable[Folder]) -> Iterable[tuple[tuple[str, str], float]]:
    """(model, checkpoint) → area under r(t), from the analyses in the folders."""
    for folder in folders:
        for config in folder.measured("erf", CONFIG):
            settings, logarithmic = _json(config), _json(config.with_name(METRICS)).get("log")
            area = logarithmic.get("auc") if isinstance(logarithmic, dict) else None
            if isinstance(area, float):
                weights = str(settings.get("weights") or "").partition(" sha256:")[0]
                yield _key(settings.get("model"), weights), area


def _key(model: Any, checkpoint: Any) -> tuple[str, str]:
    """Identity of a model: its weights by their file, a model defined in a file by its function's name."""
    file = Path(checkpoint).resolve() if isinstance(checkpoint, str) and checkpoint else ""
    return str(model or "").rpartition(":")[2], str(file)


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError:
        return {}
