"""Maps against masks by `heatbox evaluate` and `heatbox score`, on a small set in OpenImages30k's layout."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.data.open import open_split
from heatbox.evaluation.run import Run
from heatbox.maps.baselines import centre_gaussian
from heatbox.maps.normalize import normalize_heatmap
from heatbox.metrics.bootstrap import Interval, pxap_interval
from heatbox.metrics.functional import resize_mask
from heatbox.metrics.pxap import PxAP
from helpers import data_trees as trees
from helpers.scenes import write_model, write_split


def reference_mask(split, example):
    """Each file resized on its own, then joined: the order in which the reference evaluator works."""
    folder = split.open_image.tree
    pairs = split.open_mask.files[example.id]

    def load(name):
        grey = np.float32(np.asarray(Image.open(folder.source(name)).convert("L")))
        return cv2.resize(grey, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5

    union = np.any([load(mask) for mask, _ in pairs], axis=0)
    ignored = [load(ignore) for _, ignore in pairs if ignore]
    result = union.astype(np.uint8)
    return np.where(ignored[0] & ~union, 255, result) if ignored else result


def average_precision(maps, masks, count):
    """PxAP from the sorted edges, pixel by pixel."""
    edges = np.append(np.arange(count) * (1 / count), [1.0, 2.0, 3.0])
    values = np.concatenate([one.ravel() for one in maps]).astype(np.float64)
    kinds = np.concatenate([mask.ravel() for mask in masks])
    inside, outside = (np.histogram(values[kinds == kind], edges)[0] for kind in (1, 0))
    tp, fp = inside[::-1].cumsum(), outside[::-1].cumsum()
    area, recall = 0.0, tp[0] / tp[-1]
    for k in range(1, len(tp)):
        if tp[k] + fp[k]:
            area += tp[k] / (tp[k] + fp[k]) * (tp[k] / tp[-1] - recall)
        recall = tp[k] / tp[-1]
    return 100 * area


@pytest.fixture
def scene(tmp_path):
    """The set, and a folder of maps of it."""
    trees.openimages(tmp_path / "set")
    split = open_split(str(tmp_path / "set"))
    rng = np.random.default_rng(0)
    for example in split:
        heatmap = rng.random((224, 224)) * 0.5 + 0.4 * (resize_mask(split.open_mask(example)) == 1)
        path = tmp_path / "maps" / f"{example.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, heatmap.astype(np.float32))
    return tmp_path


def run_score(scene, *more):
    folders = ["--heatmaps", scene / "maps", "--data", scene / "set", "--out", scene / "run"]
    return main(["score", *map(str, folders), *more])


def run_evaluate(scene, *more):
    model = ["--model", write_model(scene), "--data", scene / "set", "--out", scene / "run", "--size", 64]
    return main(["evaluate", *map(str, model), *more])


def test_masks_in_the_frame_are_those_of_the_reference(scene):
    split = open_split(str(scene / "set"))
    for example in split:
        assert np.array_equal(resize_mask(split.open_mask(example)), reference_mask(split, example))


def test_masks_of_different_sizes(scene):
    split = open_split(str(scene / "set"))
    first = split.examples[0]
    path = split.open_image.tree.source(split.open_mask.files[first.id][0][0])
    with Image.open(path) as mask:
        larger = mask.resize((101, 77))
    larger.save(path)
    assert split.open_mask(first).shape == (224, 224)
    assert np.array_equal(resize_mask(split.open_mask(first)), reference_mask(split, first))


def test_score(scene, capsys):
    assert run_score(scene, "--json", "--thresholds", "100") == 0
    found = json.loads(capsys.readouterr().out)
    split = open_split(str(scene / "set"))
    masks = [reference_mask(split, example) for example in split]
    maps = [np.load(scene / "maps" / f"{example.id}.npy") for example in split]
    assert found["methods"]["maps"]["PxAP"] == pytest.approx(average_precision(maps, masks, 100))
    centre = [centre_gaussian(224, 224)] * 2
    assert found["methods"]["centre-gaussian"]["PxAP"] == pytest.approx(average_precision(centre, masks, 100))
    known = np.concatenate([mask.ravel() for mask in masks])
    share = 100 * (known == 1).sum() / (known != 255).sum()
    assert found["methods"]["full-image"]["pixel_iou"] == pytest.approx(share)
    minus = found["methods"]["maps"]["minus_baseline"]["PxAP"]["value"]
    assert minus == pytest.approx(
        found["methods"]["maps"]["PxAP"] - found["methods"]["centre-gaussian"]["PxAP"]
    )


def test_score_prints_a_table_and_says_what_is_left_out(scene, capsys):
    split = open_split(str(scene / "set"))
    np.save(scene / "maps" / f"{split.examples[1].id}.npy", np.full((224, 224), np.nan))
    assert run_score(scene) == 1
    printed = capsys.readouterr()
    assert "PxAP" in printed.out
    assert "1 images" in printed.out
    assert "1 heatmaps could not be scored" in printed.err
    (scene / "maps" / f"{split.examples[0].id}.npy").write_bytes(b"")
    assert run_score(scene) == 2
    assert "none of 2 heatmaps could be scored" in capsys.readouterr().err


def test_transferred_threshold(scene, capsys):
    more = ["--fullsup", str(scene / "set"), "--fullsup-heatmaps", str(scene / "maps"), "--json"]
    assert run_score(scene, *more) == 0
    found = json.loads(capsys.readouterr().out)["methods"]["maps"]
    assert found["transferred"]["pixel_iou"] == pytest.approx(found["pixel_iou"])  # the same images
    assert found["transferred"]["threshold"] == found["threshold"]


def test_evaluate_keeps_masks_and_scores_them_again(scene, capsys):
    assert run_evaluate(scene, "--json", "--method", "cam") == 0
    first = json.loads(capsys.readouterr().out)
    split = open_split(str(scene / "set"))
    records = next(iter(Run(scene / "run").records()))
    masks = [reference_mask(split, example) for example in split]
    assert all(np.array_equal(r["mask"], mask) for r, mask in zip(records, masks, strict=True))
    maps = [normalize_heatmap(record["map_cam"], 224) for record in records]
    assert first["methods"]["cam"]["PxAP"] == pytest.approx(average_precision(maps, masks, 1000))
    assert {"images", "top1", "top5", "truth"} <= set(first)
    assert main(["evaluate", "--from-run", str(scene / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == first["methods"]


def test_a_damaged_mask_is_named_and_what_was_made_stays(scene, capsys):
    split = open_split(str(scene / "set"))
    path = split.open_image.tree.source(split.open_mask.files[split.examples[1].id][0][0])
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    assert run_evaluate(scene, "--batch-size", "1") == 2
    assert path.name in capsys.readouterr().err
    assert Run(scene / "run").done() == {split.examples[0].id}
    path.write_bytes(whole)
    assert run_evaluate(scene, "--batch-size", "1") == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--protocol", "exact"), "masks are scored by PxAP"),
        (("--fullsup", "glyphs:fullsup"), "scored against masks and fullsup against boxes"),
    ],
)
def test_what_does_not_go_together(scene, capsys, more, says):
    assert run_evaluate(scene, *more) == 2
    assert says in capsys.readouterr().err
    assert not (scene / "run").exists()


def scored(seed, images=40):
    rng = np.random.default_rng(seed)
    masks = [(rng.random((48, 48)) < share).astype(np.uint8) for share in rng.uniform(0.1, 0.6, images)]
    maps = [np.clip(rng.random((48, 48)) * 0.7 + 0.3 * mask * rng.random(), 0, 1) for mask in masks]
    metric = PxAP(20, per_image=True)
    metric.update(maps, masks)
    return metric.compute().histograms, maps, masks


def test_intervals_are_those_of_drawing_images():
    found, maps, masks = scored(1)
    interval = pxap_interval(found, resamples=400)
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(100):
        picks = rng.integers(0, len(maps), len(maps))
        drawn.append(average_precision([maps[i] for i in picks], [masks[i] for i in picks], 20))
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert interval.low == pytest.approx(low, abs=width / 4)
    assert interval.high == pytest.approx(high, abs=width / 4)
    assert pxap_interval(found, found) == Interval(0.0, 0.0, 0.0, 0.95)


@pytest.fixture
def mask_run(scene, capsys):
    """A finished run against masks."""
    assert run_evaluate(scene, "--json", "--method", "cam", "pc1") == 0
    capsys.readouterr()
    return scene / "run"


def test_a_page_has_the_table_of_masks_and_says_what_it_lacks(scene, mask_run, capsys):
    page = scene / "page.html"
    assert main(["report", str(mask_run), "--out", str(page)]) == 0
    said = capsys.readouterr().err
    assert "run: scored against masks, so there are no boxes for the explorer" in said
    text = page.read_text()
    found = json.loads((mask_run / "metrics.json").read_text())["methods"]
    assert "PxAP minus centre-Gaussian" in text
    for name in ("cam", "pc1", "centre-gaussian"):
        assert f"<td>{found[name]['PxAP']:.2f}<small>" in text
        assert f"<td>{found[name]['pixel_iou']:.2f}</td>" in text
    best = max(found[name]["PxAP"] for name in ("cam", "pc1"))
    assert f"with {best:.1f}%" in text
    assert 'id="explorer-data"' not in text


def test_two_runs_one_of_them_against_masks(scene, mask_run, capsys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    data = str(write_split(folder / "set", 4))
    model = ["--model", write_model(folder), "--size", "64", "--data", data, "--out", str(folder / "boxes")]
    assert main(["evaluate", *model]) == 0
    page = scene / "page.html"
    assert main(["report", str(mask_run), str(folder / "boxes"), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Best map by MaxBoxAccV2" in text
    assert "PxAP minus centre-Gaussian" in text
    assert 'id="explorer-data"' in text
    assert main(["compare", str(mask_run), str(folder / "boxes")]) == 2
    assert f"{mask_run}: was scored against masks; expected a run" in capsys.readouterr().err


def test_export_of_masks(scene, mask_run, capsys):
    assert main(["export", str(mask_run), "--coco", str(scene / "boxes.json")]) == 2
    assert "--npy and --overlays work" in capsys.readouterr().err
    assert not (scene / "boxes.json").exists()
    assert main(["export", str(mask_run), "--npy", str(scene / "npy"), "--overlays", str(scene / "png")]) == 0
    folders = ["--heatmaps", scene / "npy", "--data", scene / "set", "--out", scene / "again", "--json"]
    capsys.readouterr()
    assert main(["score", *map(str, folders)]) == 0
    again = json.loads(capsys.readouterr().out)["methods"]["npy"]["PxAP"]
    assert again == json.loads((mask_run / "metrics.json").read_text())["methods"]["cam"]["PxAP"]
    records = next(iter(Run(mask_run).records()))
    for record in records:
        with Image.open(scene / "png" / f"{record['id']}.png") as picture:
            pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        mask = cv2.resize((record["mask"] == 1).astype(np.uint8), (width, height), interpolation=0)
        edge = mask - cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
        white = (pixels[edge == 1] == 255).all(1)
        assert white.mean() > 0.5  # the truth's outline; the map's own box covers some of it
