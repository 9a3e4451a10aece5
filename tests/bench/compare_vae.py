"""Times both halves of FLUX.2's and Qwen-Image's VAE alternately in diffusers and latentd, and prints the ratios.

    cargo build --release -p models --example vae
    .venv/bin/python tests/bench/compare_vae.py [--dtype bfloat16]

The cases are FLUX.2's tiny VAE of the goldens, and both VAEs at their real widths with random weights. A ratio is
latentd / diffusers; below 1 latentd is faster. Rounds alternate, and figures are medians over them. Run it on an idle
machine, for the reason given in compare_diffusers.py.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from compare_diffusers import ROOT, SETTLE_SECONDS, add, printed, processor

EXAMPLE = ROOT / "target/release/examples/vae"
FLUX2, QWEN = "AutoencoderKLFlux2", "AutoencoderKLQwenImage"
# Name, class, checkpoint (None: random weights with the class's defaults, which are the real widths), side in pixels,
# runs.
CASES = [
    ("tiny klein", FLUX2, ROOT / "tests/goldens/models/flux2-klein", 128, 20),
    ("klein", FLUX2, None, 256, 3),
    ("Qwen-Image", QWEN, None, 256, 3),
]
OUR_DTYPES = {"float32": "f32", "bfloat16": "bf16"}
ROWS = [("VAE encode", "encode_ms"), ("VAE decode", "decode_ms")]
TARGET = 0.4
# As in the example: time in which an idle processor reaches its full speed.
WARM_UP_SECONDS = 0.3


def main():
    args = parse_args()
    # Both sides read their thread count at start-up: torch when it is imported, the example in main.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads; torch {torch.__version__}, diffusers {diffusers.__version__}")
    print("| | | diffusers (ms) | latentd (ms) | ratio | to reach |")
    print("|---|---|---|---|---|---|")
    report = {"processor": processor(), "threads": args.threads, "cases": {}}
    for name, class_name, folder, side, runs in CASES:
        if args.case in name:
            samples = compare(class_name, folder, side, runs, args)
            report["cases"][f"{name}, {side}x{side}"] = samples
            print_rows(f"{name}, {side}x{side}", samples)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=list(OUR_DTYPES), default="float32", help="of both sides' weights")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--case", default="", help="only cases whose names hold this")
    parser.add_argument("--json", help="a file for every figure")
    return parser.parse_args()


def compare(class_name, folder, side, runs, args):
    """Milliseconds of every round, by side and key."""
    import diffusers
    import torch

    model_class = getattr(diffusers, class_name)
    samples = {"diffusers": {}, "latentd": {}}
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            folder = made
            model_class().save_pretrained(f"{folder}/vae")
        vae = model_class.from_pretrained(f"{folder}/vae").eval().to(getattr(torch, args.dtype))
        for _ in range(args.rounds):
            add(samples["diffusers"], diffusers_times(vae, side, runs))
            time.sleep(SETTLE_SECONDS)
            command = [str(EXAMPLE), str(folder), str(side), str(runs), OUR_DTYPES[args.dtype]]
            add(samples["latentd"], json.loads(printed(command)))
    return samples


def diffusers_times(vae, side, runs):
    """Medians over `runs`, after a warm-up."""
    import torch

    with torch.inference_mode():
        # Qwen-Image's VAE is for video. A picture is one frame.
        frames = [1] if hasattr(vae.config, "z_dim") else []
        channels = vae.config.z_dim if frames else vae.config.latent_channels
        pixels = torch.randn(1, 3, *frames, side, side, dtype=vae.dtype).clamp(-1, 1)
        latents = torch.randn(1, channels, *frames, side // 8, side // 8, dtype=vae.dtype)
        return {
            "encode_ms": median_ms(lambda: vae.encode(pixels).latent_dist.mode(), runs),
            "decode_ms": median_ms(lambda: vae.decode(latents).sample.clamp(-1, 1), runs),
        }


def median_ms(call, runs):
    start = time.perf_counter()
    call()
    while time.perf_counter() - start < WARM_UP_SECONDS:
        call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def print_rows(case, samples):
    for name, key in ROWS:
        theirs, ours = (statistics.median(samples[side][key]) for side in ("diffusers", "latentd"))
        print(f"| {case} | {name} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | <= {TARGET} |")


if __name__ == "__main__":
    main()
