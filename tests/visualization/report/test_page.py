"""The page as a reader sees it, in a real browser."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from heatbox.boxes.contours import heatmap_to_boxes, threshold_grid
from heatbox.boxes.ops import box_iou, scaled_truth
from heatbox.config import EvaluateConfig
from heatbox.errors import InputError
from heatbox.evaluation.predict import evaluate
from heatbox.evaluation.run import Run
from heatbox.maps.normalize import normalize_heatmap
from heatbox.visualization.report.build import write_report
from helpers.browser import opened
from helpers.scenes import write_model, write_split

NASTY = "<script>window.ran = 1</script>&amp; <img src=x onerror=window.ran=2>"
COUNT = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = EvaluateConfig(write_model(folder), str(write_split(folder / "set", COUNT)), size=64)
    evaluate(config, Run(folder / "run"))
    return Run(folder / "run")


@pytest.fixture(scope="module")
def records(run):
    return [record for batch in run.records() for record in batch]


@pytest.fixture(scope="module")
def page(run):
    """The page, with a class of a nasty name."""
    out = run.folder.parent / "page.html"
    write_report([run.folder], out)
    text = out.read_text()
    data = re.search(r'id="explorer-data">(.*?)</script>', text, re.DOTALL)[1]
    content = json.loads(data)
    content["classes"] = [NASTY, *[f"class {i}" for i in range(1, 10)]]
    from heatbox.visualization.report.page import script_json

    out.write_text(text.replace(data, script_json(content)))
    return out


@pytest.fixture
def view(page, tmp_path):
    with opened(page, tmp_path / "profile", viewport={"width": 1100, "height": 900}) as (shown, troubles):
        yield shown
        assert not troubles
        assert shown.evaluate("window.ran") is None


def frame(record, method):
    return normalize_heatmap(record[f"map_{method}"], 224)


def iou(record, method, index, contours="largest"):
    boxes = heatmap_to_boxes(frame(record, method), [threshold_grid(1000)[index]], contours)[0]
    truth = scaled_truth(record["boxes"], (record["width"], record["height"]), (224, 224), "reference")
    return box_iou(boxes, truth, inclusive=True).max()


def set_slider(view, index, name="#threshold"):
    view.evaluate(
        "([name, value]) => { const s = document.querySelector(name); s.value = value;"
        " s.dispatchEvent(new Event('input', {bubbles: true})); }",
        [name, index],
    )
    view.wait_for_timeout(120)


def shown_boxes(view, place, name="found"):
    """Boxes of a card, read off what is drawn."""
    card = view.locator(f".card[data-image='{place}']")
    card.scroll_into_view_if_needed()
    view.wait_for_timeout(60)
    path = card.locator(f"path.{name}").first.get_attribute("d") or ""
    found = re.findall(r"M(\S+) (\S+)H(\S+)V(\S+)H\S+Z", path)
    return sorted(tuple(int(float(number)) for number in box) for box in found)


@pytest.mark.parametrize("contours", ["largest", "all"])
def test_the_slider_moves_boxes_to_where_the_evaluator_has_them(view, records, contours):
    view.check(f"input[name=contours][value={contours}]")
    for index in (0, 137, 400, 861, 999):
        set_slider(view, index)
        for place in (0, 7):
            wanted = heatmap_to_boxes(frame(records[place], "cam"), [threshold_grid(1000)[index]], contours)[
                0
            ]
            assert shown_boxes(view, place) == sorted(map(tuple, wanted.tolist()))


def test_the_score_is_the_evaluators_at_every_threshold(view, run):
    found = run.metrics()["methods"]["cam"]
    for contours, key in (("largest", "largest_contour"), ("all", "all_contours")):
        view.check(f"input[name=contours][value={contours}]")
        for index in (0, 250, 611, 999):
            set_slider(view, index)
            shown_scores = re.findall(r"([\d.]+)% from", view.inner_text("#score"))
            wanted = [100 * counts[index] / COUNT for counts in found[key]["correct"]]
            assert [float(value) for value in shown_scores] == pytest.approx(wanted, abs=0.051)


def counted(view):
    return int(re.search(r"(\d+) of", view.text_content("#count"))[1])


def test_filters_count_what_passes(view, records):
    view.evaluate("document.getElementById('filters').open = true")
    set_slider(view, 300)
    ious = np.array([iou(record, "cam", 300) for record in records])
    others = np.array([iou(record, "pc1", 500) for record in records])
    view.check("input[name=iou][value='0.3']")
    view.select_option("#hits", "hit")
    assert counted(view) == (ious >= 0.3).sum() == view.locator(".card").count()
    view.select_option("#hits", "miss")
    assert counted(view) == (ious < 0.3).sum()
    view.select_option("#hits", "")
    view.fill("#iou-from", "0.2")
    view.fill("#iou-to", "0.45")
    view.locator("#iou-to").blur()
    assert counted(view) == ((ious >= 0.2) & (ious <= 0.45)).sum()
    view.click("#reset")
    label = records[0]["label"]
    view.select_option("#class", str(label))
    assert counted(view) == sum(record["label"] == label for record in records)
    view.click("#reset")
    view.select_option("#other", "1")
    set_slider(view, 500, "#other-threshold")
    for name, wanted in {
        "differ": (ious >= 0.3) != (others >= 0.3),
        "first": (ious >= 0.3) & (others < 0.3),
        "second": (ious < 0.3) & (others >= 0.3),
        "both": (ious >= 0.3) & (others >= 0.3),
        "neither": (ious < 0.3) & (others < 0.3),
    }.items():
        view.select_option("#agreement", name)
        assert counted(view) == wanted.sum(), name


def test_sorting_by_worst(view, records):
    set_slider(view, 300)
    view.evaluate("document.getElementById('filters').open = true")
    view.select_option("#sort", "worst")
    order = [int(card.get_attribute("data-image")) for card in view.locator(".card").all()]
    ious = [iou(records[place], "cam", 300) for place in order]
    assert sorted(order) == list(range(COUNT))
    assert ious == sorted(ious)


def test_names_are_text(view, records):
    place = next(i for i, record in enumerate(records) if record["label"] == 0)
    card = view.locator(f".card[data-image='{place}']")
    assert card.locator(".name").text_content() == NASTY
    card.click()
    assert NASTY in view.text_content("#large-name")
    assert view.locator("#explorer img[src=x], dialog img[src=x]").count() == 0


def test_keys(view, records):
    before = float(view.text_content("#at"))
    view.locator(".card").nth(2).focus()
    view.keyboard.press(".")
    view.wait_for_timeout(80)
    assert float(view.text_content("#at")) == pytest.approx(before + 0.001)
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    assert records[3]["id"] in view.text_content("#large-name")
    view.keyboard.press("ArrowLeft")
    assert records[2]["id"] in view.text_content("#large-name")
    view.keyboard.press("Escape")
    assert not view.locator("#large").is_visible()


def test_the_large_view_shows_the_strongest_channels(view, records):
    place = 4
    view.locator(f".card[data-image='{place}']").click()
    captions = view.locator(".channels > div").all_inner_texts()
    wanted = zip(records[place]["channel_index"], records[place]["channel_weight"], strict=True)
    assert [text.strip() for text in captions] == [f"no. {index}: {weight:.3f}" for index, weight in wanted]
    assert len(captions) == 3
    painted = view.evaluate("document.querySelector('.channels canvas').width")
    assert painted > 10


def test_a_phone_needs_no_sideways_scrolling(page, tmp_path):
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    with opened(page, tmp_path / "phone", **phone) as (shown, troubles):
        assert shown.evaluate("document.documentElement.scrollWidth") <= 360
        assert not troubles


def test_more_images_than_asked_for(run, tmp_path):
    write_report([run.folder], tmp_path / "few.html", images=5)
    with opened(tmp_path / "few.html", tmp_path / "profile") as (shown, troubles):
        assert shown.locator(".card").count() == 5
        assert f"5 of the run's {COUNT} images" in shown.text_content("#about")
        assert not troubles


def test_images_that_are_gone(run, tmp_path, monkeypatch):
    def gone(*_):
        raise InputError("nothing there")

    monkeypatch.setattr("heatbox.visualization.report.explorer.reopen_images", gone)
    notes = write_report([run.folder], tmp_path / "bare.html")
    assert "images were not found" in notes[0]
    with opened(tmp_path / "bare.html", tmp_path / "profile") as (shown, troubles):
        assert "images were not found" in shown.text_content("#about")
        assert not troubles


def test_several_runs_and_an_analysis_on_one_page(run, tmp_path):
    """The second run holds fewer images, other maps, and the figures of an analysis."""
    config = run.config()
    other = EvaluateConfig(config["model"], config["data"], size=96, limit=10, method=("cam",))
    evaluate(other, Run(tmp_path / "other"))
    figures = tmp_path / "other" / "analysis" / "figures"
    figures.mkdir(parents=True)
    (figures.parent / "analysis.json").write_text("{}")
    Image.new("RGB", (30, 20), "teal").save(figures / "erf-curves.png")
    notes = write_report([run.folder, tmp_path / "other"], tmp_path / "both.html")
    assert any("different numbers of images" in note for note in notes)
    with opened(tmp_path / "both.html", tmp_path / "profile") as (shown, troubles):
        captions = shown.locator("figcaption").all_inner_texts()
        assert captions == ["Scores per model, cam", "erf curves"]
        sizes = "Array.from(document.querySelectorAll('figure img'), (image) => image.naturalWidth)"
        shown.wait_for_function(f"{sizes}.every((width) => width >= 30)")
        assert shown.locator("#map option").all_inner_texts() == ["cam · run", "pc1 · run", "cam · other"]
        shown.select_option("#map", "2")
        assert "(10 images)" in shown.inner_text("#score")
        assert shown.locator("table:has(thead th:text-is('map')) tbody tr").count() == 4 + 3
        assert "ms per image" in shown.locator("thead").first.inner_text()
        parts = shown.locator("#scores details:not([open])")  # of one run they are shown
        assert parts.locator("summary").all_inner_texts() == [
            f"{name}: images by size, shape, place and class" for name in ("run", "other")
        ]
        assert not troubles


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        write_report([tmp_path / "none"], tmp_path / "page.html")
    with pytest.raises(InputError, match="contains neither scores"):
        write_report([tmp_path], tmp_path / "page.html")
    Run(tmp_path / "begun").start({"a": 1})
    with pytest.raises(InputError, match="unfinished run"):
        write_report([tmp_path / "begun"], tmp_path / "page.html")
