"""Plans of quick steps: what is done, skipped, gone on with, blocked and said."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from heatbox.errors import InputError
from heatbox.paper.runner import run_plan
from heatbox.paper.steps import Input, Status, mark_path, priorities, statuses
from helpers import paper_steps as quick
from helpers.paper_steps import step


def chain(folder, words="first"):
    """a → b → c, and d beside them."""
    return [
        step("a", folder, quick.write, words),
        step("b", folder, quick.write, "b", needs=("a",)),
        step("c", folder, quick.write, "c", needs=("b",)),
        step("d", folder, quick.write, "d"),
    ]


def states(plan, out):
    return {name: status.state for name, status in statuses(plan, out).items()}


def content(folder, name):
    return (folder / f"{name}.txt").read_text().split("\n")[:-1]


def test_all_is_done_once_and_then_skipped(tmp_path):
    plan = chain(tmp_path)
    assert states(plan, tmp_path) == {"a": "ready", "b": "waiting", "c": "waiting", "d": "ready"}
    said = []
    assert run_plan(plan, tmp_path, 2, said.append) == {}
    assert set(states(plan, tmp_path).values()) == {"done"}
    begun = [line.partition(":")[0] for line in said if "started" in line]
    assert sorted(begun) == ["a", "b", "c", "d"]
    assert begun.index("a") < begun.index("b") < begun.index("c")
    assert "a: writing first" in said
    mark = json.loads(mark_path(tmp_path, "a").read_text())
    assert mark["seconds"] >= 0
    assert mark["cpu_seconds"] >= 0
    said.clear()
    assert run_plan(plan, tmp_path, 2, said.append) == {}
    assert said == []
    assert [content(tmp_path, name) for name in "abcd"] == [["first"], ["b"], ["c"], ["d"]]


def test_a_changed_step_and_what_follows_from_it_are_done_again(tmp_path):
    run_plan(chain(tmp_path), tmp_path)
    plan = chain(tmp_path, "second")
    assert states(plan, tmp_path) == {"a": "ready", "b": "waiting", "c": "waiting", "d": "done"}
    assert run_plan(plan, tmp_path) == {}
    assert content(tmp_path, "a") == ["first", "second again"]
    assert content(tmp_path, "c") == ["c", "c again"]
    assert content(tmp_path, "d") == ["d"]


def test_a_lost_file_is_made_again_without_dropping_what_is_there(tmp_path):
    plan = chain(tmp_path)
    run_plan(plan, tmp_path)
    (tmp_path / "c.txt").unlink()
    assert states(plan, tmp_path)["c"] == "ready"
    assert run_plan(plan, tmp_path) == {}
    assert content(tmp_path, "c") == ["c"]
    assert content(tmp_path, "b") == ["b"]


def test_a_failed_step_is_said_and_does_not_stop_the_others(tmp_path):
    plan = [
        step("good", tmp_path),
        step("full", tmp_path, quick.refuse),
        step("bug", tmp_path, quick.break_down),
        step("killed", tmp_path, quick.die),
        step("empty", tmp_path, quick.nothing),
        step("child", tmp_path, needs=("full",)),
        step("grandchild", tmp_path, needs=("child",)),
        step("summary", tmp_path, after=("full", "good")),
        step("nothing-to-show", tmp_path, after=("full", "bug")),
    ]
    said = []
    left = run_plan(plan, tmp_path, 1, said.append)
    assert left["full"] == "the disk of this test is full"
    assert left["bug"] == f"RuntimeError: a bug (traceback in {tmp_path / 'logs' / 'bug.log'})"
    assert "break_down" in (tmp_path / "logs" / "bug.log").read_text()
    assert left["killed"] == "its process ended with code -9"
    assert left["empty"] == f"{tmp_path / 'empty.txt'} was not written"
    assert left["child"] == "it needs full, which was not made"
    assert left["grandchild"] == "it needs child, which was not made"
    assert left["nothing-to-show"] == "none of the steps whose results it shows was made"
    assert set(left) == {"full", "bug", "killed", "empty", "child", "grandchild", "nothing-to-show"}
    assert content(tmp_path, "good") == content(tmp_path, "summary") == [""]
    assert "full: failed: the disk of this test is full" in said


def test_what_failed_is_tried_again_and_its_summary_is_made_again(tmp_path):
    def plan(work):
        return [
            step("part", tmp_path, work),
            step("other", tmp_path),
            step("sum", tmp_path, after=("part", "other")),
        ]

    assert list(run_plan(plan(quick.refuse), tmp_path)) == ["part"]
    assert content(tmp_path, "sum") == [""]
    assert states(plan(quick.write), tmp_path) == {"part": "ready", "other": "done", "sum": "waiting"}
    assert run_plan(plan(quick.write), tmp_path) == {}
    assert len(content(tmp_path, "sum")) == 2
    assert len(content(tmp_path, "other")) == 1


def test_what_is_missing_blocks_what_needs_it_and_is_named(tmp_path):
    birds = Input("birds", None, "give it with --data")
    file = Input("weights", tmp_path / "w.pth", "it is published there")
    plan = [
        step("other", tmp_path),
        step("train", tmp_path, inputs=(birds, file)),
        step("score", tmp_path, needs=("train",)),
        step("figure", tmp_path, after=("score",)),
        step("page", tmp_path, after=("score", "other")),
    ]
    found = statuses(plan, tmp_path)
    assert found["train"].why == (
        "birds was not given; give it with --data",
        f"weights is not at {tmp_path / 'w.pth'}; it is published there",
    )
    assert found["score"].why == ("it needs train, which is blocked",)
    assert found["figure"].state == "blocked"
    assert found["page"].state == "waiting"
    left = run_plan(plan, tmp_path)
    assert left["train"] == "; ".join(found["train"].why)
    assert set(left) == {"train", "score", "figure"}
    (tmp_path / "w.pth").touch()
    assert statuses(plan, tmp_path)["train"].why == ("birds was not given; give it with --data",)


def test_what_is_done_stays_done_without_its_inputs(tmp_path):
    file = Input("weights", tmp_path / "w.pth", "")
    (tmp_path / "w.pth").touch()
    plan = [step("train", tmp_path, inputs=(file,))]
    assert run_plan(plan, tmp_path) == {}
    (tmp_path / "w.pth").unlink()
    assert states(plan, tmp_path) == {"train": "done"}


def test_steps_that_do_not_depend_on_each_other_run_side_by_side(tmp_path):
    here, there = tmp_path / "one.txt", tmp_path / "two.txt"
    plan = [step("one", tmp_path, quick.meet, there), step("two", tmp_path, quick.meet, here)]
    assert run_plan(plan, tmp_path, 2) == {}


def test_the_longest_way_to_the_end_goes_first(tmp_path):
    plan = [
        step("short", tmp_path, seconds=1),
        step("a-long-way", tmp_path, seconds=2),
        step("long", tmp_path, seconds=5),
        step("end", tmp_path, seconds=4, needs=("a-long-way",)),
    ]
    assert priorities(plan) == {"short": 1, "a-long-way": 6, "long": 5, "end": 4}
    said = []
    run_plan(plan, tmp_path, 1, said.append)
    begun = [line.partition(":")[0] for line in said if "started" in line]
    assert begun == ["a-long-way", "long", "end", "short"]


def wait_for(path, seconds=60):
    for _ in range(20 * seconds):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not come")


@pytest.fixture
def interruptible():
    """Ctrl-C raises, also where the tests were begun in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_steps_save_and_the_plan_goes_on(tmp_path):
    plan = [step("slow", tmp_path, quick.save_when_ended)]

    def interrupt():
        wait_for(tmp_path / "slow.pid")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path)
    assert (tmp_path / "slow.saved").read_text() == "kept"
    assert states(plan, tmp_path) == {"slow": "ready"}
    assert multiprocessing.active_children() == []


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    context = multiprocessing.get_context("spawn")
    plan = [step("slow", tmp_path, quick.save_when_ended)]
    parent = context.Process(target=run_plan, args=(plan, tmp_path, 1, print))
    parent.start()
    wait_for(tmp_path / "slow.pid")
    parent.kill()
    parent.join()
    wait_for(tmp_path / "slow.saved")


def test_jobs_and_folders_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="jobs is 0, expected 1 or more"):
        run_plan([], tmp_path, 0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="could not be made the folder of a plan"):
        run_plan([], tmp_path / "file", 1)


def test_results_of_an_earlier_version_are_not_dropped(tmp_path):
    """0.1.0 noted no version, and its hash of the settings may differ although they are the same."""
    plan = chain(tmp_path)
    run_plan(plan, tmp_path)
    mark = json.loads(mark_path(tmp_path, "b").read_text())
    del mark["version"]
    mark_path(tmp_path, "b").write_text(json.dumps(mark))
    assert states(plan, tmp_path)["b"] == "done"
    mark["asked"] = "of another class layout"
    mark_path(tmp_path, "b").write_text(json.dumps(mark))
    assert statuses(plan, tmp_path)["b"] == Status("ready")
    assert run_plan(plan, tmp_path) == {}
    assert content(tmp_path, "b") == ["b", "b"]  # run again on what is there, not "b again"
