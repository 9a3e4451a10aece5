"""Times both halves of FLUX.2's VAE in diffusers and latentd, in turn, in f32, and prints the ratios.

    cargo build --release -p models --example flux2_vae
    .venv/bin/python tests/bench/compare_vae.py

The tiny VAE of the goldens, and one of klein's real widths with random weights. A ratio is latentd / diffusers: below 1
latentd is faster. Rounds alternate, figures are medians over them; run it on an idle machine, as compare_diffusers.py
says.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from compare_diffusers import ROOT, SETTLE_SECONDS, add, printed, processor

EXAMPLE = ROOT / "target/release/examples/flux2_vae"
# Name, the checkpoint (none: random weights of the class's defaults, which are the real widths), side in pixels, runs.
CASES = [
    ("tiny klein", ROOT / "tests/goldens/models/flux2-klein", 128, 20),
    ("klein", None, 256, 3),
]
ROWS = [("VAE encode", "encode_ms"), ("VAE decode", "decode_ms")]
TARGET = 0.4
# As in the example: a processor that was idle takes so long to reach its speed.
WARM_UP_SECONDS = 0.3


def main():
    args = parse_args()
    # Both sides read their thread count at start-up: torch's import, the example's main.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    print(f"{processor()}, {args.threads} threads; torch {torch.__version__}, diffusers {diffusers.__version__}")
    print("| | | diffusers (ms) | latentd (ms) | ratio | to reach |")
    print("|---|---|---|---|---|---|")
    report = {"processor": processor(), "threads": args.threads, "cases": {}}
    for name, folder, side, runs in CASES:
        if args.case in name:
            samples = compare(folder, side, runs, args.rounds)
            report["cases"][f"{name}, {side}x{side}"] = samples
            print_rows(f"{name}, {side}x{side}", samples)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--case", default="", help="only cases whose names hold this")
    parser.add_argument("--json", help="a file for every figure")
    return parser.parse_args()


def compare(folder, side, runs, rounds):
    """Milliseconds of every round by side and key."""
    from diffusers import AutoencoderKLFlux2

    samples = {"diffusers": {}, "latentd": {}}
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            folder = made
            AutoencoderKLFlux2().save_pretrained(f"{folder}/vae")
        vae = AutoencoderKLFlux2.from_pretrained(f"{folder}/vae").eval()
        for _ in range(rounds):
            add(samples["diffusers"], diffusers_times(vae, side, runs))
            time.sleep(SETTLE_SECONDS)
            add(samples["latentd"], json.loads(printed([str(EXAMPLE), str(folder), str(side), str(runs)])))
    return samples


def diffusers_times(vae, side, runs):
    """Medians over `runs`, after some to warm up."""
    import torch

    with torch.inference_mode():
        pixels = torch.randn(1, 3, side, side).clamp(-1, 1)
        latents = torch.randn(1, vae.config.latent_channels, side // 8, side // 8)
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
