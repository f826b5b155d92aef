"""The run folder: what is written comes back bit for bit, and a name that exists is complete."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heatbox._utils.io import to_json, write_atomically
from heatbox.config import EvaluateConfig
from heatbox.errors import InputError
from heatbox.evaluation.run import PREDICTIONS, Run, ShardStore, ids_of


def record(number, boxes=1):
    rng = np.random.default_rng(number)
    return {
        "id": f"image {number}/ü.png",
        "label": number,
        "top5": rng.integers(0, 9, 5).astype(np.int32),
        "logits": rng.normal(size=7).astype(np.float32),
        "boxes": rng.random((boxes, 4)),
        "map_cam": rng.normal(size=(3, 4 + number % 2)).astype(np.float32),
    }


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == other[key].dtype
            assert np.array_equal(value, other[key]), key
            assert value.shape == other[key].shape
        else:
            assert value == other[key]


def test_records_come_back_bit_for_bit(tmp_path):
    run, records = Run(tmp_path / "run"), [record(n, boxes=n % 3) for n in range(7)]
    run.start({"model": "x"})
    run.append(records[:4])
    run.append(records[4:])
    assert run.done() == {r["id"] for r in records}
    assert len(run) == 7
    for found, wanted in zip([r for batch in run.records(3) for r in batch], records, strict=True):
        same(wanted, found)
    run.finish(lambda r: {"twice": 2 * r["label"]})
    assert run.finished
    assert not (tmp_path / "run" / "parts").exists()
    for found, wanted in zip([r for batch in run.records(3) for r in batch], records, strict=True):
        assert found.pop("twice") == 2 * wanted["label"]
        same(wanted, found)
    assert pq.read_table(tmp_path / "run" / PREDICTIONS).num_rows == 7


def test_environment_and_config_are_written(tmp_path):
    run = Run(tmp_path / "run")
    run.start({"model": "x", "std": (0.5, float("nan"))}, seed=3)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["packages"]["torch"]
    assert run.config() == {"model": "x", "std": [0.5, None]}


def test_same_config_resumes_another_is_refused(tmp_path):
    Run(tmp_path / "run").start({"model": "x", "size": 1})
    Run(tmp_path / "run").append([record(1)])
    Run(tmp_path / "run").start({"model": "x", "size": 1})
    assert len(Run(tmp_path / "run").done()) == 1
    with pytest.raises(InputError, match=r"another size"):
        Run(tmp_path / "run").start({"model": "x", "size": 2})
    Run(tmp_path / "run").start({"model": "x", "size": 2}, resume=False)
    assert not Run(tmp_path / "run").done()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(InputError, match="contains no run"):
            Run(tmp_path).start({}, resume=resume)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_starting_anew_removes_only_what_a_run_wrote(tmp_path):
    run = Run(tmp_path / "run")
    run.start({})
    (run.folder / "notes.txt").write_text("mine")
    run.append([record(1)])
    run.start({}, resume=False)
    assert (run.folder / "notes.txt").exists()
    assert not run.done()


def test_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a.json", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"a\.json: could not be written .*No space left"):
        write_atomically(path, b"new")
    run = Run(tmp_path)
    with pytest.raises(InputError, match="No space left"):
        run.append([record(1)])
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.rglob("*.tmp"))
    assert not run.done()


def test_what_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: missing; expected the folder of a run"):
        Run(tmp_path).config()
    with pytest.raises(InputError, match="contains no predictions"):
        list(Run(tmp_path).records())
    (tmp_path / PREDICTIONS).write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        list(Run(tmp_path).records())
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Run(tmp_path).metrics()


@pytest.mark.parametrize("cut", [0, 4, 0.5, -1])
def test_a_damaged_part_costs_its_own_images_only(tmp_path, cut):
    run = Run(tmp_path / "run")
    run.start({})
    for first in (0, 2, 4):
        run.append([record(first), record(first + 1)])
    part = run.folder / "parts" / "000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: int(cut * len(whole)) if cut == 0.5 else cut])
    run.start({})
    assert run.done() == {record(n)["id"] for n in (0, 1, 4, 5)}
    run.append([record(2), record(3)])  # under a name that is free
    assert run.done() == {record(n)["id"] for n in range(6)}
    run.finish()
    assert sorted(r["label"] for batch in run.records() for r in batch) == list(range(6))


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for resume in (True, False):
        with pytest.raises(InputError, match=r"file.run: could not be made the folder of a run"):
            Run(tmp_path / "file" / "run").start({}, resume=resume)


def test_a_config_that_is_no_object(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="contains a list, expected a JSON object"):
        Run(tmp_path).start({})


def test_json_holds_arrays_and_paths(tmp_path):
    text = to_json({"a": np.arange(3), "b": np.float32(0.5), "c": tmp_path, "d": float("inf")})
    assert json.loads(text) == {"a": [0, 1, 2], "b": 0.5, "c": str(tmp_path), "d": None}


def test_a_folder_whose_name_is_no_text_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(InputError, match="the folder's name is not UTF-8 text"):
        Run(f"{tmp_path}/\udce9")


def test_a_run_begun_before_a_key_was_recorded_is_resumed(tmp_path):
    Run(tmp_path / "run").start({"model": "x"})
    Run(tmp_path / "run").start({"model": "x", "model_options": {}})
    with pytest.raises(InputError, match="another model"):
        Run(tmp_path / "run").start({"model": "y", "model_options": {}})
    Run(tmp_path / "new").start({"model": "x", "model_options": {}})
    with pytest.raises(InputError, match="another model_options"):
        Run(tmp_path / "new").start({"model": "x", "model_options": {"depth": 2}})


def test_a_key_that_a_config_lacks_counts_as_its_default(tmp_path):
    config = EvaluateConfig("m", "d", limit=3)
    run = Run(tmp_path / "run")
    run.start(config)
    old = {key: value for key, value in run.config().items() if key not in ("channels", "model_options")}
    run.write_json("config.json", old)
    Run(tmp_path / "run").start(config)
    with pytest.raises(InputError, match=r"another channels, model_options\)"):
        Run(tmp_path / "run").start(replace(config, channels=9, model_options={"depth": 2}))


def test_shards_continue_the_numbers_of_those_there(tmp_path):
    store = ShardStore(tmp_path / "records")
    store.append(pa.table({"id": ["a", "b"]}))
    (tmp_path / "records" / "000000.parquet").rename(tmp_path / "records" / "part-000004.parquet")
    (tmp_path / "records" / "notes.parquet").write_bytes(b"of a user")
    store.append(pa.table({"id": ["c"]}))
    found = {shard.name: ids for shard, ids in store.read(ids_of)}
    assert found == {"part-000004.parquet": ["a", "b"], "000005.parquet": ["c"]}
    store.require({"x": 1})
    store.require({"x": 1})
    with pytest.raises(InputError, match="other settings"):
        store.require({"x": 2})


def test_records_as_a_data_frame(tmp_path):
    pytest.importorskip("pandas")
    run = Run(tmp_path / "run")
    run.append([record(n) for n in range(3)])
    assert run.to_pandas()["label"].tolist() == [0, 1, 2]
    table = run.to_pandas(["id", "map_cam"])
    assert list(table.columns) == ["id", "map_cam"]
    np.testing.assert_array_equal(table["map_cam"][1], record(1)["map_cam"])


def test_ids_are_read_alone_of_shards_that_are_known_to_be_whole(tmp_path, monkeypatch):
    read = []

    class Spied(pq.ParquetFile):
        def iter_batches(self, *args, columns=None, **kwargs):
            read.append(columns)
            return super().iter_batches(*args, columns=columns, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", Spied)
    store = ShardStore(tmp_path / "parts")
    for number in range(2):
        store.append(pa.table({"id": [f"{number}"], "value": [0.5]}))
    assert store.ids() == {"0", "1"}
    assert read == [["id"], ["id"]]
    first, second = store.shards()
    second.write_bytes(first.read_bytes()[:-20])  # changed by someone else: all of it counts again
    read.clear()
    assert store.ids() == {"0"}
    assert read == [["id"]]
    assert second.with_suffix(".damaged").exists()
    second.write_bytes(first.read_bytes())
    for columns in (None, ["id"]):
        read.clear()
        assert store.ids() == {"0"}
        assert read == [["id"], columns]
