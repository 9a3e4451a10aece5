"""Times linear layers of Qwen-Image's width, or one of its blocks, on one thread.

Alternates latentd in f32, bf16 and int8, torch in f32 and bf16, and optionally OpenVINO in bf16.

    cargo build --release -p kernels --example kernels
    python tests/bench/compare_linear.py --rounds 3 [--block [--openvino]] [--processor-time]
"""

import argparse
import os
import statistics
import subprocess
import time
from functools import partial

import torch
from diffusers_side import block_and_arguments

# Tokens, input features, output features, whether a GELU follows.
SHAPES = [(1024, 3072, 3072, False), (1024, 3072, 12288, True), (1024, 12288, 3072, False)]


def ours(args, name):
    variables = os.environ | {"RAYON_NUM_THREADS": "1", "CANDLE_NUM_THREADS": "1"}
    instructions = os.environ.get("LATENTD_CPU", "fastest")
    flags = ["--sets", instructions] + ["--processor-time"] * args.processor_time
    told = subprocess.run([args.kernels, *flags, name], env=variables, capture_output=True, text=True, check=True)
    # The first of the operations whose names begin with `name`.
    return float(told.stdout.splitlines()[1].split()[-1])


def our_linear(args, shape, dtype):
    tokens, k, n, gelu = shape
    return ours(args, f"linear{' + gelu' if gelu else ''} {tokens}x{k}x{n} {dtype}")


def torchs(args, run):
    """The median of three runs, after one that packs weights."""
    now, times = time.thread_time if args.processor_time else time.perf_counter, []
    for _ in range(4):
        start = now()
        run()
        times.append((now() - start) * 1e3)
    return statistics.median(times[1:])


def torch_linear(args, shape, dtype):
    tokens, k, n, gelu = shape
    x, layer = torch.randn(tokens, k).to(dtype), torch.nn.Linear(k, n).to(dtype)
    activated = partial(torch.nn.functional.gelu, approximate="tanh") if gelu else lambda y: y
    return torchs(args, lambda: activated(layer(x)))


def torch_block(args, dtype):
    block, arguments = block_and_arguments(dtype)
    return torchs(args, lambda: block(**arguments))


def compiled_block():
    """The block, compiled by OpenVINO for one thread with bf16 products."""
    import openvino

    block, arguments = block_and_arguments(torch.float32)
    rotary = [torch.view_as_real(freqs) for freqs in arguments["image_rotary_emb"]]

    class Traced(torch.nn.Module):
        """The block with real tensors as inputs, because OpenVINO accepts no complex ones."""

        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, hidden, text, temb, image_freqs, text_freqs):
            rotary = (torch.view_as_complex(image_freqs), torch.view_as_complex(text_freqs))
            return self.block(hidden, text, None, temb, rotary)

    inputs = [arguments[name] for name in ("hidden_states", "encoder_hidden_states", "temb")] + rotary
    model = openvino.convert_model(Traced(), example_input=inputs)
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    values = [value.numpy() for value in inputs]
    return lambda: request.infer(values)


def print_row(args, name, measure):
    """Prints the medians over the rounds. `measure` times latentd and its peers once each."""
    rounds = [measure() for _ in range(args.rounds)]
    times = [statistics.median(column) for column in zip(*rounds)]
    f32, bf16, int8, torch_f32, torch_bf16, *openvino_bf16 = times
    ratios = [f32 / torch_f32, bf16 / torch_bf16, int8 / torch_bf16]
    ratios += [bf16 / theirs for theirs in openvino_bf16]
    cells = [name] + [f"{ms:.0f}" for ms in times] + [f"{ratio:.2f}" for ratio in ratios]
    print(f"| {' | '.join(cells)} |", flush=True)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default="target/release/examples/kernels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", action="store_true", help="a whole block of 1024 + 128 tokens")
    parser.add_argument("--openvino", action="store_true", help="the block in OpenVINO too: pip install openvino")
    parser.add_argument("--processor-time", action="store_true", help="of the one thread, for a machine with other work")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["ms", "f32", "bf16", "int8", "torch f32", "torch bf16", "f32 / f32", "bf16 / bf16", "int8 / bf16"]
    if args.openvino:
        columns[6:6] = ["OpenVINO bf16"]
        columns.append("bf16 / OpenVINO bf16")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    types = (torch.float32, torch.bfloat16)
    if args.block:
        names = [f"block 3072 (24x128), 1024+128, {kind}" for kind in ("f32", "bf16", "int8")]
        openvino = [compiled_block()] if args.openvino else []
        sides = lambda: (
            [ours(args, name) for name in names]
            + [torch_block(args, dtype) for dtype in types]
            + [torchs(args, run) for run in openvino]
        )
        return print_row(args, "block 3072, 1024+128", sides)
    for shape in SHAPES:
        name = "x".join(str(n) for n in shape[:3]) + (" + GELU" if shape[3] else "")
        sides = lambda: (
            [our_linear(args, shape, dtype) for dtype in ("F32", "BF16", "int8")]
            + [torch_linear(args, shape, dtype) for dtype in types]
        )
        print_row(args, name, sides)


if __name__ == "__main__":
    main()
