"""Malicious names, from a data set to the page, the terminal and files: they stay text."""

import json
import os
import re

import pytest
from PIL import Image

from heatbox.cli.main import main
from heatbox.cli.terminal import show_scores
from heatbox.visualization.figures.scores import ModelScore, scores_per_model
from heatbox.visualization.figures.style import as_plain_text, new_figure, save_figure, style_axes
from helpers.browser import opened
from helpers.data_trees import coco_json
from helpers.scenes import write_model, write_split

CLASSES = (
    "<script>window.ran=1</script>",
    "</script><img src=x onerror=window.ran=2>",
    "javascript:window.ran=3",
    '" onmouseover="window.ran=4" x="',
    "`${window.ran=5}` {{7*7}} {% raw %} $x_1$ \\u003cb\\u003e",
    "long" * 2500,
    "\u202eevil\u2028window.ran=6\u2029 \x1b[2J\x1b]0;owned\x07",
    "</title></style><style>body{display:none}</style>",
    "\0NUL ]]> --> <!-- &lt;",
    "'-alert(1)-'",
)
IDS = (
    "<img src=x onerror=window.ran=7>.png",
    '"><svg onload=window.ran=8>.png',
    "<script>window.ran=9</script>.png",
    "`${window.ran=10}`.png",
    "\x1b[2J\x1b]0;owned\x07.png",
    "\u202egnp.\u2028\u2029.png",
    "{{7*7}}.png",
    "a\nb\r.png",
    "$x_1$ %s.png",
    "name " + "y" * 200 + ".png",
)
TITLE = "{{7*7}}</title><script>window.ran=11</script><h1 onclick=window.ran=12>"
RUN = 'run "><img src=x onerror=window.ran=13>'
METHOD_FILE = "<b onclick=window.ran=14>$a_b$.py"
METHOD = "def own(model, images, targets):\n    return images.mean(1)\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of such names, a run of it, and its page, all made by the commands."""
    root = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(IDS):
        path = root / "set/images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (25 * number, 100, 50)).save(path, "PNG")
    boxes = [(number, number, [1, 2, 10 + number, 20]) for number in range(len(IDS))]
    (root / "set/test.json").write_text(coco_json(IDS, boxes, CLASSES))
    (root / METHOD_FILE).write_text(METHOD)
    write_model(root)
    here = os.getcwd()
    os.chdir(root)
    try:
        assert main([*EVALUATE, "--out", RUN]) == 0
        assert main(["report", RUN, "--out", "page.html", "--title", TITLE]) == 0
    finally:
        os.chdir(here)
    return root


EVALUATE = (
    "evaluate",
    "-m",
    "mine.py:blobs",
    "-d",
    "set",
    "--size",
    "32",
    "--thresholds",
    "50",
    "--device",
    "cpu",
)
EVALUATE = (*EVALUATE, "--method", "cam", f"{METHOD_FILE}:own")


@pytest.fixture
def view(root, tmp_path):
    with opened(root / "page.html", tmp_path / "profile", viewport={"width": 1100, "height": 900}) as (
        shown,
        messages,
    ):
        dialogs = []
        shown.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        yield shown
        assert shown.evaluate("window.ran") is None
        assert not dialogs
        assert not messages  # no error, and no request


def test_every_name_is_text(view):
    view.evaluate("document.getElementById('filters').open = true")
    assert view.locator(".card .name").evaluate_all("all => all.map(e => e.textContent)") == list(CLASSES)
    options = view.locator("#class option").evaluate_all("all => all.map(e => e.textContent)")
    assert set(CLASSES) <= {re.sub(r" \(\d+\)$", "", text) for text in options}
    assert view.title().replace("\n", " ") == TITLE
    assert view.locator("h1").text_content() == TITLE
    assert RUN in view.locator("#scores h3").first.text_content()
    assert METHOD_FILE in view.text_content("#scores tbody")
    for number, name in enumerate(IDS):
        view.locator(f".card[data-image='{number}']").click()
        assert view.text_content("#large-name") == f"{CLASSES[number]} – {name}"
        view.keyboard.press("Escape")
    view.locator("summary").last.click()
    assert METHOD_FILE in view.locator("pre").last.text_content()


def test_no_element_comes_from_a_name(view):
    view.locator(".card").first.click()
    assert view.evaluate("document.scripts.length") == 2
    assert view.evaluate("document.styleSheets.length") == 1
    assert (
        view.locator(
            "[src=x], svg[onload], iframe, object, embed, b, a[href^=javascript], base, form"
        ).count()
        == 0
    )
    attributes = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
    assert not [name for name in view.evaluate(attributes) if name.startswith("on")]
    sources = (
        "[...document.querySelectorAll('img')].map(e => e.src).filter(s => s && !s.startsWith('data:image/'))"
    )
    assert view.evaluate(sources) == []


def test_endless_names_do_not_widen_the_page(view):
    assert view.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    view.locator(".card[data-image='5']").click()
    assert view.evaluate("(d => d.scrollWidth - d.clientWidth)(document.getElementById('large'))") <= 0


def test_the_policy_holds_even_if_a_script_were_written_into_the_page(root, tmp_path):
    with opened(root / "page.html", tmp_path / "profile") as (view, messages):
        view.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            " document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
            " '<img src=x onerror=window.ran=2><img src=https://example.org/x.png>'"
            " + '<style>p{color:red}</style>'); }"
        )
        asked = view.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')")
        view.wait_for_timeout(300)
        assert view.evaluate("window.ran") is None
        assert asked == "refused"
        assert sum("Content Security Policy" in text for text in messages) >= 4


def test_nothing_reaches_the_terminal_raw(root, monkeypatch, capfd):
    monkeypatch.chdir(root)
    assert main([*EVALUATE, "--out", RUN]) == 0
    assert main(["evaluate", "--from-run", RUN]) == 0
    assert main(["compare", RUN, RUN]) == 0
    assert main(["compare", RUN, RUN, "--json"]) == 0
    assert main(["export", RUN, "--coco", "c.json"]) == 0
    assert main(["data", "check", "set", "--out", "check"]) in (0, 1)
    locate = ["locate", *(f"set/images/{name}" for name in IDS), "no such \x1b[2J.png", "-m", "mine.py:blobs"]
    assert main([*locate, "--size", "32", "--out", "found", "--device", "cpu"]) == 1
    printed = "".join(capfd.readouterr())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\u2028\u2029]", printed)
    assert len(list((root / "found").glob("*.png"))) == len(IDS)


def test_files_stay_where_they_belong_and_say_the_names(root, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["export", RUN, "--coco", "out/c.json", "--npy", "out/maps", "--overlays", "out/images"]) == 0
    assert {str(path.relative_to(root / "out/maps")) for path in (root / "out/maps").rglob("*.npy")} == {
        f"{i}.npy" for i in IDS
    }
    assert len([path for path in (root / "out/images").rglob("*") if path.is_file()]) == len(IDS)
    truth = json.loads((root / "out/c-truth.json").read_text())
    assert [category["name"] for category in truth["categories"]] == list(CLASSES)
    assert [image["file_name"] for image in truth["images"]] == list(IDS)


def evaluated(folder):
    """Exit code of `heatbox evaluate` on the folder's set; the run is in r."""
    return main(
        ["evaluate", "-m", write_model(folder), "-d", str(folder / "set"), "--out", str(folder / "r")]
    )


def test_differences_of_hostile_maps_do_not_reach_the_terminal_raw(tmp_path, capsys):
    write_split(tmp_path / "set", 4)
    assert evaluated(tmp_path) == 0
    capsys.readouterr()
    metrics = json.loads((tmp_path / "r/metrics.json").read_text().replace('"pc1"', '"pc\\u001b[2J1"'))
    assert "pc\x1b[2J1" in metrics["methods"]
    show_scores(metrics, "title", as_json=False)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert " minus cam: " in shown


@pytest.mark.parametrize("where", ["class name", "image id"])
def test_half_a_character_is_refused_in_one_sentence(tmp_path, capsys, where):
    names = ["a.png", "b\ud800.png" if where == "image id" else "b.png"]
    classes = ["cat", "dog\udfff" if where == "class name" else "dog"]
    for name in names:
        path = tmp_path / "set/images" / name.replace("\ud800", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    text = coco_json(names, [(0, 0, [1, 2, 3, 4]), (1, 1, [1, 2, 3, 4])], classes)
    (tmp_path / "set/test.json").write_text(text)
    assert evaluated(tmp_path) == 2
    assert re.search(rf"the {where} '.*' is not UTF-8 text", capsys.readouterr().err)
    assert not (tmp_path / "r").exists()


def test_a_file_name_that_is_no_text(tmp_path, capsys):
    folder = tmp_path / "set/cat"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(folder / os.fsdecode(b"gr\xfcn.png"))
    assert evaluated(tmp_path) == 2
    assert "the image id 'cat/gr\\udcfcn.png' is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["a$b", "$x_1$", "$\\frac{$", "<b>&amp;", "\x1b[2J\0", "x" * 10_000, "\ud800"]
)
def test_a_name_in_a_figure_is_no_formula(tmp_path, name):
    entry = {"MaxBoxAcc": 50.0, "MaxBoxAcc_interval": [40.0, 60.0]}
    entry |= {"MaxBoxAccV2": 40.0, "MaxBoxAccV2_interval": [30.0, 50.0]}
    models = [ModelScore(one, {"cam": entry}, one) for one in (name, "other_model")]
    figure, rows = scores_per_model(models)
    rows = [{**row, "model": "x", "family": "x"} for row in rows]
    written = save_figure((figure, rows), tmp_path / "scores")
    with Image.open(written[0]) as drawn:
        assert max(drawn.size) < 6000
    text = (tmp_path / "scores.svg").read_text()
    if name.startswith(("a$", "$")):
        assert f">{name}</text>" in text
    assert ">other_model</text>" in text


def test_titles_of_figures_are_no_formulas():
    figure = new_figure(4, 3)
    style_axes(figure.subplots(), "$a_b$", "$x", "y$")
    texts = [text for text in as_plain_text(figure).findobj() if hasattr(text, "get_parse_math")]
    assert texts
    assert not any(text.get_parse_math() for text in texts)
