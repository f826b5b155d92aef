"""The log always holds the whole history; TensorBoard receives only the new rows."""

import csv
import json

import pytest

from heatbox.training.log import Log, flat


def row(epoch, **more):
    return {"epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, **more}


def test_rows_are_rewritten_and_nested_values_get_columns(tmp_path):
    log = Log(tmp_path, tensorboard=False)
    history = [row(1), row(2, weights={"top1": 50.0, "cam": {"MaxBoxAcc": 40.0}})]
    log(history[:1])
    log(history)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert rows[0]["weights/cam/MaxBoxAcc"] == ""
    assert rows[1]["weights/cam/MaxBoxAcc"] == "40.0"
    assert json.loads((tmp_path / "log.json").read_text()) == history
    assert flat(history[1])["weights/top1"] == 50.0


def test_tensorboard_gets_each_epoch_once(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log(tmp_path, tensorboard=True)
    for epochs in (1, 2, 3):
        log([row(epoch) for epoch in range(1, epochs + 1)])
    log.board.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [
        (10, 1.0),
        (20, 0.5),
        (30, 0.3333),
    ]
