"""Run by test_depthwise_triton.py in a process of its own, where Triton interprets its programs."""

import json
import sys

import torch
import torch.nn.functional as F

from heatbox.ops import depthwise_triton

# (N, C, H, W), (kh, kw), dtype, bias: both forward kernels and orientations, kernels beyond the map.
CASES = [
    ((2, 1, 7, 17), (5, 31), "float32", True),
    ((33, 1, 5, 18), (3, 13), "float32", True),
    ((32, 1, 6, 6), (13, 13), "bfloat16", False),
    ((3, 1, 9, 7), (21, 5), "float16", True),
    ((40, 1, 12, 5), (17, 3), "float16", False),
    ((1, 2, 1, 17), (1, 15), "bfloat16", True),
]


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact).abs().max() / exact.abs().max())


def run(shape, kernel, dtype, bias):
    torch.manual_seed(0)
    x = torch.randn(shape).to(getattr(torch, dtype))
    grad = torch.randn(shape).to(x.dtype)
    weight = torch.randn(shape[1], 1, *kernel).to(x.dtype)
    offset = torch.randn(shape[1]).to(x.dtype) if bias else None
    wide = [None if t is None else t.double() for t in (x, weight, offset)]
    wide[1].requires_grad_()
    exact = F.conv2d(*wide, padding=(kernel[0] // 2, kernel[1] // 2), groups=shape[1])
    (exact_grad,) = torch.autograd.grad(exact, wide[1], grad.double())
    return {
        "forward": error(depthwise_triton.forward(x, weight, offset), exact.detach()),
        "weight gradient": error(depthwise_triton.weight_grad(x, grad, kernel), exact_grad),
        "fell back": sorted(depthwise_triton.warned),
    }


if __name__ == "__main__":
    json.dump([run(*case) for case in CASES], sys.stdout)
