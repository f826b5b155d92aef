"""A model by name, by hf:FOLDER, or by path/to/file.py:function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from heatbox._utils.checks import check_integer, kind_of
from heatbox._utils.plugins import is_plugin, load_function
from heatbox.errors import InputError, did_you_mean, quoted
from heatbox.models.checkpoints import (
    Checkpoint,
    adapt,
    classes_of,
    load_checkpoint,
    match_classifier,
    meta_copy,
    read_checkpoint,
    replace_classifier,
    weights_of,
)
from heatbox.models.forms import program_in, refusal
from heatbox.models.huggingface import create_huggingface, is_huggingface
from heatbox.models.introspect import ClassifierView

PRETRAINED = "pretrained"
NAMES = "a timm model name, hf:FOLDER, hf:OWNER/NAME or path/to/file.py:function"
"""Kinds of names of models, for messages."""
WEIGHTS = Path(__file__).parent / "weights"
"""Weights included in the package: small networks trained on glyphs (docs/training.md)."""


class Unfetched(InputError):
    """Published weights that could not be fetched."""


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
        fields: dict[str, Any] = options
        return create_huggingface(name, num_classes, weights, **fields)
    if weights is not None and num_classes is None and not is_plugin(name):
        if classes_of(weights) is None:
            with torch.device("meta"):
                weights = weights_of(_from_timm(name, None, False, dict(options)), weights)
        num_classes = classes_of(weights)
    if is_plugin(name):
        model = _from_file(name, num_classes, dict(options))
        if checkpoint == PRETRAINED:
            raise InputError(f"{name}: 'pretrained' is for timm models; name a checkpoint file instead")
    else:
        model = _from_timm(name, num_classes, checkpoint == PRETRAINED, dict(options))
    if weights is not None:
        if is_plugin(name):
            match_classifier(model, weights)
        load_checkpoint(model, weights)
    return model.eval()


def create_with_new_head(
    name: str, num_classes: int, checkpoint: str | Path | None = PRETRAINED, **options: Any
) -> tuple[nn.Module, str]:
    """Build a network with its weights and with a new last linear layer, for other classes.

    Args:
        name: as for `create_model`. A function of one's own is called without `num_classes` unless it needs
            one, so that it may return a network with weights of its own.
        num_classes: number of the new classes.
        checkpoint: a file of weights, whose classifier may have any number of classes and is not used;
            "pretrained" for the published or included weights, those of hf:FOLDER, or those that the function
            returns; None for random weights.
        options: further arguments of the function that builds the model.

    Returns:
        the network in eval mode, on the CPU, and the name of its new layer.

    Raises:
        InputError: as `create_model`; weights that cannot be fetched, with what could be given instead; or a
            network that does not end in a linear layer, by what `ClassifierView` finds.
    """
    check_integer(num_classes, "num_classes", 1)
    if checkpoint == PRETRAINED and name in shipped():
        checkpoint = shipped()[name]
    weights = None if checkpoint in (None, PRETRAINED) else read_checkpoint(checkpoint)
    if is_huggingface(name):
        scratch = weights is None and checkpoint is None
        number = num_classes if weights is None else None  # otherwise first that of the file
        model = create_huggingface(name, number, weights, new_head=True, scratch=scratch, **options)
    elif is_plugin(name):
        model = _from_file(name, None if _is_complete(name, options) else num_classes, dict(options))
        if weights is not None:
            _load_other_classes(model, weights)
    elif weights is not None:
        model = _from_timm(name, num_classes, False, dict(options))
        load_checkpoint(model, weights, head=False)
    else:
        model = _pretrained_timm(name, num_classes, checkpoint == PRETRAINED, dict(options))
    layer = classifier_name(model)
    if len(model.get_submodule(layer).weight) != num_classes:  # type: ignore[arg-type]
        replace_classifier(model, layer, num_classes)
    return model.eval(), layer


def classifier_name(model: nn.Module) -> str:
    """Name of the last linear layer of a classifier, as `named_modules` calls it.

    Raises:
        InputError: it does not end in such a layer.
    """
    layer = ClassifierView(model).classifier
    return next(name for name, module in model.named_modules() if module is layer)


def _load_other_classes(model: nn.Module, weights: Checkpoint) -> None:
    """Load weights whose classifier may have another number of classes, in place."""
    layer = classifier_name(model)
    weights = weights_of(model, weights)
    found = adapt(meta_copy(model), weights.state).get(f"{layer}.weight")
    if found is not None and len(found) != len(model.get_submodule(layer).weight):  # type: ignore[arg-type]
        replace_classifier(model, layer, len(found))
    load_checkpoint(model, weights)


def _is_complete(name: str, options: Mapping[str, object]) -> bool:
    """Whether a function of one's own can be called without a number of classes."""
    try:
        inspect.signature(load_function(name)).bind(**options)
    except TypeError:
        return False
    return True


def _pretrained_timm(name: str, num_classes: int, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        return _from_timm(name, num_classes, pretrained, options)
    except Unfetched as error:
        raise InputError(
            f"{error}; give a file of weights with --checkpoint, a folder with --model hf:FOLDER, or "
            "--from-scratch for random weights"
        ) from error


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
            raise Unfetched(
                f"{name}: its published weights could not be fetched ({quoted(error)})"
            ) from error
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
