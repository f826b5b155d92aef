"""EfficientNet weights under the names of the `efficientnet_pytorch` project, renamed to timm's.

The project, and those derived from it (EfficientNet-Lite), number all blocks in one row and begin every name
with an underscore. Their networks pad as TensorFlow does, so in timm they are the `tf_efficientnet_...`
networks: the plain `efficientnet_...` have the same names and shapes but pad symmetrically, and would be
silently wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from heatbox.errors import InputError

PARTS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Of a block with an expansion, and of one without, whose convolutions are numbered differently in timm.
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}

_BLOCK = re.compile(r"_blocks\.(\d+)\.(\w+)\.(\w+)")
_TIMM_BLOCK = re.compile(r"blocks\.\d+\.\d+\.")


def is_efficientnet_pytorch(names: Collection[str]) -> bool:
    """Whether these are the parameters of a network of `efficientnet_pytorch`."""
    return "_conv_stem.weight" in names and "_blocks.0._depthwise_conv.weight" in names


def renamed_efficientnet(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an `efficientnet_pytorch` file under the names of a timm EfficientNet.

    Names that have no counterpart are kept, so that the message about a file of another size names them.

    Raises:
        InputError: the model has these names but pads symmetrically, where the weights were trained with the
            padding of TensorFlow.
    """
    names = list(model.state_dict())
    if "conv_stem.weight" not in names or not is_efficientnet_pytorch(state):
        return dict(state)
    if type(getattr(model, "conv_stem", None)) is nn.Conv2d:
        raise InputError(
            "the weights are of efficientnet_pytorch, whose networks pad as TensorFlow does; this network "
            f"pads symmetrically; expected {likely_efficientnet(state) or 'a tf_efficientnet network'}"
        )
    blocks = list(dict.fromkeys(found[0] for name in names if (found := _TIMM_BLOCK.match(name))))
    return {_renamed(name, state, blocks): tensor for name, tensor in state.items()}


def _renamed(name: str, state: Collection[str], blocks: list[str]) -> str:
    if not (found := _BLOCK.fullmatch(name)):
        part, _, rest = name.partition(".")
        return f"{PARTS.get(part, part)}.{rest}"
    index, part, rest = int(found[1]), found[2], found[3]
    table = (EXPANDED if f"_blocks.{index}._expand_conv.weight" in state else PLAIN) | SQUEEZE
    return f"{blocks[index]}{table[part]}.{rest}" if index < len(blocks) and part in table else name


def likely_efficientnet(state: Mapping[str, Tensor]) -> str | None:
    """timm's network that weights of `efficientnet_pytorch` are of; None if they fit none."""
    import timm

    lite = "_blocks.0._se_reduce.weight" not in state
    for name in timm.list_models(f"tf_efficientnet_{'lite' if lite else '[bl]'}[0-9]*"):
        with torch.device("meta"):
            model = timm.create_model(name)
        if _shapes(renamed_efficientnet(model, state)) == _shapes(model.state_dict()):
            return name
    return None


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes of all tensors except the classifier's and counters."""
    return {
        name: tensor.shape
        for name, tensor in state.items()
        if not name.startswith("classifier.") and not name.endswith("num_batches_tracked")
    }
