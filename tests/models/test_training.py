"""Training of both families: activation checkpointing, compilation, autocast."""

import pytest
import timm
import torch

import heatbox.models  # noqa: F401 - registers its families with timm

FAMILIES = ["test_replknet", "test_slak"]


def step(model, images):
    """One forward and backward pass; bytes of activations kept, logits and gradients."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(images)
    logits.square().mean().backward()
    return kept, logits, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_saves_memory_and_changes_nothing(name, golden_weights, golden_images):
    def build():
        return golden_weights(timm.create_model(name, num_classes=5, drop_path_rate=0.3)).train()

    plain, saving = build(), build()
    saving.set_grad_checkpointing()
    torch.manual_seed(1)
    kept, logits, gradients = step(plain, golden_images(64))
    torch.manual_seed(1)
    kept_saving, logits_saving, gradients_saving = step(saving, golden_images(64))
    assert kept_saving < 0.6 * kept
    torch.testing.assert_close(logits_saving, logits)
    torch.testing.assert_close(gradients_saving, gradients)
    # Running statistics must have seen the batch once, not twice.
    for (n, expected), (_, found) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=n)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_kept_graph_can_be_recomputed_again(name, golden_weights, golden_images):
    model = golden_weights(timm.create_model(name, num_classes=5))
    images = golden_images(64).requires_grad_()
    expected = [torch.autograd.grad(model(images)[:, k].sum(), images)[0] for k in (0, 1)]
    model.set_grad_checkpointing()
    logits = model(images)
    found = [torch.autograd.grad(logits[:, k].sum(), images, retain_graph=True)[0] for k in (0, 1)]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_is_recorded_as_one_graph(name, golden_weights, golden_images):
    model = golden_weights(timm.create_model(name, num_classes=5))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _, logits, gradients = step(compiled, golden_images(64))
    model.zero_grad()
    _, expected, expected_gradients = step(model, golden_images(64))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for gradient, expected_gradient in zip(gradients.values(), expected_gradients.values(), strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_checkpointing_under_compilation_updates_statistics_once(golden_weights, golden_images):
    plain, saving = (golden_weights(timm.create_model("test_replknet", num_classes=5)).train() for _ in "ab")
    saving.set_grad_checkpointing()
    step(plain, golden_images(64))
    step(torch.compile(saving, fullgraph=True, backend="aot_eager"), golden_images(64))
    torch.testing.assert_close(
        dict(saving.named_buffers()), dict(plain.named_buffers()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_compiles(name, golden_weights, golden_images):
    model = golden_weights(timm.create_model(name, num_classes=5))
    with torch.inference_mode():
        logits = torch.compile(model, fullgraph=True)(golden_images(64))
        torch.testing.assert_close(logits, model(golden_images(64)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_trains_under_bfloat16_autocast(name, golden_images):
    model = timm.create_model(name, num_classes=5).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(golden_images(64)).float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_drop_path_grows_with_depth(name):
    model = timm.create_model(name, drop_path_rate=0.4)
    rates = [module.drop_prob for module in model.modules() if hasattr(module, "drop_prob")]
    assert rates == sorted(rates)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0.4)
