"""What the last linear layer of a network reads: computed once for each image, and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from heatbox._utils.io import to_json
from heatbox._utils.progress import Track
from heatbox.data.problems import LeftOut
from heatbox.data.transforms import Preprocess
from heatbox.data.types import Example, Split
from heatbox.errors import InputError
from heatbox.evaluation.predict import run_inference
from heatbox.evaluation.run import ShardStore, ids_of
from heatbox.models.introspect import ClassifierView
from heatbox.models.spec import as_input, eval_mode
from heatbox.training.config import FinetuneConfig

_LARGEST = 6e4
"""Features beyond this are kept as float32: float16 ends at 65504."""


class LastLayer:
    """The last linear layer of a network, and what it reads.

    Args:
        model: the classifier, on its device.
        name: of the layer.
        config: of the fine-tuning.

    Attributes:
        layer: the module.
        preprocess: images to inputs of the network.
        fields: the preprocessing, as a checkpoint has it.

    Raises:
        InputError: the logits are not this layer applied to one vector an image.
    """

    def __init__(self, model: nn.Module, name: str, config: FinetuneConfig) -> None:
        self.model, self.name, self.config = model, name, config
        self.layer: Any = model.get_submodule(name)
        self.preprocess: Preprocess = config.preprocess(model)
        self.fields = {
            "input_size": (self.preprocess.channels, *self.preprocess.size),
            "mean": self.preprocess.mean,
            "std": self.preprocess.std,
            "interpolation": self.preprocess.interpolation,
            "crop_pct": config.crop_pct or 1.0,
            "crop_mode": "squash" if config.crop_pct is None else "center",
            **({"channel_order": "bgr"} if self.preprocess.bgr else {}),
        }
        self._check()

    def _check(self) -> None:
        """Raise unless the logits are the last layer applied to the vectors that `pooled` returns."""
        height, width = self.preprocess.size
        images = torch.randn(
            2, self.preprocess.channels, height, width, generator=torch.Generator().manual_seed(0)
        )
        view = ClassifierView(self.model, self.config.output, self.preprocess.size)
        with torch.inference_mode():
            logits = view(as_input(self.model, images))[1].float().cpu()
            vectors = self.pooled(images)
            weight = self.layer.weight.flatten(1).float().cpu()
            bias = 0 if self.layer.bias is None else self.layer.bias.float().cpu()
            error = "" if vectors.shape[1:] == weight.shape[1:] else "another width"
            error = error or ("" if _close(vectors @ weight.T + bias, logits) else "other logits")
        if error:
            raise InputError(
                f"{self.config.model}: its logits are not its last linear layer applied to one vector an "
                "image, so it cannot be fitted; expected a network that ends in pooling and a linear layer"
            )

    def pooled(self, images: Tensor) -> Tensor:
        """The input of the last layer (B, D) float32 on the CPU, its mean where the layer is applied to a
        map.

        Args:
            images: (B, C, H, W).
        """
        found: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda module, args: found.append(args[0].detach()))
        try:
            with eval_mode(self.model), torch.inference_mode():
                batch = as_input(self.model, images).contiguous(memory_format=torch.channels_last)
                self.model(batch)
        finally:
            handle.remove()
        vectors = found[-1].float()
        if isinstance(self.layer, nn.Conv2d):
            vectors = vectors.flatten(2).mean(2)
        elif vectors.ndim > 2:
            vectors = vectors.flatten(1, -2).mean(1)
        return vectors.cpu()

    def features(
        self, split: Split, folder: Path, left_out: LeftOut | None, track: Track
    ) -> tuple[list[Example], Tensor]:
        """The images of a split and their features (N, D), computed where they are not in the folder yet.

        Args:
            split: the images.
            folder: of the features, in shards.
            left_out: receives images that cannot be read; None raises the first.
            track: shows progress.
        """
        store = FeatureStore(folder, self.layer.weight.shape[1])
        settings = {"weights": self.config.weights, "preprocessing": self.fields}
        store.shards.require(json.loads(to_json(settings)))

        def records(examples: Sequence[Example], images: Tensor) -> list[dict[str, Any]]:
            vectors = self.pooled(images).numpy()
            return [{"id": one.id, "feature": row} for one, row in zip(examples, vectors, strict=True)]

        skipped = None if left_out is None else left_out.unreadable
        what = f"features of {len(split)} images"
        run_inference(
            split, self.preprocess, self.config.batch_size, store, records, what, track, unreadable=skipped
        )
        return store.read(split)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-3 * expected.norm().clamp_min(1e-6))


class FeatureStore:
    """Features of images on disk, float16 where their values fit; what `run_inference` appends to."""

    def __init__(self, folder: Path, width: int) -> None:
        self.shards, self.width = ShardStore(folder), width

    def _decode(self, table: pa.Table) -> tuple[list[str], np.ndarray]:
        ids, column = ids_of(table), table["feature"].combine_chunks()
        rows = column.values.to_numpy(zero_copy_only=False).reshape(len(ids), self.width)
        if not np.issubdtype(rows.dtype, np.floating):
            raise TypeError("features that are no numbers")
        return ids, rows

    def done(self) -> set[str]:
        """Ids of the images whose features are there."""
        return {name for _, (ids, _) in self.shards.read(self._decode) for name in ids}

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the features of some images as the next shard."""
        if not records:
            return
        rows = np.stack([record["feature"] for record in records])
        if not np.isfinite(rows).all():
            bad = next(r["id"] for r in records if not np.isfinite(r["feature"]).all())
            raise InputError(f"{bad}: the network's features of this image are not finite")
        kind = np.float16 if np.abs(rows).max() < _LARGEST else np.float32
        values = pa.array(rows.astype(kind).ravel())
        column = pa.FixedSizeListArray.from_arrays(values, self.width)
        self.shards.append(pa.table({"id": [record["id"] for record in records], "feature": column}))

    def read(self, split: Split) -> tuple[list[Example], Tensor]:
        """The images of a split whose features are there, and these (N, D), in the order of the split."""
        found = [content for _, content in self.shards.read(self._decode)]
        place = {name: index for index, name in enumerate(name for ids, _ in found for name in ids)}
        rows = np.concatenate([rows for _, rows in found]) if found else np.zeros((0, self.width), np.float16)
        examples = [example for example in split if example.id in place]
        if not examples:
            raise InputError(f"{split.name}: no image is left to use")
        return examples, torch.from_numpy(rows[[place[example.id] for example in examples]])
