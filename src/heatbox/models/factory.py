"""A model by name, by hf:FOLDER, or by path/to/file.py:function."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import timm
from torch import nn

from heatbox._utils.checks import check_integer, kind_of
from heatbox._utils.plugins import is_plugin, load_function
from heatbox.errors import InputError, did_you_mean
from heatbox.models.checkpoints import classes_in, load_checkpoint, read_checkpoint
from heatbox.models.forms import program_in, refusal
from heatbox.models.huggingface import create_huggingface, is_huggingface

PRETRAINED = "pretrained"
NAMES = "a timm model name, hf:FOLDER, hf:OWNER/NAME or path/to/file.py:function"
"""Kinds of names of models, for messages."""
WEIGHTS = Path(__file__).parent / "weights"
"""Weights included in the package: small networks trained on glyphs (docs/training.md)."""


def create_model(
    name: str, num_classes: int | None = None, checkpoint: str | Path | None = None, **options: object
) -> nn.Module:
    """Build a classifier by name.

    Args:
        name: a timm model name ("resnet50", "convnext_tiny.fb_in1k", ...); "hf:FOLDER" or "hf:OWNER/NAME"
            for an image classifier of transformers with its weights, see `heatbox.models.huggingface`; or
            "path/to/file.py:function" for your own: the function is called with `num_classes` (if one is
            given) and `options`, and returns an `nn.Module`.
        num_classes: number of classes; None takes the checkpoint's, or otherwise the model's default.
        checkpoint: a file of weights, "hf-hub:owner/name" for weights on the hub, or "pretrained" for
            those included in heatbox (see `shipped`) or published by timm under this name, which timm
            downloads if they are not cached. None leaves the weights as initialized, or takes those of
            hf:FOLDER.
        options: further arguments of the function that builds the model.

    Returns:
        the model, in eval mode, on the CPU.

    Raises:
        InputError: unknown name, a file without that function, a checkpoint that does not fit.
        TypeError: a name or checkpoint that is not text or a path, or a number of classes that is not an
            integer.

    Examples:
        >>> model = create_model("test_resnet", num_classes=10)
        >>> model(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """
    if not isinstance(name, str):
        raise TypeError(f"name: {kind_of(name)}, expected {NAMES}")
    if num_classes is not None:
        check_integer(num_classes, "num_classes", 0)
    if checkpoint == PRETRAINED and name in shipped():
        checkpoint = shipped()[name]
    weights = None if checkpoint in (None, PRETRAINED) else read_checkpoint(checkpoint)
    if is_huggingface(name):
        return create_huggingface(name, num_classes, weights, **options)
    if weights is not None and num_classes is None and not is_plugin(name):
        num_classes = classes_in(weights.state)
    if is_plugin(name):
        model = _from_file(name, num_classes, dict(options))
        if checkpoint == PRETRAINED:
            raise InputError(f"{name}: 'pretrained' is for timm models; name a checkpoint file instead")
    else:
        model = _from_timm(name, num_classes, checkpoint == PRETRAINED, dict(options))
    if weights is not None:
        load_checkpoint(model, weights)
    return model.eval()


def shipped() -> dict[str, Path]:
    """Names of the models whose trained weights are included in the package → the files."""
    return {file.stem: file for file in sorted(WEIGHTS.glob("*.safetensors"))}


def _from_timm(name: str, num_classes: int | None, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise InputError(_unknown(name))
    if num_classes is not None:
        options["num_classes"] = num_classes
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise InputError(f"{name}: could not be built with {options} ({error})") from error
    except Exception as error:
        if tag and "pretrained tag" in str(error):
            known = ", ".join(_tags(architecture))
            raise InputError(
                f"{name}: timm has no weights {tag!r} of {architecture}, only {known}"
            ) from error
        if pretrained:
            raise InputError(f"{name}: its published weights could not be fetched ({error})") from error
        raise


def _tags(architecture: str) -> list[str]:
    names = timm.list_pretrained(f"{architecture}.*")
    return [name.partition(".")[2] for name in names if name.partition(".")[0] == architecture]


def _unknown(name: str) -> str:
    """What a name that no model has stands for, and what would be right."""
    path = Path(name).expanduser()
    if program := program_in(path):
        return (
            f"{name}: is {program}, whose layers cannot be looked into; expected {NAMES}, and weights as the "
            "checkpoint"
        )
    if path.is_dir():
        hint = (
            f"hf:{name} names the classifier in it"
            if (path / "config.json").is_file()
            else f"expected {NAMES}"
        )
        return f"{name}: is a folder; {hint}"
    if path.suffix == ".py":
        return f"{name}: names no function, expected {name}:FUNCTION, which returns the model"
    if path.is_file():
        try:
            read_checkpoint(path)
        except InputError as error:
            return str(error)
        return f"{name}: is a file of weights; it is a checkpoint, expected the network that they are of"
    if ":" in name or "/" in name:
        repository = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
        hint = (
            f"; did you mean hf:{repository}?" if repository.count("/") == 1 and ":" not in repository else ""
        )
        return f"there is no model named {name!r}{hint or f', expected {NAMES}'}"
    return (
        f"there is no model named {name!r}{did_you_mean(name, timm.list_models()) or f', expected {NAMES}'}"
    )


def _from_file(name: str, num_classes: int | None, options: dict[str, Any]) -> nn.Module:
    function = load_function(name)
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if num_classes is not None:
        if "num_classes" not in parameters and not takes_any:
            raise InputError(f"{name}: the function takes no num_classes, so the number cannot be set")
        options["num_classes"] = num_classes
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise InputError(f"{name}: cannot be called with {options or 'no arguments'} ({error})") from error
    model = function(**options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}: returned {type(model).__name__}, expected a torch.nn.Module")
    try:
        return model.eval()
    except (AttributeError, NotImplementedError) as error:  # of programs and graphs
        raise InputError(
            f"{name}: returned {type(model).__name__}, which {refusal(model) or 'cannot be put in eval mode'}"
        ) from error
