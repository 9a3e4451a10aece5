"""Times one forward pass of FLUX.2's and Qwen-Image's transformers, alternately in diffusers and latentd.

    cargo build --release -p models --example transformer_step
    .venv/bin/python tests/bench/compare_transformers.py [--dtype bfloat16]

The cases are the tiny models of the goldens, and transformers of both families with random weights. A ratio is
latentd / diffusers; below 1 latentd is faster. Rounds alternate, and figures are medians over them. Run it on an idle
machine, for the reason given in compare_diffusers.py.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from compare_diffusers import ROOT, SETTLE_SECONDS, add, processor

EXAMPLE = ROOT / "target/release/examples/transformer_step"
TINY_KLEIN = ROOT / "tests/goldens/models/flux2-klein"
TINY_EDIT = ROOT / "tests/goldens/models/qwen-image-edit-plus"
HEADS, HEAD_DIM = 8, 128
QWEN, FLUX2 = "QwenImageTransformer2DModel", "Flux2Transformer2DModel"
# Name, class, configuration of a random checkpoint (or the path of one), rows and columns of image tokens, text tokens,
# and number of pictures to edit, each with the same number of image tokens.
CASES = [
    ("tiny klein, 64 + 64 tokens", FLUX2, TINY_KLEIN, (8, 8), 64, 0),
    ("tiny klein, an edit of two pictures, 3 x 64 + 64 tokens", FLUX2, TINY_KLEIN, (8, 8), 64, 2),
    ("tiny Qwen-Image-Edit, two pictures, 3 x 64 + 55 tokens", QWEN, TINY_EDIT, (8, 8), 55, 2),
    (
        "klein, 1024 wide, 1024 + 512 tokens",
        FLUX2,
        {"num_layers": 2, "num_single_layers": 2, "joint_attention_dim": 7680, "guidance_embeds": False},
        (32, 32),
        512,
        0,
    ),
    ("Qwen-Image, 1024 wide, 1024 + 512 tokens", QWEN, {"num_layers": 2}, (32, 32), 512, 0),
    (
        "Qwen-Image at its true width of 3072, two layers, 1024 + 128 tokens",
        QWEN,
        {"num_layers": 2, "num_attention_heads": 24},
        (32, 32),
        128,
        0,
    ),
    (
        "klein-4B at its true width of 3072, a block of each kind, 4096 + 512 tokens",
        FLUX2,
        {
            "num_layers": 1,
            "num_single_layers": 1,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
        (64, 64),
        512,
        0,
    ),
]
OUR_DTYPES = {"float32": "f32", "bfloat16": "bf16"}
# Passes of diffusers per round, after a warm-up.
PASSES = {"tiny": 200, "wide": 3}


def main():
    args = parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads; torch {torch.__version__}, diffusers {diffusers.__version__}")
    print("| | | diffusers (ms) | latentd (ms) | ratio |")
    print("|---|---|---|---|---|")
    report = {"processor": processor(), "system": platform.system(), "threads": args.threads, "cases": {}}
    for name, class_name, source, *size in CASES:
        if args.words and not any(word in name for word in args.words):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, folder = checkpoint(getattr(diffusers, class_name), source, folder)
            model = model.to(getattr(torch, args.dtype))
            samples = {"diffusers": {}, "latentd": {}}
            for _ in range(args.rounds):
                passes = PASSES["tiny" if isinstance(source, Path) else "wide"]
                add(samples["diffusers"], diffusers_times(model, size, passes))
                time.sleep(SETTLE_SECONDS)
                add(samples["latentd"], latentd_times(folder, size, args.dtype))
        report["cases"][name] = samples
        print_rows(name, samples)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="words of the cases' names; none is all cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=list(OUR_DTYPES), default="float32", help="of both sides' weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="a file for every figure")
    return parser.parse_args()


def checkpoint(model_class, source, folder):
    """The network, and the folder that both sides load it from."""
    import torch

    if isinstance(source, Path):
        return model_class.from_pretrained(source, subfolder="transformer", low_cpu_mem_usage=False).eval(), source
    torch.manual_seed(0)
    model = model_class(**{"num_attention_heads": HEADS, "attention_head_dim": HEAD_DIM, **source}).eval()
    model.save_pretrained(Path(folder) / "transformer")
    return model, folder


def diffusers_times(model, size, passes):
    """Medians over the passes: `step_ms`, and the time of a block under the name of its list."""
    import torch

    times = {}
    handles = [
        handle
        for name in ("transformer_blocks", "single_transformer_blocks")
        for block in getattr(model, name, [])
        for handle in watch(block, times, f"{name}_ms")
    ]
    arguments = {
        key: value.to(model.dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs(model, *size).items()
    }
    with torch.no_grad():
        model(**arguments)
        times.clear()
        for _ in range(passes):
            start = time.perf_counter()
            model(**arguments)
            times.setdefault("step_ms", []).append((time.perf_counter() - start) * 1e3)
    for handle in handles:
        handle.remove()
    return {key: statistics.median(values) for key, values in times.items()}


def inputs(model, grid, text_tokens, pictures):
    """The network's inputs for one prompt, one picture and the pictures to edit, as a pipeline passes them."""
    import torch

    rows, columns = grid
    arguments = {
        "hidden_states": torch.randn(1, (1 + pictures) * rows * columns, model.config.in_channels),
        "encoder_hidden_states": torch.randn(1, text_tokens, model.config.joint_attention_dim),
        "timestep": torch.tensor([0.5]),
        "return_dict": False,
    }
    if type(model).__name__ == "QwenImageTransformer2DModel":
        return {**arguments, "encoder_hidden_states_mask": None, "img_shapes": [[(1, rows, columns)] * (1 + pictures)]}
    zero = torch.zeros(1, dtype=torch.int64)
    return {
        **arguments,
        "img_ids": torch.cat([picture_ids(i, rows, columns) for i in range(1 + pictures)]),
        "txt_ids": torch.cartesian_prod(zero, zero, zero, torch.arange(text_tokens)),
    }


def picture_ids(index, rows, columns):
    """Positions of a picture's tokens. The generated picture is at time 0, the pictures to edit at 10, 20, ..."""
    import torch

    time_, layer = torch.tensor([10 * index]), torch.zeros(1, dtype=torch.int64)
    return torch.cartesian_prod(time_, torch.arange(rows), torch.arange(columns), layer)


def watch(block, times, key):
    """Registers hooks that record the time of every call of a block."""
    started = []

    def before(*_):
        started.append(time.perf_counter())

    def after(*_):
        times.setdefault(key, []).append((time.perf_counter() - started.pop()) * 1e3)

    return block.register_forward_pre_hook(before), block.register_forward_hook(after)


def latentd_times(folder, size, dtype):
    grid, text_tokens, pictures = size
    command = [str(EXAMPLE), str(folder), *map(str, (*grid, text_tokens, pictures)), OUR_DTYPES[dtype]]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def print_rows(name, samples):
    for key in samples["latentd"]:
        theirs, ours = (statistics.median(samples[side][key]) for side in ("diffusers", "latentd"))
        print(f"| {name} | {key.removesuffix('_ms')} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
