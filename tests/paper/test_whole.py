"""The small scale from beginning to end, with hardly any images: that every file comes, not what it says."""

import json

import pytest
from PIL import Image

from heatbox.paper.mini import mini
from heatbox.paper.plan import make_plan
from heatbox.paper.runner import run_plan
from heatbox.paper.steps import statuses


@pytest.mark.slow
def test_the_whole_plan(tmp_path):
    plan = make_plan(mini("cpu", quick=True), tmp_path)
    said = []
    assert run_plan(plan, tmp_path, 2, said.append) == {}
    assert {status.state for status in statuses(plan, tmp_path).values()} == {"done"}
    made = [one for step in plan for one in step.artifacts]
    for one in made:
        with Image.open(one.file) as picture:
            assert min(picture.size) > 100, one.file
    page = (tmp_path / "paper.html").read_text()
    for one in made:
        assert one.title in page, one.title
    assert "not made:" not in page
    # Fig. 14: every network with its receptive field.
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "figures" / "erf-cam.parquet").to_pylist()
    names = {network.name for network in mini("cpu").networks}
    assert {row["model"] for row in rows} == {*names, "correlation"}
    said.clear()
    assert run_plan(plan, tmp_path, 2, said.append) == {}
    assert said == []
    trained = json.loads((tmp_path / "training" / "glyphs_slak" / "config.json").read_text())
    assert "glyphs_slak_pretrained" in trained["pretrained"]
