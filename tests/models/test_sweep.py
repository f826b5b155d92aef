"""The sweep over timm, torchvision and Hugging Face: outcomes are those of tests/fixtures/sweep.csv."""

from __future__ import annotations

import re

import pytest

import heatbox
from helpers import sweep
from helpers.sweep import APPROXIMATE, EXACT, REFUSED, Case

CASES = sweep.read()
BY_ID = {case.id: case for case in CASES}

# One small model of each kind of head, for the normal tier.
FAST = (
    "further:test_resnet",
    "further:test_efficientnet",
    "further:test_convnext3",
    "further:test_mambaout",
    "further:test_vit",
    "further:test_vit_relpos",
    "timm:levit_128s",
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
    "transformers:SwinForImageClassification",
    "transformers:DeiTForImageClassificationWithTeacher",
    "transformers:SiglipForImageClassification",
    "transformers:MobileViTForImageClassification",
    "transformers:PPLCNetForImageClassification",
)

# What heatbox 0.1.0 said of whole families, and is not so.
UNTRUE = re.compile(
    "tokens \\(B, N, C\\), not from the mean"
    "|AvgPool\\w* in its head"
    "|no global average pooling"
    "|does not end in a linear layer"
    "|num_classes=0"
    "|MaxPool2d in its head"
    "|cannot be folded"
    "|not by the mean"
)
pytestmark = pytest.mark.usefixtures("one_thread")


def check(case: Case) -> None:
    found = sweep.measure(case)
    assert found.problems == []
    assert (found.outcome, found.kind, found.map) == (case.outcome, case.kind, case.map)


@pytest.mark.parametrize("name", FAST)
def test_small_models(name):
    check(BY_ID[name])


WIDE = {
    "further:test_convnext": (3, 5),
    "further:test_mambaout": (3, 5),
    "torchvision:shufflenet_v2_x0_5": (3, 5),
    "transformers:FocalNetForImageClassification": (3, 5),
    "transformers:PvtV2ForImageClassification": (3, 5),
    "transformers:DonutSwinForImageClassification": (6, 10),
}


@pytest.mark.parametrize("name", WIDE)
def test_images_that_are_not_square(name):
    """Rows are rows: 96 x 160 pixels at stride 32 or 16."""
    found = sweep.measure(BY_ID[name], size=(3, 96, 160))
    assert found.problems == []
    assert (found.outcome, found.map) == (EXACT, "x".join(map(str, WIDE[name])))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_every_model(case):
    check(case)


@pytest.mark.slow
def test_the_smallest_model_of_each_module():
    assert sweep.smallest() == [(case.family, case.model) for case in CASES if case.set == "timm"]


def test_every_module_of_timm_is_there():
    import timm

    modules = {timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    listed = {f"timm.models.{case.family}" for case in CASES if case.set == "timm"}
    assert listed == {name for name in modules if name.startswith("timm.models.")}


def test_every_class_of_transformers_is_there():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    names: set[str] = set()
    for value in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        names |= {value} if isinstance(value, str) else set(value)
    left_out = {
        "DinatForImageClassification",
        "ImageGPTForImageClassification",
        "ShieldGemma2ForImageClassification",
        "Siglip2ForImageClassification",
    }
    assert {case.model for case in CASES if case.set == "transformers"} == names - left_out


def test_numbers_of_exact_maps():
    found = sweep.counts(CASES)
    assert found["timm"].total() == 98
    assert found["timm"][EXACT] >= 85
    assert found["torchvision"].total() == 26
    assert found["torchvision"][EXACT] == 25  # and the vision transformer reads its class token
    assert found["transformers"][EXACT] >= 30
    assert all(set(number) <= {EXACT, APPROXIMATE, REFUSED} for number in found.values())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.outcome.startswith(REFUSED)], ids=lambda c: c.id
)
def test_no_refusal_says_what_is_not_true(case):
    assert not UNTRUE.search(case.outcome)


def test_approximate_maps_are_named():
    for case in CASES:
        assert bool(case.kind) == (not case.outcome.startswith(REFUSED)), case.id


def test_page_shows_the_outcomes():
    page = (sweep.ROOT / "docs/models.md").read_text()
    shown = page.split(sweep.MARKS[0])[1].split(sweep.MARKS[1])[0]
    assert shown.strip() == sweep.table(CASES).strip(), "run tests/helpers/sweep.py --write docs/models.md"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_pages_claim_what_the_sweep_shows(page):
    found = sweep.counts(CASES)["timm"]
    assert f"[{found[EXACT]} of {found.total()} model families of timm]" in (sweep.ROOT / page).read_text()


def test_public_name():
    assert "class_maps" in heatbox.__all__
