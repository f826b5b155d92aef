"""The scores of one map, collected batch by batch, with the outcome of each image."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from heatbox.boxes.contours import Protocol
from heatbox.boxes.ops import REFERENCE_SIDE
from heatbox.config import MetricName
from heatbox.errors import InputError
from heatbox.evaluation.guard import MapRanges
from heatbox.evaluation.run import ShardStore, ids_of
from heatbox.evaluation.summary import (
    EACH,
    EVERY,
    LARGEST,
    MaskScore,
    Records,
    SplitScore,
    packed_matches,
    pixel_scores,
    unpacked_matches,
)
from heatbox.maps.baselines import BASELINES
from heatbox.metrics.collection import BoxMetrics
from heatbox.metrics.functional import V2_IOU
from heatbox.metrics.localization_scores import SCORES, MapScores
from heatbox.metrics.map_score import LocalizationScores
from heatbox.metrics.max_box_acc import MaxBoxAcc, MaxBoxAccV3
from heatbox.metrics.pxap import PxAP

RECORDS_AT_A_TIME = 64


class BoxScorer(BoxMetrics):
    """MaxBoxAcc at IoU .3 .5 .7 and MaxBoxAccV2 of one map, and the outcome of each image.

    Args:
        protocol: `reference` or `exact`.
        thresholds: number of evenly spaced thresholds.
        threads: threads to use; all cores by default.
        keep: keep the outcome of each image, under 1 KB.
        pixels: compute the pixel scores of each image as well.
        each: compute MaxBoxAccV3 as well, in the reference protocol.
    """

    def __init__(
        self,
        protocol: Protocol = "reference",
        thresholds: int = 1000,
        threads: int | None = None,
        keep: bool = True,
        pixels: bool = False,
        each: bool = False,
    ) -> None:
        super().__init__(
            {
                LARGEST: MaxBoxAcc(V2_IOU, "largest", protocol, thresholds, threads),
                EVERY: MaxBoxAcc(V2_IOU, "all", protocol, thresholds, threads),
                **({EACH: MaxBoxAccV3(V2_IOU, thresholds, threads)} if each else {}),
            }
        )
        self.matches: list[bytes] | None = [] if each else None
        self.objects: list[int] = []  # of each image of the last update
        self.ranges: MapRanges | None = None  # looks at the maps, where it is set
        self.protocol, self.thresholds, self.keep = protocol, thresholds, keep
        self.pixels = LocalizationScores(threads=threads) if pixels else None
        self.latest: MapScores | None = None  # of the last update
        self.shards: ShardStore | None = None
        self.ids: list[str] = []
        self.written: dict[str, float] = {}  # id → when it was recorded, of resumed images
        empty = np.zeros((0, len(V2_IOU), -(-thresholds // 8)), np.uint8)
        self.packed = {name: [empty] for name in (LARGEST, EVERY)}

    def resume(self, shards: ShardStore, fingerprint: str, known: Container[str] | None = None) -> None:
        """Count the images that are recorded in a store, and record there the images to come.

        Args:
            shards: the store.
            fingerprint: what else the outcomes depend on, such as the ground truth.
            known: ids that the store may contain; shards with others count as damaged.

        Raises:
            InputError: its records were made with other settings, or in the exact protocol.
        """
        if self.protocol != "reference":
            raise InputError("records are kept for the reference protocol only: leave out the records folder")
        settings = {"protocol": self.protocol, "thresholds": self.thresholds, "iou": list(V2_IOU)}
        if self.pixels is not None:
            settings["pixels"] = list(self.pixels.settings())
        if self.matches is not None:
            settings["each"] = True
        shards.require({**settings, "fingerprint": fingerprint})

        def decoded(table: pa.Table) -> tuple[list[str], dict[str, np.ndarray], MapScores | None]:
            ids = ids_of(table)
            if known is not None and not all(name in known for name in ids):
                raise ValueError("ids of other images")

            def rows(name: str, dtype: type, *shape: int) -> np.ndarray:
                joined = b"".join(table[name].to_pylist())
                return np.frombuffer(joined, dtype).reshape(len(ids), *shape)

            packed = {
                name: rows(name, np.uint8, len(V2_IOU), -(-self.thresholds // 8)) for name in self.packed
            }
            if self.matches is not None:
                packed[EACH] = unpacked_matches(table["matches"].to_pylist(), self.thresholds)
                packed["objects"] = np.array(table["objects"].to_pylist(), np.int64)
            if self.ranges is not None and "top" in table.column_names:  # not in records of earlier versions
                looked = [table[name].to_pylist() for name in ("values_of_map", "top")]
                packed["looked"] = np.array(looked, np.float64).reshape(2, len(ids))
            if self.pixels is None:
                return ids, packed, None
            grid = self.pixels.thresholds
            values, curve = rows("values", np.float64, len(SCORES)), rows("curve", np.float32, len(grid))
            return ids, packed, MapScores(values, curve, grid)

        for shard, (ids, packed, scores) in shards.read(decoded):
            if self.ranges is not None and "looked" in packed:
                values, tops = packed.pop("looked").tolist()
                self.ranges.restore(list(zip(map(int, values), tops, strict=True)))
            if self.pixels is not None and scores is not None:
                self.pixels.add(scores)
            self.written |= dict.fromkeys(ids, shard.stat().st_mtime)
            for name in self.packed:
                bits = np.unpackbits(packed[name], axis=2, count=self.thresholds)
                self.metrics[name].correct += bits.sum(0, dtype=np.int64)
                self.metrics[name].images += len(ids)
            if self.matches is not None:
                matched = packed.pop(EACH)
                self.metrics[EACH].correct += matched.sum(0, dtype=np.int64)
                self.metrics[EACH].images += int(packed.pop("objects").sum())
                self.matches += packed_matches(matched)
            self._add(ids, packed)
        self.shards = shards

    def update(
        self,
        heatmaps: Any,
        boxes: Sequence[Any],
        image_sizes: Sequence[Sequence[float]],
        return_iou: bool = False,
    ) -> np.ndarray | None:
        """As `BoxMetrics.update`, for the pixel scores too; the curves are those of the first two metrics."""
        curves = super().update(heatmaps, boxes, image_sizes, return_iou)
        if self.ranges is not None:
            self.ranges.add(heatmaps)
        if self.matches is not None:
            matched = self.latest_counts[-1].matched
            self.objects = [len(np.atleast_2d(one)) for one in boxes]
            assert matched is not None
            self.matches += packed_matches(matched)
        if self.pixels is not None:
            self.latest = self.pixels.update(heatmaps, boxes, image_sizes)
        return curves

    def record(self, ids: Sequence[str], curves: np.ndarray | None) -> None:
        """Keep the outcomes of images, in the store too if there is one.

        Args:
            ids: of the N images.
            curves: (2, N, T) what `update` returned for them; None, without `keep`, keeps nothing.
        """
        if curves is None:
            return
        packed = {
            name: np.packbits(curve[:, None] >= metric.iou[:, None], axis=2)
            for (name, metric), curve in zip(self.metrics.items(), curves, strict=False)
            if name in self.packed
        }
        if self.shards is not None:
            columns: dict[str, Any] = {"id": pa.array(list(ids), pa.string())}
            for name, bits in packed.items():
                rows = bits.reshape(len(ids), -1)
                columns[name] = pa.array([row.tobytes() for row in rows], pa.binary(rows.shape[1]))
            if self.ranges is not None:
                values, tops = zip(*self.ranges.latest, strict=True)
                columns |= {
                    "values_of_map": pa.array(values, pa.uint8()),
                    "top": pa.array(tops, pa.float64()),
                }
            if self.matches is not None:
                columns["matches"] = pa.array(self.matches[-len(ids) :], pa.binary())
                columns["objects"] = pa.array(self.objects, pa.int64())
            if self.latest is not None:
                for name, rows in (("values", self.latest.values), ("curve", self.latest.curve)):
                    columns[name] = pa.array([row.tobytes() for row in rows], pa.binary(rows[0].nbytes))
            self.shards.append(pa.table(columns))
        self._add(ids, packed)

    def _add(self, ids: Sequence[str], packed: Mapping[str, np.ndarray]) -> None:
        self.ids += ids
        for name, bits in packed.items():
            self.packed[name].append(bits)

    def compute(self) -> SplitScore:
        """Both scores of all images, with the records if they are kept.

        Raises:
            InputError: no image was scored.
        """
        scores = super().compute()
        packed = {name: np.concatenate(bits) for name, bits in self.packed.items()}
        records = Records(self.ids, packed, self.thresholds) if self.keep else None
        pixels = None if self.pixels is None else self.pixels.all()
        images = self.metrics[LARGEST].images
        return SplitScore(scores, images, records=records, pixels=pixels, matches=self.matches)


class MaskScorer(PxAP):
    """PxAP of one map with the histogram of each image, and its pixel scores.

    Args:
        thresholds: number of evenly spaced thresholds.
        pixels: compute the pixel scores of each image as well.
    """

    def __init__(self, thresholds: int = 1000, pixels: bool = False) -> None:
        self.pixels = LocalizationScores() if pixels else None
        super().__init__(thresholds, per_image=True)

    def update(self, heatmaps: Any, masks: Any, image_sizes: Sequence[Sequence[float]] | None = None) -> None:
        """As `PxAP.update`, for the pixel scores too."""
        super().update(heatmaps, masks)
        if self.pixels is not None:
            self.pixels.update(heatmaps, image_sizes=image_sizes, masks=masks)

    def compute(self) -> MaskScore:
        """The score over all images.

        Raises:
            InputError: no image was added, or no mask has an object pixel.
        """
        return MaskScore(**vars(super().compute()), scores=None if self.pixels is None else self.pixels.all())


Scorer = BoxScorer | MaskScorer


def scorers_of(
    names: Iterable[str],
    masks: bool,
    thresholds: int,
    protocol: Protocol,
    metrics: Sequence[MetricName],
) -> dict[str, Scorer]:
    """Name of a map → its scorer, for masks or for boxes.

    Raises:
        InputError: a score that is not defined for the protocol.
    """
    pixels = bool(pixel_scores(metrics))
    if "max_box_acc_v3" in metrics and protocol != "reference":
        raise InputError(f"max_box_acc_v3 is defined for the reference protocol, not {protocol}")
    each = "max_box_acc_v3" in metrics or ("all" in metrics and protocol == "reference")
    return {
        name: MaskScorer(thresholds, pixels)
        if masks
        else BoxScorer(protocol, thresholds, pixels=pixels, each=each)
        for name in names
    }


@cache
def baseline_map(name: str) -> np.ndarray:
    """(224, 224) map of a baseline."""
    return BASELINES[name](REFERENCE_SIDE, REFERENCE_SIDE)
