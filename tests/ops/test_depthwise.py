"""depthwise_conv2d against float64 and nn.Conv2d: values, gradients, transforms, the module."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heatbox.errors import InputError
from heatbox.ops import DepthwiseConv2d, depthwise, depthwise_conv2d, depthwise_cpu, reference
from heatbox.ops.depthwise import convolution, weight_gradient

CHANNELS_LAST = torch.channels_last
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def plain(x, weight, bias=None):
    """PyTorch's own; a lone channel, whose backward can crash there (2.15, CPU), is computed twice over."""
    if len(weight) == 1:
        twice = [None if t is None else torch.cat([t, t], dim) for t, dim in ((x, 1), (weight, 0), (bias, 0))]
        return plain(*twice)[:, :1]
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, bias, padding=padding, groups=weight.shape[0])


def laid_out(x, layout):
    """The values of `x` in a memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=CHANNELS_LAST)
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "sliced":
        return F.pad(x, (1, 2, 2, 1))[:, :, 2 : 2 + x.shape[2], 1 : 1 + x.shape[3]]
    if layout == "expanded":
        return x[:, :, :, :1].expand_as(x)
    return x.contiguous()


def results(function, tensors, grad):
    """Output and gradients, in float64."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors)
    return [t.double() for t in (out.detach(), *torch.autograd.grad(out, tensors, grad.to(out.dtype)))]


def distance(result, exact):
    return float((result - exact).norm() / exact.norm()) if exact.norm() > 0 else float(result.norm())


def seeded(seed):
    return torch.Generator().manual_seed(seed)


odd = st.integers(0, 15).map(lambda i: 2 * i + 1)
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "expanded"]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(
        st.integers(0, 3), st.sampled_from([1, 2, 3, 16, 35]), st.integers(1, 18), st.integers(1, 18)
    ),
    kernel=st.tuples(odd, odd),
    layout=st.sampled_from(LAYOUTS),
    grad_layout=st.sampled_from(LAYOUTS),
    portion=st.sampled_from([1, 1 << 12, depthwise_cpu.PORTION]),
    seed=st.integers(0, 99),
)
def test_error_is_at_most_twice_that_of_torch_and_a_rounding(
    dtype, shape, kernel, layout, grad_layout, portion, seed
):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator).to(dtype)

    x, grad = laid_out(draw(*shape), layout), laid_out(draw(*shape), grad_layout)
    tensors = [x, draw(shape[1], 1, *kernel), draw(shape[1])]
    exact = results(plain, [t.double() for t in tensors], grad)
    magnitudes = results(plain, [t.double().abs() for t in tensors], grad.abs())
    torchs = results(plain, tensors, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise_cpu, "PORTION", portion)
        patch.setattr(depthwise_cpu, "LARGE", portion)
        patch.setattr(depthwise, "SMALLEST_KERNEL", 1)
        ours = results(lambda *t: convolution(*t), tensors, grad)
    for i, (mine, theirs, truth, magnitude) in enumerate(zip(ours, torchs, exact, magnitudes, strict=True)):
        assert mine.shape == truth.shape
        # a few sums that cancel depend more on the order of addition than on its precision:
        # they are measured against the sums of the magnitudes of their terms
        scale = truth.norm() if truth.numel() >= 32 else magnitude.norm()
        # an output rounded once is off by up to half of eps even where torch happens to hit it exactly
        floor = torch.finfo(dtype).eps * scale
        if i == 2 and dtype == torch.float32:
            # oneDNN adds the pixels of a map one after the other: on average within the rule on maps of this
            # size, but a few taps may miss it, and terms that repeat along the rows do
            floor = (8 if layout == grad_layout == "expanded" else 2) * floor
        assert (mine - truth).norm() <= 2 * (theirs - truth).norm() + floor


@pytest.mark.parametrize(("side", "kernel"), [(28, (27, 27)), (33, (31, 29)), (56, (31, 31)), (70, (15, 51))])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_error_of_large_weight_gradients_on_large_maps(side, kernel, layout):
    shape = (2, 4, side, side - 2)
    x, grad = (laid_out(torch.randn(shape, generator=seeded(i)), layout) for i in range(2))
    weight = torch.randn(4, 1, *kernel, generator=seeded(2))
    exact = results(plain, [x.double(), weight.double()], grad)[2]
    theirs, ours = (results(function, [x, weight], grad)[2] for function in (plain, depthwise_conv2d))
    eps = torch.finfo(torch.float32).eps
    assert distance(ours, exact) <= 2 * distance(theirs, exact) + eps


@pytest.mark.parametrize("kernel", [(31, 31), (51, 5), (5, 51), (13, 13), (5, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_several_portions_of_several_vectors(kernel, layout, monkeypatch):
    monkeypatch.setattr(depthwise_cpu, "PORTION", 1 << 15)
    monkeypatch.setattr(depthwise_cpu, "LARGE", 1 << 15)
    x, grad = (laid_out(torch.randn(3, 70, 14, 14), layout) for _ in range(2))
    tensors = [x, torch.randn(70, 1, *kernel), torch.randn(70)]
    exact = results(plain, [t.double() for t in tensors], grad)
    ours = results(depthwise_conv2d, tensors, grad)
    for mine, truth in zip(ours, exact, strict=True):
        assert distance(mine, truth) <= 1e-6


@pytest.mark.parametrize("channels", [8, 16, 24])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_bfloat16_with_few_channels_returns(channels, layout, monkeypatch):
    """oneDNN 3.13 does not: the second portion of 24 channels has 8."""
    monkeypatch.setattr(depthwise_cpu, "PORTION", 1)
    x, weight = torch.randn(1, channels, 56, 56).bfloat16(), torch.randn(channels, 1, 15, 15).bfloat16()
    exact = results(plain, [x.float(), weight.float()], x)
    ours = results(depthwise_conv2d, [laid_out(x, layout), weight], laid_out(x, layout))
    for mine, truth in zip(ours, exact, strict=True):
        assert distance(mine, truth) <= 4e-3
    with torch.no_grad():
        assert distance(depthwise_conv2d(laid_out(x, layout), weight).double(), exact[0]) <= 4e-3


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", [(5, 5), (13, 13), (17, 17)])
def test_the_output_has_the_layout_of_the_input(layout, kernel):
    x = laid_out(torch.randn(2, 16, 9, 8), layout).requires_grad_()
    weight = torch.randn(16, 1, *kernel)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            y = depthwise_conv2d(x, weight)
        assert y.stride() == x.stride()
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.stride() == x.stride()


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 3, 5), (1, 4, 1, 1), (1, 3, 5, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
def test_strides_are_those_promised_to_the_compiler(shape, memory_format):
    x, weight = torch.randn(shape).to(memory_format=memory_format), torch.randn(shape[1], 1, 7, 7)
    torch.library.opcheck(convolution, (x.requires_grad_(), weight.requires_grad_(), None))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kernel", [(3, 5), (1, 9)])
def test_gradients_of_first_and_second_order(layout, kernel):
    x = laid_out(torch.randn(2, 2, 3, 4, dtype=torch.float64), layout).requires_grad_()
    weight = torch.randn(2, 1, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(convolution, (x, weight, bias), fast_mode=True)
    grad = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weight_gradient, (x, grad, *kernel), fast_mode=True)
    assert torch.autograd.gradgradcheck(weight_gradient, (x, grad, *kernel), fast_mode=True)


def test_only_the_gradients_asked_for():
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 1, 15, 15, requires_grad=True)
    (grad,) = torch.autograd.grad(depthwise_conv2d(x, weight).sum(), weight)
    (expected,) = torch.autograd.grad(plain(x, weight).sum(), weight)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(depthwise_conv2d(x, weight.detach()).sum(), x)
    (expected,) = torch.autograd.grad(plain(x, weight.detach()).sum(), x)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel", [7, 17])
def test_compiles_without_graph_break(training, kernel):
    torch._dynamo.reset()
    layer = DepthwiseConv2d(4, 4, kernel)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 12, 12, requires_grad=training)
    with torch.set_grad_enabled(training):
        y, expected = compiled(x), plain(x, layer.weight, layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    if training:
        mine = torch.autograd.grad(y.square().sum(), (x, layer.weight))
        theirs = torch.autograd.grad(expected.square().sum(), (x, layer.weight))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


def test_exports_hold_the_standard_operator():
    exported = torch.export.export(DepthwiseConv2d(4, 4, 17).eval(), (torch.randn(1, 4, 9, 9),))
    operators = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert operators == {"aten.conv2d.default"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_traces_hold_the_standard_operator():
    traced = torch.jit.trace(DepthwiseConv2d(4, 4, 17).eval(), torch.randn(1, 4, 9, 9))
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::_convolution" in kinds
    assert not any(kind.startswith("heatbox") for kind in kinds)


@pytest.mark.parametrize("kernel", [7, 17])
def test_autocast(kernel):
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 1, kernel, kernel, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, direct = depthwise_conv2d(x, weight), convolution(x, weight, None)
        expected = plain(x, weight)
        # called inside autocast, as double backward may be: keeps the precision of what it is given
        full = weight_gradient(x, x, kernel, kernel)
    assert y.dtype == direct.dtype == expected.dtype == torch.bfloat16
    assert full.dtype == torch.float32
    torch.testing.assert_close(full, weight_gradient(x, x, kernel, kernel), rtol=0, atol=0)
    assert distance(y.detach().double(), expected.detach().double()) < 1e-2
    assert torch.autograd.grad(y.float().sum(), weight)[0].dtype == torch.float32


@pytest.mark.parametrize("dims", [(0, None, None), (None, 0, None), (1, 0, 0), (2, 3, 1), (None, None, 0)])
@pytest.mark.parametrize("kernel", [(7, 7), (5, 17)])
def test_vmap(dims, kernel):
    sizes = ([2, 3, 9, 8], [3, 1, *kernel], [3])
    arguments = [
        torch.randn(size if d is None else [*size[:d], 4, *size[d:]])
        for size, d in zip(sizes, dims, strict=True)
    ]
    mine = torch.func.vmap(lambda x, w, b: convolution(x, w, b), dims)(*arguments)
    public = torch.func.vmap(depthwise_conv2d, dims)(*arguments)
    theirs = torch.stack(
        [
            plain(*(a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=True)))
            for i in range(4)
        ]
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(public, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_per_sample_through_vmap():
    x, weight = torch.randn(4, 3, 9, 8), torch.randn(3, 1, 5, 17)

    def loss(function):
        return lambda w, sample: function(sample.unsqueeze(0), w).square().sum()

    mine, theirs = (
        torch.func.vmap(torch.func.grad(loss(function)), (None, 0))(weight, x)
        for function in (depthwise_conv2d, plain)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-2)


def test_forward_mode_is_still_there():
    x, weight = torch.randn(1, 3, 9, 8), torch.randn(3, 1, 17, 17)
    mine, theirs = (
        torch.func.jvp(lambda t, f=f: f(t, weight), (x,), (torch.ones_like(x),))[1]
        for f in (depthwise_conv2d, plain)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_channels_last_weight_does_not_change_the_route():
    """A (C, 1, kh, kw) weight can be both; torch takes its strides as a wish for channels_last."""
    x = torch.randn(1, 16, 9, 9)
    layer = DepthwiseConv2d(16, 16, 7).to(memory_format=CHANNELS_LAST)
    assert layer(x.requires_grad_()).is_contiguous()


@pytest.mark.parametrize(
    ("shape", "weight", "bias", "message"),
    [
        ((3, 9, 9), (3, 1, 5, 5), None, r"expected \(N, C, H, W\)"),
        ((1, 3, 9, 9), (4, 1, 5, 5), None, r"expected \(3, 1, kh, kw\)"),
        ((1, 3, 9, 9), (3, 1, 4, 5), None, "odd kh and kw"),
        ((1, 3, 9, 9), (3, 3, 5, 5), None, r"expected \(3, 1, kh, kw\)"),
        ((1, 3, 9, 9), (3, 1, 5, 5), (4,), r"expected \(3,\)"),
    ],
)
def test_what_does_not_fit_is_said(shape, weight, bias, message):
    with pytest.raises(InputError, match=message):
        depthwise_conv2d(torch.zeros(shape), torch.zeros(weight), None if bias is None else torch.zeros(bias))


def test_mixed_dtypes_are_refused():
    with pytest.raises(InputError, match=r"expected torch\.bfloat16"):
        depthwise_conv2d(torch.zeros(1, 3, 9, 9).bfloat16(), torch.zeros(3, 1, 5, 5))


def test_checked_results_pass_and_wrong_ones_raise(monkeypatch):
    monkeypatch.setenv("HEATBOX_CHECK_OPS", "1")
    monkeypatch.setattr(reference, "checked", set())
    x = torch.randn(1, 4, 11, 11, requires_grad=True)
    weight = torch.randn(4, 1, 17, 17, requires_grad=True)
    depthwise_conv2d(x, weight).sum().backward()
    assert {c[0] for c in reference.checked} == {"forward", "weight gradient"}
    right = depthwise_cpu.forward
    monkeypatch.setattr(depthwise_cpu, "forward", lambda *args: right(*args) * 1.01)
    depthwise_conv2d(x, weight)  # a configuration seen before is not compared again
    with pytest.raises(RuntimeError, match="differs from PyTorch's by"):
        depthwise_conv2d(x[:, :, 1:], weight)


def test_the_module_is_a_conv2d():
    ours = DepthwiseConv2d(6, 6, (5, 9))
    theirs = nn.Conv2d(6, 6, (5, 9), padding=(2, 4), groups=6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 10, 11)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]), rtol=1e-4, atol=1e-4)
    assert isinstance(ours, nn.Conv2d)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 2, "padding": 2}, "stride"),
        ({"dilation": 2}, "dilation"),
        ({"kernel_size": 4}, "odd sides"),
        ({"padding": 1}, r"padding \(1, 1\), expected \(2, 2\)"),
        ({"groups": 2}, "2 groups"),
        ({"padding_mode": "circular"}, "padding mode"),
    ],
)
def test_the_module_refuses_other_convolutions(arguments, message):
    with pytest.raises(InputError, match=message):
        DepthwiseConv2d(**{"in_channels": 4, "out_channels": 4, "kernel_size": 5} | arguments)


def test_calls_like_the_one_before_are_not_planned_again(monkeypatch):
    layer, planned, runs_native = DepthwiseConv2d(16, 16, 7), [], depthwise.runs_native
    monkeypatch.setattr(depthwise, "runs_native", lambda *call: planned.append(call) or runs_native(*call))
    x = torch.randn(1, 16, 9, 9).to(memory_format=CHANNELS_LAST)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=3, groups=16)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(layer(x), expected)
        assert len(planned) == 1
        for other in (x[:, :, :8], x.contiguous(), x.bfloat16()):
            planned.clear()
            layer.to(other.dtype)
            wanted = F.conv2d(other, layer.weight, layer.bias, padding=3, groups=16)
            torch.testing.assert_close(layer(other), wanted)
            assert planned
    layer.float()
    layer(x).sum().backward()  # with gradients the operator is planned on its own
    assert layer.weight.grad is not None


def test_under_autocast_the_plan_is_that_of_its_type(monkeypatch):
    layer, planned, runs_native = DepthwiseConv2d(16, 16, 7), [], depthwise.runs_native
    monkeypatch.setattr(
        depthwise, "runs_native", lambda *call: planned.append(call[0].dtype) or runs_native(*call)
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(1, 16, 9, 9)).dtype == torch.bfloat16
    assert {*planned} == {torch.bfloat16}
