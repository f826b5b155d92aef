"""The exported graphs compute what the model, the view and the CAM compute."""

import sys

import pytest
import timm
import torch

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.errors import InputError
from heatbox.maps.cam import cam
from heatbox.maps.export import ExplainedClassifier, export_onnx, export_program
from heatbox.models.introspect import ClassifierView

FAMILIES = ["test_replknet", "test_slak", "test_convnext"]


def shaken(name):
    """A model whose norms and layer scales are not at their neutral initial values."""
    model = timm.create_model(name, num_classes=7).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("gamma"):
                tensor.fill_(0.5)
            elif tensor.ndim == 1:
                tensor += 0.3 * torch.rand_like(tensor)
            elif tensor.ndim >= 2:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
    return model


@pytest.fixture(params=FAMILIES)
def model(request):
    return shaken(request.param)


def expected(model, images):
    """Logits, features and CAM, put together by hand from the pieces."""
    view = ClassifierView(model)
    with torch.no_grad():
        features, logits = view(images)
        weights, bias = view.class_weights(features, logits.argmax(1))
        heatmaps = cam(features, weights)
    torch.testing.assert_close(heatmaps.mean((1, 2)) + bias, logits.amax(1), rtol=1e-4, atol=1e-4)
    return logits, features, heatmaps


def worst(found, reference):
    return max(
        ((torch.as_tensor(a) - b).abs().max() / b.abs().max()).item()
        for a, b in zip(found, reference, strict=True)
    )


def test_exported_program_for_any_batch(model):
    program = export_program(model, 64).module()
    for batch in (1, 5):
        images = torch.randn(batch, 3, 64, 64)
        assert worst(program(images), expected(model, images)) < 1e-5


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="PyTorch 2.6's exporter cannot convert the program"
)
def test_onnx_runtime_agrees(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(model, tmp_path / "model.onnx", 64)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "features", "cam"]
    for batch in (1, 3):
        images = torch.randn(batch, 3, 64, 64)
        found = session.run(None, {"images": images.numpy()})
        assert worst(found, expected(model, images)) < 1e-4


def test_gradients_reach_the_images():
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    ExplainedClassifier(shaken("test_slak"))(images)[2].sum().backward()
    assert images.grad.abs().sum() > 0


def test_missing_extra_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'heatbox\[onnx\]'"):
        export_onnx(shaken("test_slak"), tmp_path / "model.onnx", 64)
