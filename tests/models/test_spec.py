"""What is known of a built classifier: wrappers, preprocessing, input."""

import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from heatbox.models.spec import data_config, model_name, unwrap


def small() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)


def test_containers_that_compute_the_same_are_unwrapped():
    net = small()
    nested = torch.compile(nn.DataParallel(torch.compile(net, backend="eager")), backend="eager")
    for wrapped in (net, nn.DataParallel(net), torch.compile(net, backend="eager"), nested):
        assert unwrap(wrapped) is net
        assert model_name(wrapped) == "test_resnet"
        assert data_config(wrapped) == net.pretrained_cfg
    assert type(unwrap(AveragedModel(net))) is type(net)
    own = nn.Sequential(net)
    assert unwrap(own) is own
