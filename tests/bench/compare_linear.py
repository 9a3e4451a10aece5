"""Times linear layers of Qwen-Image's width on one thread: latentd in f32 and int8, torch in f32 and bf16, in turn.

    cargo build --release -p kernels --example kernels
    python tests/bench/compare_linear.py --rounds 3
"""

import argparse
import os
import statistics
import subprocess
import time

import torch

# Tokens, inputs, outputs, whether a GELU follows.
SHAPES = [(1024, 3072, 3072, False), (1024, 3072, 12288, True), (1024, 12288, 3072, False)]


def ours(kernels, shape, dtype):
    tokens, k, n, gelu = shape
    name = f"linear{' + gelu' if gelu else ''} {tokens}x{k}x{n} {dtype}"
    variables = os.environ | {"RAYON_NUM_THREADS": "1", "CANDLE_NUM_THREADS": "1"}
    instructions = os.environ.get("LATENTD_CPU", "avx512")
    told = subprocess.run([kernels, "--sets", instructions, name], env=variables, capture_output=True, text=True, check=True)
    return float(told.stdout.split()[-1])


def torchs(shape, dtype):
    tokens, k, n, gelu = shape
    x, layer = torch.randn(tokens, k).to(dtype), torch.nn.Linear(k, n).to(dtype)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        y = layer(x)
        if gelu:
            y = torch.nn.functional.gelu(y, approximate="tanh")
        times.append((time.perf_counter() - start) * 1e3)
    # The first run packs the weight.
    return statistics.median(times[1:])


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default="target/release/examples/kernels")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| tokens x in x out | latentd f32 (ms) | int8 | torch f32 | bf16 | int8 / torch bf16 |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        rounds = [
            (
                ours(args.kernels, shape, "F32"),
                ours(args.kernels, shape, "int8"),
                torchs(shape, torch.float32),
                torchs(shape, torch.bfloat16),
            )
            for _ in range(args.rounds)
        ]
        times = [statistics.median(column) for column in zip(*rounds)]
        cells = " | ".join(f"{ms:.0f}" for ms in times)
        name = "x".join(str(n) for n in shape[:3]) + (" + GELU" if shape[3] else "")
        print(f"| {name} | {cells} | {times[1] / times[3]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
