"""The Triton programs: interpreted results against float64, and compiled for compute capability 9.0.

Neither needs a GPU; the tests marked gpu do.
"""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from heatbox.ops import depthwise_conv2d, depthwise_triton

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
needs_triton = pytest.mark.skipif(bool(depthwise_triton.MISSING), reason=depthwise_triton.MISSING)


def other_process(code_or_path, **environment):
    command = [
        sys.executable,
        *([str(code_or_path)] if isinstance(code_or_path, Path) else ["-c", code_or_path]),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_triton
def test_interpreted_programs_are_right():
    from helpers.triton_cases import CASES

    results = json.loads(other_process(HELPERS / "triton_cases.py", TRITON_INTERPRET="1"))
    assert len(results) == len(CASES)
    for case, result in zip(CASES, results, strict=True):
        assert result["fell back"] == [], case
        assert result["forward"] <= TOLERANCE[case[2]], case
        assert result["weight gradient"] <= TOLERANCE[case[2]], case


def compiled(function, dtype, constants, tile):
    """Assembly and metadata of a program for an H100 or H200, as launched by `depthwise_triton`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = function.arg_names
    pointers = {"x", "bands", "bias", "out", "grad", "weight"}
    signature = {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*" + dtype
        else:
            signature[name] = "*fp32" if name == "partial" else "i32"
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(function, signature, {(names.index(k),): v for k, v in constants.items()}, aligned)
    return triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages},
    )


def spilled_bytes(program, folder):
    """Bytes that ptxas spills to local memory."""
    compiler = pytest.importorskip("triton.backends.nvidia.compiler")
    if not hasattr(compiler, "get_ptxas"):
        pytest.skip("this Triton names its ptxas otherwise")
    source = folder / "program.ptx"
    source.write_text(program.asm["ptx"])
    command = [compiler.get_ptxas(90).path, "-v", "--gpu-name=sm_90a", source, "-o", folder / "program.cubin"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr)]


FORWARD = {"H": 96, "W": 96, "KH": 31, "HAS_BIAS": False, "UPCAST": False}


@needs_triton
@pytest.mark.parametrize(("dtype", "precision"), [("bf16", "tf32"), ("fp32", "ieee"), ("fp32", "tf32")])
@pytest.mark.parametrize("images", [64, 1])
def test_forward_compiles_for_sm90(dtype, precision, images, tmp_path):
    from heatbox.ops import triton_kernels

    tile = depthwise_triton.forward_tiles(images, 96)[0]
    margin, wide = depthwise_triton.window(31, tile.columns)
    constants = FORWARD | {
        "MARGIN": margin,
        "WIDE": wide,
        "IMAGES": tile.images,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": depthwise_triton.DEPTH,
        "PRECISION": precision,
    }
    function = triton_kernels.forward_images if images >= 32 else triton_kernels.forward_rows
    program = compiled(function, dtype, constants, tile)
    if precision == "tf32":
        assert "wgmma.mma_async" in program.asm["ptx"]
        assert spilled_bytes(program, tmp_path) == [0]


@needs_triton
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weight_gradient_compiles_for_sm90(dtype, tmp_path):
    from heatbox.ops import triton_kernels

    tile = depthwise_triton.grad_tiles(64, 96)[0]
    margin, wide = depthwise_triton.window(31, tile.columns)
    constants = {
        "H": 96,
        "W": 96,
        "KH": 31,
        "KW": 31,
        "MARGIN": margin,
        "WIDE": 1 << (wide - 1).bit_length(),
        "TAPS": tile.rows,
        "COLUMNS": tile.columns,
        "IMAGES": tile.images,
        "KW_POW2": 32,
        "PRECISION": "tf32",
        "UPCAST": False,
    }
    program = compiled(triton_kernels.weight_grad, dtype, constants, tile)
    assert "wgmma.mma_async" in program.asm["ptx"]
    assert spilled_bytes(program, tmp_path) == [0]


def test_without_triton_everything_still_imports_and_says_so():
    code = """
import sys, warnings
sys.modules["triton"] = None
import torch
from heatbox.ops import depthwise_conv2d, depthwise_triton
x, w = torch.randn(1, 2, 9, 9), torch.randn(2, 1, 13, 13)
assert depthwise_conv2d(x, w).shape == x.shape
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not depthwise_triton.takes((64, 8, 24, 24), (27, 27), torch.bfloat16)
    assert not depthwise_triton.takes((64, 8, 12, 12), (27, 27), torch.bfloat16)
print(*(str(w.message) for w in caught), sep="\\n")
"""
    lines = other_process(code).strip().splitlines()
    assert len(lines) == 1
    assert "Triton cannot be imported" in lines[0]


def test_a_failing_compiler_means_torch_and_one_warning(monkeypatch):
    def fail(*args):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(depthwise_triton, "banded_product", fail)
    monkeypatch.setattr(depthwise_triton, "tap_sums", fail)
    monkeypatch.setattr(depthwise_triton, "warned", set())
    monkeypatch.setattr(depthwise_triton, "failed", set())
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(3, 1, 13, 13)
    expected = F.conv2d(x, weight, padding=6, groups=3)
    with pytest.warns(UserWarning, match="no such instruction"):
        torch.testing.assert_close(depthwise_triton.forward(x, weight, None), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depthwise_triton.forward(x, weight, None)
        leaf = weight.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.conv2d(x, leaf, padding=6, groups=3), leaf, x)
        torch.testing.assert_close(depthwise_triton.weight_grad(x, x, (13, 13)), grad)
    assert depthwise_triton.failed == {((2, 3, 8, 8), (13, 13), torch.float32)}
    # from now on without asking the compiler again
    assert not depthwise_triton.takes(x.shape, (13, 13), x.dtype)


def test_lack_of_memory_is_not_taken_for_a_failing_compiler(monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(depthwise_triton, "banded_product", fail)
    monkeypatch.setattr(depthwise_triton, "tap_sums", fail)
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(torch.OutOfMemoryError):
        depthwise_triton.forward(x, torch.randn(3, 1, 13, 13), None)
    with pytest.raises(torch.OutOfMemoryError):
        depthwise_triton.weight_grad(x, x, (13, 13))


def test_small_kernels_and_odd_dtypes_are_left_to_torch():
    assert not depthwise_triton.takes((64, 128, 56, 56), (7, 7), torch.bfloat16)
    assert not depthwise_triton.takes((64, 128, 56, 56), (31, 31), torch.float64)
    assert not depthwise_triton.takes((0, 128, 56, 56), (31, 31), torch.float32)


def test_the_fastest_tile_is_chosen_and_failures_passed_over(monkeypatch):
    triton = pytest.importorskip("triton")
    times = {"slow": 3.0, "fast": 1.0}

    def do_bench(call, *args, **kwargs):
        return times[call()]

    def run(tile):
        if tile == "broken":
            raise RuntimeError("out of resource")
        return tile

    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    assert depthwise_triton.fastest(["broken", "slow", "fast"], run) == "fast"
    with pytest.raises(RuntimeError, match="out of resource"):
        depthwise_triton.fastest(["broken"], run)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [(31, 31), (51, 5), (5, 51), (13, 13)])
@pytest.mark.parametrize("samples", [1, 6, 64])
def test_on_a_gpu(dtype, kernel, samples, monkeypatch):
    monkeypatch.setenv("HEATBOX_CHECK_OPS", "1")
    x = torch.randn(samples, 16, 28, 24, device="cuda", dtype=dtype, requires_grad=True)
    weight = torch.randn(16, 1, *kernel, device="cuda", dtype=dtype, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depthwise_conv2d(x, weight).square().sum().backward()
    assert x.grad.isfinite().all()
    assert weight.grad.isfinite().all()
