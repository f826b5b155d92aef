"""Several processes share one run: the results are those of one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.multiprocessing as mp

from heatbox._utils import processes
from heatbox.cli.main import INTERRUPTED, main
from heatbox.config import LocateConfig
from heatbox.data import write
from heatbox.data.glyphs import glyphs_cue_conflict
from heatbox.errors import InputError
from heatbox.evaluation import located, predict, run
from heatbox.evaluation.located import LineStore
from heatbox.evaluation.run import Run, ShardStore
from heatbox.inference.localizer import Localizer
from helpers.scenes import write_model, write_split

BROKEN = "test/000007.png"

pytestmark = pytest.mark.usefixtures("one_thread")


def torchrun(count: int, *words: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*start, "-m", "heatbox", "--", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def results(folder: Path) -> tuple[dict, list[dict]]:
    """The scores, and the rows except for what depends on rounding or time."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for one in metrics["methods"].values():
        one.pop("ms_per_image", None)
    table = pq.read_table(folder / "predictions.parquet")
    kept = [name for name in table.column_names if not name.startswith(("ms_", "map_", "logits", "score"))]
    return metrics, table.select(kept).to_pylist()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = write_split(tmp_path_factory.mktemp("split"), 20)
    (folder / "images" / BROKEN).write_bytes(b"no image")
    return folder


def test_three_processes_that_resume_a_run_end_with_the_results_of_one(data, tmp_path):
    words = ["evaluate", "--model", "resnet10_small", "--checkpoint", "pretrained", "--data", str(data)]
    words += ["--method", "cam", "walk+foreground", "--batch-size", "4", "--thresholds", "50"]
    words += ["--on-bad", "skip", "--json", "--out"]
    assert main([*words, str(tmp_path / "one")]) == 1
    whole = pq.read_table(tmp_path / "one/predictions.parquet")
    added = [name for name in whole.column_names if name.startswith(("box_", "iou_", "score"))]
    shared = Run(tmp_path / "three")
    shared.start(Run(tmp_path / "one").config())
    head = "foreground.safetensors"
    (shared.folder / head).write_bytes((tmp_path / "one" / head).read_bytes())
    # What processes that were killed have left: shards of single parts, not in order.
    for rows in ([12, 13], [4, 5, 6]):
        shared.parts.append(whole.drop_columns(added).take(rows))
    done = torchrun(3, *words, str(shared.folder))
    assert (shared.folder / "metrics.json").exists(), done.stderr
    metrics, rows = results(shared.folder)
    assert (metrics, rows) == results(tmp_path / "one")
    assert metrics["left_out"] == {"unreadable": 1}
    assert not (shared.folder / "parts").exists()
    assert json.loads((shared.folder / "left-out.json").read_text()) == json.loads(
        (tmp_path / "one" / "left-out.json").read_text()
    )


def test_two_processes_label_like_one(data, tmp_path, monkeypatch):
    words = ["label", str(data), "--model", "resnet10_small", "--checkpoint", "pretrained", "--method", "cam"]
    words += ["--to", "coco", "--review", "0", "--json"]
    found = []
    for name, start in (("one", main), ("two", lambda all_words: torchrun(2, *all_words))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        done = start([*words, "--out", "boxes", "--run", "maps"])
        assert (tmp_path / name / "boxes" / "coco.json").exists(), getattr(done, "stderr", done)
        found.append(json.loads((tmp_path / name / "boxes" / "coco.json").read_text()))
    assert len(found[0]["annotations"]) >= 15
    assert found[1] == found[0]


def test_three_processes_locate_like_one(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["locate", str(data / "images"), "--model", "resnet10_small", "--checkpoint", "pretrained"]
    words += ["--method", "walk+foreground", "--coco", "boxes.json"]
    assert main(words) == 1
    lines, boxes = capsys.readouterr().out, Path("boxes.json").read_text()
    overlays = {path.name: path.read_bytes() for path in Path("heatbox-boxes").glob("*.png")}
    assert len(overlays) == len(lines.splitlines()) == 19
    shutil.rmtree("heatbox-boxes")
    done = torchrun(3, *words, "--overwrite")
    assert done.stdout == lines, done.stderr
    assert Path("boxes.json").read_text() == boxes
    assert {path.name: path.read_bytes() for path in Path("heatbox-boxes").glob("*.png")} == overlays
    assert BROKEN in done.stderr
    assert not [*Path("heatbox-boxes").glob("unfinished-*")]


def interrupt(monkeypatch, number: int) -> list:
    """Interrupt `heatbox locate` at an image of this number; returns what is localized from now on."""
    real, seen = Localizer.__call__, []

    def interrupted(self, *args):
        seen.append(args)
        if len(seen) == number:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Localizer, "__call__", interrupted)
    return seen


def test_lines_of_an_interrupted_command_are_not_computed_again(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["locate", str(data / "images"), "--model", "resnet10_small", "--no-overlays"]
    words += ["--checkpoint", "pretrained"]
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    seen = interrupt(monkeypatch, 12)
    assert main(words) == INTERRUPTED
    assert capsys.readouterr().out.splitlines() == lines[:11]
    assert main([*words, "--contours", "all"]) == 1  # other options: other lines
    assert len(seen) == 12 + 19
    capsys.readouterr()
    assert main(words) == 1
    assert len(seen) == 12 + 19 + 8
    assert capsys.readouterr().out.splitlines() == lines
    assert not Path("heatbox-boxes").exists()


def test_lines_of_other_versions_are_not_continued(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["locate", str(data / "images"), "--model", "resnet10_small", "--no-overlays"]
    interrupt(monkeypatch, 5)
    assert main(words) == INTERRUPTED
    found = run.environment()
    other = found | {"packages": found["packages"] | {"heatbox": "99.0"}}
    monkeypatch.setattr(located, "environment", lambda: other)
    assert main(words) == 2
    assert f"(heatbox {found['packages']['heatbox']}, not 99.0); choose" in capsys.readouterr().err


def test_lines_of_a_changed_network_are_not_continued(data, tmp_path, monkeypatch):
    """A folder of transformers counts with its files."""
    weights = tmp_path / "net" / "model.safetensors"
    weights.parent.mkdir()
    images = [data / "images/test/000000.png"]
    folders = []
    for content in (b"old", b"newer"):
        weights.write_bytes(content)
        store = LineStore(tmp_path, images, {"config": LocateConfig(f"hf:{weights.parent}")})
        list(store.complete(iter([InputError("none")])))
        with suppress(ZeroDivisionError), store.removed_after_use():
            1 / 0  # noqa: B018
        folders.append({*tmp_path.glob("unfinished-*")})
    assert [len(found) for found in folders] == [1, 2]


def test_lines_are_kept_until_their_files_are_written(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["locate", str(data / "images"), "--model", "resnet10_small", "--no-overlays"]
    words += ["--checkpoint", "pretrained", "--method", "walk+foreground"]
    assert main([*words, "--coco", "expected.json"]) == 1
    lines = capsys.readouterr().out

    def full(*args):
        raise InputError("boxes.json: could not be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_splits", full)
        assert main([*words, "--coco", "boxes.json"]) == 2
    said = capsys.readouterr()
    assert said.out == lines
    assert "No space left on device); the boxes are kept, rerun the command to write them" in said.err
    monkeypatch.setattr(Localizer, "__init__", None)  # no network is built again
    assert main([*words, "--coco", "boxes.json"]) == 1
    said = capsys.readouterr()
    assert said.out == lines
    assert BROKEN in said.err
    assert Path("boxes.json").read_text() == Path("expected.json").read_text()
    assert not Path("heatbox-boxes").exists()


@pytest.mark.parametrize(
    ("place", "reason"), [("file/boxes.json", "is no folder"), ("closed/deep/boxes.json", "nothing")]
)
def test_a_place_where_nothing_can_be_written_is_said_first(
    place, reason, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("closed").mkdir()
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "closed"
    )  # root may do everything
    words = ["locate", str(data / "images"), "--model", "resnet10_small", "--no-overlays", "--coco", place]
    assert main(words) == 2
    said = capsys.readouterr()
    assert f"{place}: could not be written ({tmp_path / place.partition('/')[0]}: {reason}" in said.err
    assert not said.out


ANALYZE = ["analyze", "all", "--data", "set", "--stimuli", "cue", "--size", "64", "--batch-size", "4"]
ANALYZE += ["--erf-size", "48", "--erf-images", "5", "--erf-grid", "2", "--erf-grid-images", "1"]
ANALYZE += ["--grid", "2", "--atoms", "2", "--channels-an-image", "4", "--nonzero", "1"]
ANALYZE += ["--group-images", "3", "--device", "cpu"]
ANALYZE += ["--examples", "3", "--model", "mine.py:blobs", "--json", "--out"]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory) -> Path:
    """A folder with what ANALYZE needs, and the analysis of one process in "one"."""
    folder = tmp_path_factory.mktemp("analysis")
    write_split(folder / "set", 18)
    write_model(folder)
    stimuli = glyphs_cue_conflict(24)
    for example in stimuli:
        path = folder / "cue" / example.id
        path.parent.mkdir(parents=True, exist_ok=True)
        stimuli.open_image(example).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*ANALYZE, "one"]) == 0
    return folder


def contents(folder: Path) -> dict[str, object]:
    """All files of a folder, without what depends on time or the machine."""

    def timeless(value: object) -> object:
        if isinstance(value, dict):
            return {name: timeless(one) for name, one in value.items() if not name.startswith("ms_")}
        return value

    def content(path: Path) -> object:
        if path.suffix == ".json":
            return json.dumps(timeless(json.loads(path.read_text())))
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return repr(timeless(table.to_pydict()))
        return path.read_bytes()

    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "environment.json")
    return {str(path.relative_to(folder)): content(path) for path in files}


@pytest.mark.parametrize(
    ("count", "after"),
    [(3, 9), pytest.param(2, 2, marks=pytest.mark.slow), pytest.param(2, 17, marks=pytest.mark.slow)],
)
def test_processes_measure_like_one(count, after, analysis, monkeypatch):
    """Every instrument; several processes go on with what one that was interrupted has left."""
    monkeypatch.chdir(analysis)
    real, batches = predict.preprocessed, iter(range(1000))

    def interrupted(*args):
        for batch in real(*args):
            if next(batches) == after:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(predict, "preprocessed", interrupted)
    out = f"{count}-{after}"
    assert main([*ANALYZE, out]) == INTERRUPTED
    done = torchrun(count, *ANALYZE, out)
    assert done.returncode == 0, done.stderr
    found, expected = contents(analysis / out), contents(analysis / "one")
    assert set(found) == set(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert json.loads(done.stdout) == json.loads((analysis / "one/comparison.json").read_text())["models"]


def test_a_command_that_does_not_share_its_work_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["compare", "a", "b"]) == 2
    expected = "heatbox compare runs in one process; those that run in several are analyze, evaluate"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_STEP_NODELIST": "gpu07", "SLURM_JOB_ID": "3"}, ("gpu07", 15003, "3.0")),
        ({"SLURM_JOB_NODELIST": "node[01-04,07],gpu3"}, ("node01", 15000, "0.0")),
        ({"SLURM_JOB_NODELIST": "a1,a2", "SLURM_STEP_NODELIST": "a2"}, ("a2", 15000, "0.0")),
        ({"SLURM_STEP_NODELIST": "r[2-3]n[08,10]", "SLURM_JOB_ID": "41000"}, ("r2n08", 26000, "41000.0")),
        (
            {"SLURM_STEP_NODELIST": "x1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_ID": "2"},
            ("127.0.0.1", 15202, "0.2"),
        ),
        ({"SLURM_STEP_NODELIST": "x", "SLURM_JOB_ID": "odd"}, ("x", 15000, "odd.0")),
        ({"MASTER_ADDR": "given"}, ("given", 15000, "0.0")),
    ],
)
def test_processes_of_srun_meet_at_the_first_machine(environ, expected):
    address, ports, step = processes.meeting_place(environ)
    assert (address, ports[0], step) == expected
    assert len({*ports}) == processes.CHOICES
    assert all(15_000 <= port < 30_000 for port in ports)


def _join_step(number: int, jobs: list[dict[str, str]], reports: Path) -> None:
    job, rank = divmod(number, 2)
    os.environ |= jobs[job] | {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
    processes.join()
    (reports / f"{number}.txt").write_text(str(processes.gathered((job, rank))))
    while len([*reports.glob("*.txt")]) < 4:  # their stores are open until then
        time.sleep(0.05)


def test_two_steps_on_one_machine_with_the_same_port_do_not_meet(tmp_path, monkeypatch):
    """The port of both is that of another program besides."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    common = {"SLURM_STEP_NODELIST": "nowhere", "SLURM_STEP_NUM_NODES": "1"}
    jobs = [common | {"SLURM_JOB_ID": str(os.getpid() + 101), "SLURM_STEP_ID": "0"}]
    jobs += [common | {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "1"}]
    (port, *_), (same, *_) = (processes.meeting_place(job)[1] for job in jobs)
    assert port == same
    with socket.create_server(("127.0.0.1", port)):  # which never answers
        mp.spawn(_join_step, (jobs, tmp_path), nprocs=4)
    assert [(tmp_path / f"{number}.txt").read_text() for number in range(4)] == [
        "[(0, 0), (0, 1)]", "[(0, 0), (0, 1)]", "[(1, 0), (1, 1)]", "[(1, 0), (1, 1)]"
    ]  # fmt: skip


def test_ports_that_are_all_in_use_are_said(port, monkeypatch, capsys):
    monkeypatch.setattr(processes, "CHOICES", 1)
    monkeypatch.setattr(processes, "FIRST_PORT", port)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "PROCID": "0",
        "STEP_NUM_TASKS": "2",
        "STEP_NODELIST": "x",
        "STEP_NUM_NODES": "1",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with socket.create_server(("127.0.0.1", port)):
        assert main(["evaluate"]) == 2
        said = capsys.readouterr().err
        assert f"127.0.0.1, ports {port}: all are in use; set MASTER_PORT to a free one" in said
        monkeypatch.setenv("MASTER_PORT", str(port))
        assert main(["evaluate"]) == 2
        assert f"MASTER_PORT is {port}, which is in use on this machine" in capsys.readouterr().err


def test_processes_of_srun_that_cannot_find_each_other_are_told():
    with pytest.raises(InputError, match="set MASTER_ADDR to its address"):
        processes.meeting_place({"SLURM_JOB_ID": "3"})


def test_processes_of_srun_evaluate_like_one(data, tmp_path):
    """As srun starts them: with SLURM's variables alone."""
    words = ["evaluate", "--model", "resnet10_small", "--checkpoint", "pretrained", "--data", str(data)]
    words += ["--on-bad", "skip", "--thresholds", "20"]
    words += ["--method", "cam", "--batch-size", "4", "--out"]
    assert main([*words, str(tmp_path / "one")]) == 1
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    environ |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "nowhere", "SLURM_STEP_NUM_NODES": "1"}
    environ |= {"SLURM_JOB_ID": str(os.getpid()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "heatbox", *words, str(tmp_path / "two")]
    running = [subprocess.Popen(command, env=environ | {"SLURM_PROCID": str(rank)}) for rank in range(2)]
    assert [one.wait() for one in running] == [1, 0]
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(3, 4, [4, 4, 2]), (3, 1, [3, 3, 4]), (2, 16, [0, 10])]
)
def test_parts_are_whole_batches(count, size, expected, monkeypatch):
    monkeypatch.setattr(processes, "_count", count)
    parts, turns = [], []
    for rank in range(count):
        monkeypatch.setattr(processes, "_rank", rank)
        parts.append(processes.own_part(range(10), size))
        turns.append(processes.own_turns(range(10), size))
    assert [len(part) for part in parts] == expected
    assert [item for part in parts for item in part] == [*range(10)]
    (rounds,) = {rounds for _, rounds in turns}
    batches = [own[start : start + size] for start in range(0, rounds * size, size) for own, _ in turns]
    assert [item for batch in batches for item in batch] == [*range(10)]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}, (2, 4, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1, 0)),  # the script of sbatch itself
    ],
)
def test_processes_are_recognised(environ, expected, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert processes.started() == expected


def _die_or_wait(rank: int, port: int, report: Path, goes_on: bool = False) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes.join()
    assert processes.own_part(range(5)) == (range(2), range(2, 5))[rank]
    assert processes.gathered(rank) == [0, 1]
    if rank == 1:
        if goes_on:
            processes.only_first_goes_on()  # ends this one
        os._exit(0)
    if goes_on:
        processes.only_first_goes_on()
        Run(report.parent / "run").start({"after": "the others"})
        return
    try:
        processes.meet()
    except InputError as error:
        report.write_text(str(error))


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_lost_process_ends_the_others_with_a_sentence(port, tmp_path):
    mp.spawn(_die_or_wait, (port, tmp_path / "error.txt"), nprocs=2)
    assert "another process of this command has ended" in (tmp_path / "error.txt").read_text()


def test_the_first_process_goes_on_without_the_others(port, tmp_path):
    mp.spawn(_die_or_wait, (port, tmp_path / "error.txt", True), nprocs=2)
    assert Run(tmp_path / "run").config() == {"after": "the others"}


def test_shards_are_joined_in_order(tmp_path):
    store = ShardStore(tmp_path / "parts")
    for ids in (["e", "f"], ["a"], ["c", "d"], ["b"]):
        store.append(pa.table({"id": ids, "value": [ord(one) for one in ids]}))
    store.sort({name: place for place, name in enumerate("abcdef")})
    (joined,) = store.shards()
    assert pq.read_table(joined).to_pydict() == {"id": [*"abcdef"], "value": [*range(97, 103)]}
    before = joined.stat().st_mtime_ns
    store.append(pa.table({"id": ["g"], "value": [103]}))
    store.sort({name: place for place, name in enumerate("abcdefg")})
    assert [shard.name for shard in store.shards()] == [joined.name, "000005.parquet"]
    assert joined.stat().st_mtime_ns == before  # in order: nothing is written


def test_shards_that_were_joined_but_not_removed_do_not_count(tmp_path):
    store = ShardStore(tmp_path / "parts")
    for ids in (["b"], ["a"]):
        store.append(pa.table({"id": ids}))
    old = {shard.name: shard.read_bytes() for shard in store.shards()}
    store.sort({"a": 0, "b": 1})
    for name, content in old.items():  # killed between the two
        (store.folder / name).write_bytes(content)
    assert [shard.stem for shard in store.shards()] == ["000002-all"]


def test_shards_of_other_columns_are_a_sentence(tmp_path):
    store = ShardStore(tmp_path / "parts")
    store.append(pa.table({"id": ["b"], "value": [1]}))
    store.append(pa.table({"id": ["a"], "other": ["text"]}))
    with pytest.raises(InputError, match="the records of the run differ in their columns"):
        store.sort({"a": 0, "b": 1})
