"""The trained weights included in the package."""

import pytest
import torch

from heatbox.data.glyphs import glyphs
from heatbox.data.transforms import Preprocess
from heatbox.models.checkpoints import read_checkpoint
from heatbox.models.factory import PRETRAINED, create_model, shipped
from heatbox.training.config import TrainConfig
from heatbox.training.recipes import get_recipe

NAMES = ("convnext_micro", "replknet_micro", "resnet10_small", "slak_micro")


def test_one_network_of_each_family_comes_trained():
    assert tuple(shipped()) == NAMES
    assert sum(file.stat().st_size for file in shipped().values()) < 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_they_know_the_glyphs(name):
    model = create_model(name, checkpoint=PRETRAINED)
    test = glyphs("test", 100)
    prepare = Preprocess.from_config(model.pretrained_cfg)
    assert prepare.size == (64, 64)
    with torch.inference_mode():
        logits = model(torch.stack([prepare(test.open_image(example)) for example in test]))
    right = logits.argmax(1) == torch.tensor([example.label for example in test])
    assert right.float().mean() > 0.5  # chance is 0.1
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_they_say_which_recipe_made_them(name):
    metadata = read_checkpoint(shipped()[name]).metadata
    recipe = get_recipe(metadata["recipe"])
    assert isinstance(recipe, TrainConfig)
    assert recipe.model == metadata["model"] == name


def test_other_classes_take_no_trained_weights(tmp_path):
    with pytest.raises(ValueError, match="classes"):
        create_model("slak_micro", num_classes=7, checkpoint=PRETRAINED)
