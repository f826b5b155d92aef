"""Hugging Face's image classifiers, each built from a tiny configuration of its architecture's structure.

Listed are all classes of `transformers` for image classification that take pixel values. Four do not:
ImageGPT reads colour tokens, SigLIP2 patches with their masks, ShieldGemma2 a dialogue, and Dinat needs a
compiled extension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

CLASSES = 7

_VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}
_DINO: dict[str, Any] = {key: value for key, value in _VIT.items() if key != "intermediate_size"}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
_PYRAMID: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
}
_LEVIT: dict[str, Any] = {
    "image_size": 128,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 3, 4],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}
_PERCEIVER: dict[str, Any] = {
    "num_latents": 6,
    "d_latents": 32,
    "num_self_attends_per_block": 1,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
}

# Class, configuration class, its fields, and the side of the images.
CONFIGURATIONS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("BeitForImageClassification", "BeitConfig", {**_VIT, "use_relative_position_bias": True}, 64),
    (
        "BitForImageClassification",
        "BitConfig",
        {**_STAGES, "hidden_sizes": [16, 32, 48, 64], "embedding_size": 16, "num_groups": 4},
        96,
    ),
    ("CLIPForImageClassification", "CLIPConfig", {"vision_config": {**_VIT, "projection_dim": 24}}, 64),
    ("ConvNextForImageClassification", "ConvNextConfig", _STAGES, 96),
    ("ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES, 96),
    (
        "CvtForImageClassification",
        "CvtConfig",
        {"embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
        64,
    ),
    (
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        {**_VIT, "use_relative_position_bias": True},
        64,
    ),
    ("DeiTForImageClassification", "DeiTConfig", _VIT, 64),
    ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _VIT, 64),
    ("Dinov2ForImageClassification", "Dinov2Config", _DINO, 64),
    ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", _DINO, 64),
    ("DonutSwinForImageClassification", "DonutSwinConfig", _SWIN, 64),
    (
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {
            "image_size": 64,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.3,
            "hidden_dim": 320,
            "depthwise_padding": [],
        },
        96,
    ),
    (
        "FocalNetForImageClassification",
        "FocalNetConfig",
        {"image_size": 96, "embed_dim": 8, "depths": [1, 1, 2, 1]},
        96,
    ),
    (
        "HGNetV2ForImageClassification",
        "HGNetV2Config",
        {
            **_STAGES,
            "embedding_size": 16,
            "stem_channels": [3, 8, 12],
            "stage_in_channels": [12, 8, 16, 24],
            "stage_mid_channels": [4, 8, 8, 8],
            "stage_out_channels": [8, 16, 24, 32],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
        },
        96,
    ),
    (
        "HieraForImageClassification",
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 1], "masked_unit_size": [8, 8]},
        64,
    ),
    ("IJepaForImageClassification", "IJepaConfig", _VIT, 64),
    ("LevitForImageClassification", "LevitConfig", _LEVIT, 128),
    ("LevitForImageClassificationWithTeacher", "LevitConfig", _LEVIT, 128),
    (
        "MetaClip2ForImageClassification",
        "MetaClip2Config",
        {"vision_config": {**_VIT, "projection_dim": 24}},
        64,
    ),
    (
        "MobileNetV1ForImageClassification",
        "MobileNetV1Config",
        {"depth_multiplier": 0.125, "image_size": 96},
        96,
    ),
    (
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"depth_multiplier": 0.25, "image_size": 96},
        96,
    ),
    (
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 48],
            "num_attention_heads": 2,
        },
        128,
    ),
    (
        "MobileViTV2ForImageClassification",
        "MobileViTV2Config",
        {"image_size": 128, "width_multiplier": 0.125, "n_attn_blocks": [1, 1, 1]},
        128,
    ),
    ("PerceiverForImageClassificationLearned", "PerceiverConfig", {**_PERCEIVER, "image_size": 64}, 64),
    ("PerceiverForImageClassificationFourier", "PerceiverConfig", _PERCEIVER, 224),
    ("PerceiverForImageClassificationConvProcessing", "PerceiverConfig", _PERCEIVER, 224),
    ("PoolFormerForImageClassification", "PoolFormerConfig", _STAGES, 96),
    ("PPLCNetForImageClassification", "PPLCNetConfig", {"scale": 0.25, "class_expand": 80}, 96),
    ("PvtForImageClassification", "PvtConfig", {**_PYRAMID, "depths": [1, 1, 1, 2], "image_size": 64}, 64),
    ("PvtV2ForImageClassification", "PvtV2Config", {**_PYRAMID, "image_size": 64}, 64),
    ("RegNetForImageClassification", "RegNetConfig", {**_STAGES, "embedding_size": 8, "groups_width": 8}, 96),
    ("ResNetForImageClassification", "ResNetConfig", {**_STAGES, "embedding_size": 8}, 96),
    ("SegformerForImageClassification", "SegformerConfig", _PYRAMID, 96),
    ("SiglipForImageClassification", "SiglipConfig", {"vision_config": _VIT}, 64),
    (
        "SwiftFormerForImageClassification",
        "SwiftFormerConfig",
        {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
        96,
    ),
    ("SwinForImageClassification", "SwinConfig", _SWIN, 64),
    ("Swinv2ForImageClassification", "Swinv2Config", _SWIN, 64),
    (
        "TextNetForImageClassification",
        "TextNetConfig",
        {"hidden_sizes": [8, 8, 12, 16, 24], "stem_out_channels": 8, "image_size": [96, 96]},
        96,
    ),
    ("TimmWrapperForImageClassification", "TimmWrapperConfig", {"architecture": "test_efficientnet"}, 96),
    ("ViTForImageClassification", "ViTConfig", _VIT, 64),
    ("ViTMSNForImageClassification", "ViTMSNConfig", _VIT, 64),
)


def builders() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """Name of the class → what builds it with random weights, and the side of its images."""

    def builder(name: str, config: str, fields: dict[str, Any]) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            import transformers

            return getattr(transformers, name)(getattr(transformers, config)(**fields, num_labels=CLASSES))

        return build

    return {name: (builder(name, config, fields), side) for name, config, fields, side in CONFIGURATIONS}
