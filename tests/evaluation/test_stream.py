import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heatbox.data.types import Example
from heatbox.errors import InputError
from heatbox.evaluation import score as scoring
from heatbox.evaluation.score import score_folder, score_stream
from heatbox.metrics.bootstrap import bootstrap_interval
from heatbox.metrics.max_box_acc import V2_IOU, MaxBoxAcc
from helpers.awkward_maps import random_map


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(scoring, "MAPS_AT_A_TIME", 4)


def make_maps(count=11):
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(count):
        y, x = np.mgrid[:224, :224] / 224
        cy, cx = rng.uniform(0.2, 0.8, 2)
        one = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.05)
        maps.append(((one - one.min()) / np.ptp(one)).astype(np.float32))
    return maps


def make_split(count=11):
    rng = np.random.default_rng(1)
    examples = []
    for i in range(count):
        corners = np.sort(rng.integers(0, 300, (1, 2, 2)), axis=1).reshape(1, 4)
        examples.append(Example(f"val/{i:03d}.jpg", 0, (300, 300), corners.astype(float)))
    return examples


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "maps"
    for example, one in zip(make_split(), make_maps(), strict=True):
        path = root / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, one)
    return root


def direct():
    scores = {}
    for name, contours in (("MaxBoxAcc", "largest"), ("MaxBoxAccV2", "all")):
        metric = MaxBoxAcc(V2_IOU, contours)
        metric.update(make_maps(), [e.boxes for e in make_split()], [e.size for e in make_split()])
        scores[name] = metric.compute()
    return scores


def assert_same(outcome, expected):
    for name, score in expected.items():
        np.testing.assert_array_equal(outcome.scores[name].correct, score.correct)


def test_a_folder_scores_like_its_maps(folder, tmp_path):
    done = []
    outcome = score_folder(folder, make_split(), records=tmp_path / "records", progress=done.append)
    assert_same(outcome, direct())
    assert outcome.problems() == []
    assert done == [4, 8, 11]
    assert outcome.summary()["MaxBoxAcc"] == direct()["MaxBoxAcc"].per_iou[1]
    assert outcome.records.ids == [e.id for e in make_split()]
    for name, score in outcome.scores.items():
        bits = outcome.records.bits(name)
        np.testing.assert_array_equal(bits.sum(0), score.correct)
        at_best = outcome.records.at(name, score.threshold)
        np.testing.assert_allclose(at_best.mean(0) * 100, score.per_iou)
        assert bootstrap_interval(at_best, 100).estimate == pytest.approx(score.accuracy)


@pytest.mark.parametrize("thresholds", [1000, 200, 77])
def test_records_are_read_at_every_threshold_of_the_grid(tmp_path, thresholds):
    items = list(zip("ab", make_maps(2), [e.boxes for e in make_split(2)], [(300, 300)] * 2, strict=True))
    outcome = score_stream(items, thresholds=thresholds, records=tmp_path / "r")
    score, bits = outcome.scores["MaxBoxAcc"], outcome.records.bits("MaxBoxAcc")
    for k, tau in enumerate(score.thresholds):
        np.testing.assert_array_equal(outcome.records.at("MaxBoxAcc", np.full(3, tau)), bits[:, :, k])


def test_an_interrupted_scoring_continues(folder, tmp_path):
    class Stop(Exception):
        pass

    def stop(done):
        if done == 8:
            raise Stop

    with pytest.raises(Stop):
        score_folder(folder, make_split(), records=tmp_path / "records", progress=stop)
    (folder / "val/000.jpg.npy").write_bytes(b"not read again")
    os.utime(folder / "val/000.jpg.npy", (0, 0))  # as old as if it had not changed
    outcome = score_folder(folder, make_split(), records=tmp_path / "records")
    assert (outcome.images, outcome.resumed) == (11, 8)
    assert outcome.problems() == []
    assert_same(outcome, direct())
    again = score_folder(folder, make_split(), records=tmp_path / "records")
    assert again.resumed == 11
    assert_same(again, direct())


def test_records_of_another_scoring_are_refused(folder, tmp_path):
    score_folder(folder, make_split(), records=tmp_path / "records")
    with pytest.raises(InputError, match="other settings"):
        score_folder(folder, make_split(), thresholds=10, records=tmp_path / "records")
    with pytest.raises(InputError, match="other settings"):
        score_folder(folder, make_split()[:5], records=tmp_path / "records")


def test_a_damaged_part_costs_its_own_images_only(folder, tmp_path):
    whole = score_folder(folder, make_split(), records=tmp_path / "records")
    part = tmp_path / "records/000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    again = score_folder(folder, make_split(), records=tmp_path / "records")
    assert 0 < again.resumed < again.images == whole.images
    assert_same(again, whole.scores)
    assert part.with_suffix(".damaged").exists()


def test_maps_that_changed_after_they_were_scored(folder, tmp_path):
    score_folder(folder, make_split(), records=tmp_path / "records")
    path = folder / "val/003.jpg.npy"
    np.save(path, np.zeros((224, 224)))
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    with pytest.raises(InputError, match=r"003\.jpg\.npy: has changed since it was scored"):
        score_folder(folder, make_split(), records=tmp_path / "records")


def test_headers_that_no_reader_expects(folder):
    (folder / "val/000.jpg.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{garbage" + b" " * 200)
    (folder / "val/001.jpg.npy").write_bytes(b"PK\x03\x04 not an archive")
    outcome = score_folder(folder, make_split())
    assert [name for name, _ in outcome.malformed] == ["val/000.jpg", "val/001.jpg"]


def test_bad_maps_are_counted_and_the_others_scored(folder):
    np.save(folder / "val/000.jpg.npy", np.full((224, 224), np.nan))
    np.save(folder / "val/001.jpg.npy", np.full((224, 224), 1.5))
    np.save(folder / "val/002.jpg.npy", np.zeros((7, 7)))
    (folder / "val/003.jpg.npy").write_bytes(b"nothing")
    np.save(folder / "val/004.jpg.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "val/005.jpg.npy").unlink()
    np.save(folder / "val/stray.npy", np.zeros((224, 224)))
    outcome = score_folder(folder, make_split())
    assert outcome.images == 5
    assert outcome.missing == ("val/005.jpg",)
    assert outcome.unknown == ("val/stray.npy",)
    reasons = dict(outcome.malformed)
    for i, said in enumerate(
        ("50176 NaN", "[1.5, 1.5]", "7 x 7, expected 224 x 224", "readable", "readable")
    ):
        assert said in reasons[f"val/{i:03d}.jpg"]
    said = " ".join(outcome.problems())
    assert "1 images have no heatmap (the first: val/005.jpg)" in said
    assert "5 heatmaps could not be scored (the first: val/000.jpg" in said
    assert "1 heatmaps belong to no image (the first: val/stray.npy)" in said


def test_maps_named_without_the_image_suffix_and_of_any_size_are_found(tmp_path):
    for example, one in zip(make_split(), make_maps(), strict=True):
        path = tmp_path / example.id
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".npy"), one[::16, ::16] * 3 - 1)
    outcome = score_folder(tmp_path, make_split(), resize=True)
    assert outcome.images == 11
    assert outcome.problems() == []


@pytest.mark.parametrize("bad", ["../outside", "/etc/passwd", "val/../../outside", "..", ""])
def test_an_id_that_leads_out_of_the_folder_is_refused(folder, bad):
    example = Example(bad, 0, (10, 10), np.array([[0.0, 0, 5, 5]]))
    with pytest.raises(InputError, match="leads out of the folder"):
        score_folder(folder, [*make_split(), example])


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    np.save(tmp_path / "secret.npy", np.zeros((224, 224)))
    (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InputError, match="leads out of the folder"):
        score_folder(folder, [Example("link", 0, (10, 10), np.array([[0.0, 0, 5, 5]]))])


def test_a_folder_without_any_map_of_the_split_is_an_error(tmp_path):
    with pytest.raises(InputError, match="contains no heatmap of any of 11 images"):
        score_folder(tmp_path, make_split())
    with pytest.raises(InputError, match="is not a folder"):
        score_folder(tmp_path / "nowhere", make_split())


def test_a_stream_in_the_exact_protocol_takes_any_size():
    items = [(str(i), random_map(i, 30), np.array([[0, 0, 5, 5]]), (10, 10)) for i in range(6)]
    outcome = score_stream(iter(items), protocol="exact")
    assert outcome.images == 6
    metric = MaxBoxAcc(V2_IOU, "all", "exact")
    metric.update([i[1] for i in items], [i[2] for i in items], [i[3] for i in items])
    np.testing.assert_array_equal(outcome.scores["MaxBoxAccV2"].per_iou, metric.compute().per_iou)


def test_a_stream_of_nothing_but_bad_maps_says_why():
    with pytest.raises(InputError, match="none of 1 heatmaps could be scored, the first because a: "):
        score_stream([("a", np.full((2, 2), np.nan), np.array([[0, 0, 1, 1]]), (2, 2))])


def test_malformed_ground_truth_is_named_by_its_image():
    items = [("some/image.jpg", np.zeros((224, 224)), np.array([[5, 5, 1, 9]]), (10, 10))]
    with pytest.raises(InputError, match=r"some/image\.jpg: box \[5\.0, 5\.0, 1\.0, 9\.0\]"):
        score_stream(items)


def test_records_of_images_that_are_not_in_the_split_are_set_aside(folder, tmp_path):
    whole = score_folder(folder, make_split(), records=tmp_path / "records")
    part = tmp_path / "records/000001.parquet"
    table = pq.read_table(part)
    strange = pa.array([f"{name}x" for name in table["id"].to_pylist()])
    pq.write_table(table.set_column(0, "id", strange), part)
    again = score_folder(folder, make_split(), records=tmp_path / "records")
    assert sorted(again.records.ids) == sorted(whole.records.ids)
    assert_same(again, whole.scores)


def test_scores_as_a_data_frame(folder):
    pytest.importorskip("pandas")
    outcome = score_folder(folder, make_split(), keep=True)
    table = outcome.to_pandas()
    assert table["id"].tolist() == [example.id for example in make_split()]
    for name, score in outcome.scores.items():
        for iou, percent in zip(score.iou, score.per_iou, strict=True):
            assert 100 * table[f"{name}_{iou:g}"].mean() == pytest.approx(percent)
