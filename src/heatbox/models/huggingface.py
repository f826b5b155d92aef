"""Image classifiers of the transformers library, from a folder or by a name on the hub: ``hf:NAME``.

The model is the one that `AutoModelForImageClassification` builds. Its preprocessing and class names are
noted in `pretrained_cfg`, as timm does for its models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heatbox._utils.extras import require
from heatbox.errors import InputError, quoted
from heatbox.models.checkpoints import Checkpoint, load_checkpoint, read_checkpoint
from heatbox.models.processors import INPUTS, PROCESSORS, processor_config

PREFIX = "hf:"
CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
OTHER_WEIGHTS = {"*.h5": "Keras", "*.msgpack": "Flax", "*.onnx": "ONNX"}
LFS_POINTER = b"version https://git-lfs"
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def is_huggingface(name: str) -> bool:
    """Whether a model's name has the form hf:FOLDER or hf:OWNER/NAME."""
    return name.startswith(PREFIX)


def has_weights(name: str) -> bool:
    """Whether hf:FOLDER contains weights; True for names on the hub."""
    folder = _folder(name)
    return folder is None or bool(_weights_in(folder))


def create_huggingface(
    name: str,
    num_classes: int | None = None,
    weights: Checkpoint | None = None,
    *,
    new_head: bool = False,
    scratch: bool = False,
    **options: Any,
) -> nn.Module:
    """Build an image classifier of transformers.

    Args:
        name: "hf:FOLDER", a folder as `save_pretrained` writes it, or "hf:OWNER/NAME" on the hub, which is
            fetched unless it is cached. A folder is read without the network. Code in it is never run.
        num_classes: number of classes. It can differ from that of the weights only where none are read from
            the folder: with `weights`, or for training.
        weights: of another file, read in place of the folder's.
        new_head: give the folder's weights a new classifier of `num_classes`; whatever else they lack is an
            error, as without.
        scratch: leave the weights of the folder out, as initialized.
        options: fields of the model's configuration.

    Returns:
        the model in float32, which returns a `ModelOutput`. `pretrained_cfg` has, as far as they are known,
        the fields input_size, mean, std, interpolation, crop_pct and architecture of timm; label_names;
        problem_type; and channel_order, "bgr" where the model expects it.

    Raises:
        InputError: transformers is not installed; no such folder or name; not an image classifier, or one
            that needs code of its own; weights that are missing, incomplete, damaged or quantized.
    """
    require("hf", name)
    folder = _folder(name) or _fetched(name)
    _check_folder(name, folder)
    with _quiet():
        config = _config(name, folder, options)
        if weights is not None or scratch or not _weights_in(folder):
            if new_head and weights is None and not scratch:
                num_classes = None  # weights are required
            model = _from_config(name, folder, config, num_classes, weights)
        elif new_head:
            if num_classes not in (None, config.num_labels):
                config.num_labels = num_classes
            model = _with_weights(name, folder, config, new_head=True)
        elif num_classes not in (None, config.num_labels):
            raise InputError(
                f"{name}: its weights are those of {config.num_labels} classes, not {num_classes}; "
                "leave the number of classes out, or train a new head with transformers"
            )
        else:
            model = _with_weights(name, folder, config)
        if getattr(model, "main_input_name", INPUTS[0]) not in INPUTS:
            raise InputError(f"{name}: reads {model.main_input_name}, not images")
        model.pretrained_cfg = {  # type: ignore[assignment]
            "architecture": getattr(config, "architecture", None) or type(model).__name__,
            **_known_size(config),
            **_preprocessing(name, folder, config),
            **_labels(model.config),
        }
    if weights is not None:
        load_checkpoint(model, weights)
    return model.float().eval()


# ------------------------------------------------------------------------------------------------ the model


def _folder(name: str) -> Path | None:
    """The folder that a name stands for; None for a name on the hub.

    Raises:
        InputError: a path at which there is no folder.
    """
    source = name.removeprefix(PREFIX)
    if not source:
        raise InputError(f"{name!r} names no model, expected hf:FOLDER or hf:OWNER/NAME")
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{name}: is a file, expected a folder with {CONFIG}, as save_pretrained writes it")
    if source[0] in "./~\\" or source.count("/") > 1 or "\\" in source or source.endswith("/"):
        raise InputError(f"{name}: there is no such folder")
    return None


def _fetched(name: str) -> Path:
    """The folder in the cache with the files of a name on the hub, which are fetched unless they are there.

    Raises:
        InputError: no such name, or no network.
    """
    from huggingface_hub import snapshot_download

    def folder(weights: str, **options: Any) -> Path:
        with _quiet():
            patterns = ["*.json", weights]
            return Path(snapshot_download(name.removeprefix(PREFIX), allow_patterns=patterns, **options))

    try:
        cached = folder(WEIGHTS[0], local_files_only=True)
        if _weights_in(cached):
            return cached
    except Exception:
        pass
    try:
        found = folder(WEIGHTS[0])
        return found if _weights_in(found) else folder(WEIGHTS[1])
    except Exception as error:  # the client raises its own errors and those of its transport
        raise InputError(
            f"{name}: is neither a folder here, nor cached, nor could be fetched ({quoted(error)})"
        ) from error


def _weights_in(folder: Path) -> list[Path]:
    """Files of weights in a folder that transformers reads."""
    return [path for pattern in WEIGHTS for path in sorted(folder.glob(pattern))]


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        if (folder / ADAPTER).is_file():
            raise InputError(
                f"{name}: contains an adapter only ({ADAPTER}); merge it into its model and save that"
            )
        inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        hint = f"; the folders {', '.join(inner)} in it have one" if inner else ""
        raise InputError(f"{name}: has no {CONFIG}, expected a folder as save_pretrained writes it{hint}")
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / CONFIG}: is not JSON ({quoted(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{folder / CONFIG}: is a JSON {type(content).__name__}, expected names and values")
    for path in _weights_in(folder):
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise InputError(
                    f"{path}: is a pointer of Git LFS, not the weights; `git lfs pull` fetches them"
                )


def _config(name: str, folder: Path, options: Mapping[str, object]) -> Any:
    """The configuration of an image classifier.

    Raises:
        InputError: not one.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    try:
        config, unknown = AutoConfig.from_pretrained(folder, **_LOCAL, return_unused_kwargs=True, **options)
    except Exception as error:  # of fields of any kind
        if "trust_remote_code" in str(error):
            raise InputError(f"{name}: needs Python code of its own, which heatbox does not run") from error
        where = folder / CONFIG
        raise InputError(f"{where}: transformers cannot read this configuration ({quoted(error)})") from error
    if unknown:
        raise InputError(f"{name}: its configuration has no {', '.join(map(repr, unknown))}")
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(f"{name}: is {_kind(config)}, for which transformers has no image classifier")
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        fields = quantization if isinstance(quantization, Mapping) else vars(quantization)
        method = fields.get("quant_method", "?")
        raise InputError(
            f"{name}: its weights are quantized ({getattr(method, 'value', method)}); "
            "use the model that it was quantized from"
        )
    return config


def _kind(config: Any) -> str:
    """The class that wrote a configuration."""
    return (getattr(config, "architectures", None) or [type(config).__name__])[0]


def _with_weights(name: str, folder: Path, config: Any, new_head: bool = False) -> nn.Module:
    """The model with the weights of its folder, which are all there, or all but those of a new head."""
    from transformers import AutoModelForImageClassification

    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder,
            config=config,
            **_LOCAL,
            weights_only=True,
            ignore_mismatched_sizes=True,  # reported below
            output_loading_info=True,
        )
    except Exception as error:  # damaged or refused files can make the reader raise anything
        for path in _weights_in(folder):
            if path.suffix != ".json":
                read_checkpoint(path)  # raises a sentence about the file
        raise InputError(f"{name}: its weights cannot be loaded ({quoted(error)})") from error
    missing, others = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if new_head and (missing or others):
        from heatbox.models.introspect import ClassifierView

        layer = ClassifierView(model).classifier
        own = {id(one) for one in layer.parameters()}
        head = {key for key, one in model.named_parameters() if id(one) in own}
        missing, others = [key for key in missing if key not in head], [k for k in others if k[0] not in head]
    if missing or others:
        problem = f"{missing[0]!r} is missing (first of {len(missing)})" if missing else ""
        for key, found, wanted in others[:1]:
            problem = f"{key!r} is {list(found)} where {list(wanted)} is expected (first of {len(others)})"
        raise InputError(
            f"{name}: its weights, of {_kind(config)}, do not fit {type(model).__name__}: {problem}"
        )
    built: nn.Module = model
    return built


def _from_config(
    name: str, folder: Path, config: Any, num_classes: int | None, weights: Checkpoint | None
) -> nn.Module:
    """The model as it is initialized, for weights of another file or for training."""
    from transformers import AutoModelForImageClassification

    if weights is None and num_classes is None:
        others = [kind for pattern, kind in OTHER_WEIGHTS.items() if any(folder.glob(pattern))]
        found = f", only those of {' and '.join(others)}" if others else ""
        raise InputError(
            f"{name}: contains no weights for PyTorch{found}; expected model.safetensors or "
            "pytorch_model.bin, or a file of weights as the checkpoint"
        )
    if weights is not None:
        classes = _classes_in(config, weights)
        if classes is not None and num_classes not in (None, classes):
            raise InputError(f"{weights.source}: has a classifier of {classes} classes, not {num_classes}")
        num_classes = classes
    if num_classes not in (None, config.num_labels):
        config.num_labels = num_classes
    try:
        model: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # of fields that do not fit each other
        raise InputError(f"{name}: could not be built from its {CONFIG} ({quoted(error)})") from error
    return model


def _classes_in(config: Any, weights: Checkpoint) -> int | None:
    """Number of classes of weights that fit the model, except perhaps for its classifier; None for others."""
    from transformers import AutoModelForImageClassification

    with torch.device("meta"):
        own = AutoModelForImageClassification.from_config(config, trust_remote_code=False).state_dict()
    if not own.keys() <= weights.state.keys():
        return None
    different = [key for key, value in own.items() if weights.state[key].shape != value.shape]
    rows = {(own[key].shape[:1], weights.state[key].shape[:1]) for key in different}
    if not rows:
        return int(config.num_labels)
    expected, found = rows.pop()
    return int(found[0]) if not rows and expected == (config.num_labels,) and found else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines and progress bars of transformers."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    level, hub_level, bars = (
        logging.get_verbosity(),
        hub_logging.get_verbosity(),
        logging.is_progress_bar_enabled(),
    )
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()


# ---------------------------------------------------------------------------- preprocessing and class names


def _known_size(config: Any) -> dict[str, Any]:
    """The input size in the model's configuration, if there is one."""
    channels = getattr(config, "num_channels", None) or 3
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    sides = tuple(side) if isinstance(side, list | tuple) else (side, side)
    if len(sides) != 2 or not all(isinstance(one, int) and one > 0 for one in sides):
        return {}
    return {"input_size": (channels, *sides)}


def _labels(config: Any) -> dict[str, Any]:
    """Names of the classes, if they were given, and the kind of labels in training."""
    names = dict(getattr(config, "id2label", None) or {})
    found: dict[str, Any] = {}
    given = names and any(str(name) != f"LABEL_{index}" for index, name in names.items())
    if given and len(names) == config.num_labels:
        found["label_names"] = [str(names.get(index, index)) for index in range(config.num_labels)]
    if getattr(config, "problem_type", None):
        found["problem_type"] = config.problem_type
    return found


def _preprocessing(name: str, folder: Path, config: Any) -> dict[str, Any]:
    """Fields of timm's pretrained_cfg that the model's image processor determines; {} without one.

    Raises:
        InputError: the processor does not make images, or cannot be read.
    """
    timm_config = getattr(config, "pretrained_cfg", None)
    if isinstance(timm_config, Mapping):
        keys = ("input_size", "test_input_size", "mean", "std", "interpolation", "crop_pct", "test_crop_pct")
        found = {key: timm_config[key] for key in keys if timm_config.get(key) is not None}
        return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    if not any((folder / file).is_file() for file in PROCESSORS):
        return {}
    return processor_config(folder, name, getattr(config, "num_channels", None) or 3)
