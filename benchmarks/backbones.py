"""Whole networks with and without `heatbox.ops.accelerate`: inference and training steps, in the same run.

    python benchmarks/backbones.py                                    # RepLKNet-31B at 224 and 384, batch 1
    python benchmarks/backbones.py --models slak_tiny convnext_base --sizes 224 --batch 8
    python benchmarks/backbones.py --compile --openvino               # with what else there is
    python benchmarks/backbones.py --device cuda --dtype bfloat16 --batch 64 --sizes 384

The variants take turns and each time is the minimum over the turns; with `--threads 1` it is processor
time. `plain` has every depthwise convolution computed by `nn.Conv2d`, `accelerated` only these swapped.
`merged` also folds BatchNorm and the parallel small kernels into the large ones where the family can;
`channels_last` also changes the layout of the network and `compiled` also runs it through `torch.compile`
with frozen weights. `--openvino` adds OpenVINO in float32, where it is installed. The bound is the network
without those convolutions: no convolution, however fast, can bring it below that. Training steps use the
fused AdamW.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
from collections.abc import Callable

import timm
import torch
from depthwise import CAPS, machine, run_capped
from timing import take_turns
from timm.utils import reparameterize_model
from torch import nn

import heatbox.models  # noqa: F401 - registers its families with timm
from heatbox.ops import DepthwiseConv2d, accelerate


def build(name: str, size: int, device: str) -> nn.Module:
    """A network of timm with nn.Conv2d for all its convolutions, randomly initialised."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000)
    for module in model.modules():
        if isinstance(module, DepthwiseConv2d):  # what the family uses by default
            module.__class__ = nn.Conv2d
    return model.to(device)


def merged(model: nn.Module) -> nn.Module:
    """The network in its inference form: BatchNorm folded and parallel kernels merged where it knows how."""
    model = copy.deepcopy(model).eval()
    fuse = getattr(model, "fuse_batch_norms", None)
    return fuse() if fuse else reparameterize_model(model)


def accelerated(model: nn.Module) -> nn.Module:
    """A copy with its depthwise convolutions swapped."""
    return accelerate(copy.deepcopy(model), verbose=False).model


def without_convolutions(model: nn.Module) -> nn.Module:
    """A copy that skips what `accelerate` swaps."""
    record = accelerate(copy.deepcopy(model), verbose=False)
    for name in record.swapped:
        record.model.set_submodule(name, nn.Identity())
    return record.model


def inference(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    model = model.eval()

    def call() -> object:
        with torch.inference_mode(), torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            return model(x)

    return call


def compiled(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    import torch._inductor.config as config

    config.freezing = True
    return inference(torch.compile(model.eval()), x, dtype)


def openvino_float32(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    program = core.compile_model(openvino.convert_model(model.eval(), example_input=x), "CPU", settings)
    data = x.numpy()
    return lambda: program(data)


def training_step(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    model = model.train()
    target = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def call() -> None:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


def variants(model: nn.Module, x: torch.Tensor, dtype: torch.dtype, args: argparse.Namespace) -> dict:
    """The inference calls to compare, by name."""
    folded = merged(model)
    laid = accelerated(folded).to(memory_format=torch.channels_last)
    x_laid = x.contiguous(memory_format=torch.channels_last)
    calls = {
        "plain": inference(model, x, dtype),
        "accelerated": inference(accelerated(model), x, dtype),
        "accelerated, merged": inference(accelerated(folded), x, dtype),
        "accelerated, merged, channels_last": inference(laid, x_laid, dtype),
    }
    if args.compile:
        calls["accelerated, merged, channels_last, compiled"] = compiled(laid, x_laid, dtype)
    if args.openvino and importlib.util.find_spec("openvino"):
        calls["OpenVINO float32, of the plain network, merged"] = openvino_float32(folded, x)
    calls["bound: without its convolutions"] = inference(without_convolutions(model), x, dtype)
    return calls


def training_variants(model: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> dict:
    """The training steps to compare, by name."""
    return {
        "plain": training_step(copy.deepcopy(model), x, dtype),
        "accelerated": training_step(accelerated(model), x, dtype),
        "bound: without its convolutions": training_step(without_convolutions(model), x, dtype),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["replknet_31b"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 384])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--skip-training", action="store_true")
    parser.add_argument("--skip-inference", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--isa", choices=CAPS, help="cap the instruction set, see depthwise.py")
    args = parser.parse_args()
    run_capped(args.isa)
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    print(f"{machine(args.device)}, {torch.get_num_threads()} threads, torch {torch.__version__}.\n")
    if args.openvino and not importlib.util.find_spec("openvino"):
        print("OpenVINO is not installed, so it is left out: pip install openvino\n")
    print("| network, pass | variant | ms | images/s | x |\n|---|---|---|---|---|")
    for name in args.models:
        for size in args.sizes:
            model = build(name, size, args.device)
            x = torch.randn(args.batch, 3, size, size, device=args.device)
            passes = {} if args.skip_inference else {"inference": variants(model, x, dtype, args)}
            if not args.skip_training:
                passes["training step"] = training_variants(model, x, dtype)
            for which, calls in passes.items():
                times = take_turns(calls, args.turns, args.device)
                for variant, ms in times.items():
                    rate, ratio = args.batch / ms * 1e3, times["plain"] / ms
                    label = f"{name} {args.batch}x{size} {args.dtype} {which}"
                    print(f"| {label} | {variant} | {ms:.0f} | {rate:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
