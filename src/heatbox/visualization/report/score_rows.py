"""The tables of a page: a run each, maps and baselines in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heatbox.visualization.report.runs import Folder, milliseconds

Cell = dict[str, str]


def lead(scored: Sequence[Folder]) -> str:
    """One sentence: which map is best, and by how much it beats the best baseline.

    Runs that were scored against boxes come first; only where there is none are those against masks compared.
    """
    boxes = [folder for folder in scored if not folder.has_masks]
    score = "MaxBoxAccV2" if boxes else "PxAP"
    rated = [
        (found[score], name, folder)
        for folder in boxes or scored
        for name, found in _metrics(folder)["methods"].items()
        if name not in _metrics(folder)["baselines"]
    ]
    if not rated:
        return "Figures of instruments."
    best, name, folder = max(rated, key=lambda one: one[0])
    metrics = _metrics(folder)
    baselines = {one: metrics["methods"][one][score] for one in metrics["baselines"]}
    where = f" ({folder.name})" if len(boxes or scored) > 1 else ""
    words = f"Best map by {score}: {name}{where} with {best:.1f}%"
    if not baselines:
        return f"{words}."
    baseline, other = max(baselines.items(), key=lambda item: item[1])
    side = "above" if best >= other else "below"
    return f"{words}, {abs(best - other):.1f} points {side} the best baseline ({baseline}, {other:.1f}%)."


def _metrics(folder: Folder) -> dict[str, Any]:
    assert folder.metrics is not None
    return folder.metrics


def score_rows(folder: Folder) -> dict[str, Any]:
    """The table of one run: maps and baselines in rows, scores with intervals in columns."""
    metrics = _metrics(folder)
    rows = metrics["methods"]
    transferred = any("transferred" in found for found in rows.values())
    localization = any("localization" in found for found in rows.values())
    speed = milliseconds(folder)
    headings = _mask_headings(transferred) if folder.has_masks else _box_headings(transferred, localization)

    def cells(found: Mapping[str, Any]) -> list[Cell]:
        return (
            _mask_cells(found, transferred) if folder.has_masks else _cells(found, transferred, localization)
        )

    return {
        "title": folder.name,
        "headings": ["map", *headings, *(["ms an image"] if speed else [])],
        "rows": [
            {
                "name": name,
                "faint": name in metrics["baselines"],
                "cells": cells(found) + ([_speed(name, speed)] if speed else []),
            }
            for name, found in rows.items()
        ],
        "caption": _caption(metrics, speed),
    }


def _box_headings(transferred: bool, localization: bool) -> list[str]:
    headings = ["MaxBoxAcc, oracle", "best threshold", "MaxBoxAccV2, oracle"]
    headings += ["MaxBoxAcc, transferred", "threshold", "MaxBoxAccV2, transferred"] if transferred else []
    headings += ["Top-1 loc", "Top-5 loc"] if localization else []
    return [*headings, "V2 minus centre-Gaussian"]


def _cells(found: Mapping[str, Any], transferred: bool, localization: bool) -> list[Cell]:
    cells = [
        _cell(found["MaxBoxAcc"], found["MaxBoxAcc_interval"]),
        _plain(f"{found['threshold']:.3f}"),
        _cell(found["MaxBoxAccV2"], found["MaxBoxAccV2_interval"]),
    ]
    if transferred:
        other = found["transferred"]
        threshold = _plain(f"{other['threshold']:.3f}")
        cells += [_cell(**other["MaxBoxAcc"]), threshold, _cell(**other["MaxBoxAccV2"])]
    if localization:
        where = found["localization"]
        cells += [_plain(f"{where[place]:.1f}") for place in ("top1", "top5")]
    return [*cells, _minus(found, "MaxBoxAccV2")]


def _mask_headings(transferred: bool) -> list[str]:
    headings = ["PxAP", "pixel IoU, oracle", "best threshold"]
    headings += ["pixel IoU, transferred", "threshold"] if transferred else []
    return [*headings, "PxAP minus centre-Gaussian"]


def _mask_cells(found: Mapping[str, Any], transferred: bool) -> list[Cell]:
    cells = [_cell(found["PxAP"], found["PxAP_interval"])]
    cells += [_plain(f"{found['pixel_iou']:.1f}"), _plain(f"{found['threshold']:.3f}")]
    if transferred:
        other = found["transferred"]
        cells += [_plain(f"{other['pixel_iou']:.1f}"), _plain(f"{other['threshold']:.3f}")]
    return [*cells, _minus(found, "PxAP")]


def _minus(found: Mapping[str, Any], score: str) -> Cell:
    minus = found.get("minus_baseline")
    return _cell(**minus[score], form="+.1f") if minus else _plain("")


def _cell(value: float, interval: Sequence[float], form: str = ".1f") -> Cell:
    return {"value": f"{value:{form}}", "range": f"{interval[0]:{form}} to {interval[1]:{form}}"}


def _plain(value: str) -> Cell:
    return {"value": value, "range": ""}


def _speed(name: str, speed: Mapping[str, float]) -> Cell:
    return _plain(f"{speed[name]:.2f}" if name in speed else "")


def _caption(metrics: Mapping[str, Any], speed: Mapping[str, float]) -> str:
    words = f"Percent of {metrics['images']} images, with 95% bootstrap intervals."
    if "top1" in metrics:
        words += f" Classification: top-1 {metrics['top1']:.1f}%, top-5 {metrics['top5']:.1f}%."
    words += " Oracle: the threshold best on these images"
    transferred = any("transferred" in found for found in metrics["methods"].values())
    words += "; transferred: the one best on the supervised split." if transferred else "."
    if "forward" in speed:
        words += (
            " Milliseconds are the median over batches, on top of a forward pass of "
            f"{speed['forward']:.2f} ms an image."
        )
    return words + " Baselines, which have not looked at the images, are in grey."
