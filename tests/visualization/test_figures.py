"""Figures return the numbers they are given, and drawing leaves no global state."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image

from heatbox.errors import InputError
from heatbox.visualization.figures import channels, erf, maps, shape_bias
from heatbox.visualization.figures.style import as_table, format_interval, new_figure, save_figure

CURVE = {"t": [0.2, 0.5], "r": [0.1, 0.4], "auc": 0.2}
FIELD = {"log": CURVE, "linear": {**CURVE, "auc": 0.1}, "images": 3}


def test_curves_return_every_point():
    figure, rows = erf.curves({"a": FIELD, "b": FIELD})
    assert isinstance(figure, Figure)
    assert len(rows) == 2 * 2 * 2
    assert {"model": "b", "scale": "linear", "t": 0.5, "area_ratio": 0.4, "auc": 0.1, "images": 3} in rows
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a: AUC 0.200 (n = 3)", "b: AUC 0.200 (n = 3)"]


def test_a_group_without_images_is_left_out():
    _, rows = erf.groups({"a": {"shape": FIELD}}, "clock")
    assert {row["decided_by"] for row in rows} == {"shape"}


def test_categories_without_groups_are_left_out():
    groups = {"clock": {"shape": FIELD}, "dog": {}}
    found = erf.groups_by_category({"a": {"groups": groups}, "b": {"groups": {"clock": {}}}, "c": {}})
    assert list(found) == ["clock"]
    assert {row["model"] for row in found["clock"][1]} == {"a"}


def test_undecided_categories_are_not_drawn_but_listed():
    one = {"shape": 0, "texture": 0, "other": 4}
    category = {"bias": None, "interval": [None, None], **one}
    numbers = {"overall": 0.25, "interval": [0.1, 0.4], "images": 8, "decided": 4}
    figure, rows = shape_bias.shape_bias(
        {"a": {**numbers, "categories": {"cat": category}}}, {"humans": 0.959}
    )
    assert [row["shape_bias"] for row in rows] == [None, 0.25, 0.959]
    assert any("humans 0.959" in text.get_text() for text in figure.axes[0].texts)


def test_density_counts_all_points_and_takes_their_quartiles():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 50, 5000) / 49, rng.normal(size=5000)
    found = channels.density(x, y)
    assert 0.99 * 5000 < found["counts"].sum() <= 5000
    # Shares of 49 pixels lie in the middle of a cell each, not on its edges.
    assert len(found["x_edges"]) == 51
    for cell in range(50):
        inside = y[np.isclose(x, cell / 49)]
        assert found["quartiles"][cell] == pytest.approx(np.quantile(inside, [0.25, 0.5, 0.75]))


def test_density_of_values_without_a_lattice():
    x = np.random.default_rng(0).random(5000)
    found = channels.density(x, -x, bins=10)
    assert found["counts"].shape == (10, 10)
    assert np.trace(found["counts"][:, ::-1]) > 0.9 * 5000


def test_threshold_curves_mark_the_chosen_point():
    curve = {
        "thresholds": [0.0, 0.5],
        "score": [10.0, 80.0],
        "score_v2": [5.0, 60.0],
        "best": 0.5,
        "images": 9,
    }
    figure, rows = maps.threshold_curves({"cam": {"a": curve}})
    assert [row["MaxBoxAcc"] for row in rows] == [10.0, 80.0]
    lines = figure.axes[0].get_lines()
    assert any(line.get_xydata().tolist() == [[50.0, 80.0]] for line in lines)


def test_saved_files(tmp_path):
    written = save_figure(erf.curves({"a": FIELD}), tmp_path / "deep" / "curves")
    assert [path.suffix for path in written] == [".png", ".svg", ".parquet"]
    with Image.open(written[0]) as image:
        assert min(image.size) > 300
    assert "AUC 0.200" in written[1].read_text()  # text stays text
    assert pq.read_table(written[2]).to_pylist() == erf.curves({"a": FIELD})[1]
    first = written[1].read_bytes()
    save_figure(erf.curves({"a": FIELD}), tmp_path / "deep" / "curves")
    assert written[1].read_bytes() == first


def test_tables_and_intervals():
    assert as_table([{"a": 1}, {"b": 2.0}]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": 2.0}]
    assert format_interval(0.5, (0.25, 0.75)) == "0.50 [0.25, 0.75]"
    assert format_interval(0.5, (None, 0.75)) == "0.50"


def test_matplotlib_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'heatbox\[analysis\]'"):
        new_figure(1, 1)
