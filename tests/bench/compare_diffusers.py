"""Times diffusers and latentd alternately on the built-in model with the same threads, and prints the ratios.

    python3 -m venv .venv && .venv/bin/pip install -r tests/bench/requirements.txt
    cargo build --release -p latentd -p bench
    .venv/bin/python tests/bench/compare_diffusers.py [--dtype bfloat16 [--openvino]]

A ratio is latentd / diffusers; below 1 latentd is faster. Rounds alternate, so that a change of the machine's load
affects both. Figures are medians. Run it on an idle machine: torch's threads wait for each other, and if another
process takes one core, every parallel operation loses a scheduler slice.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROMPT = "a fox on a green background"
NEGATIVE_PROMPT = " "
# The measured stages, and their keys in all reports.
ROWS = [
    ("end to end", "end_to_end_ms"),
    ("DiT step", "step_ms"),
    ("VAE decode", "decode_ms"),
    ("text encoding", "encode_ms"),
    ("load", "load_ms"),
    ("one block, 3072 wide, 1024 + 128 tokens", "block_ms"),
]
# Target ratio of the end-to-end time, by peer.
TARGETS = {("diffusers", "float32"): 0.2, ("diffusers", "bfloat16"): 0.35, ("OpenVINO", "bfloat16"): 0.7}
OUR_DTYPES = {"float32": "f32", "bfloat16": "bf16"}
# Name of the block in crates/kernels/examples/kernels.rs.
BLOCK = "block 3072 (24x128), 1024+128, f32"
# Pause that lets torch's spinning threads fall asleep before latentd is timed.
SETTLE_SECONDS = 1.0


def main():
    args = parse_args()
    # Both sides read their thread count at start-up: torch when it is imported, latentd in main.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    import diffusers_side  # imports torch

    diffusers_side.set_threads(args.threads)
    peers = {"diffusers": diffusers_side}
    if args.openvino:
        import openvino_side

        peers["OpenVINO"] = openvino_side
    samples = {side: {} for side in [*peers, "latentd"]}
    for round_index in range(args.rounds):
        print(f"round {round_index + 1} of {args.rounds}", file=sys.stderr)
        for name, side in peers.items():
            add(samples[name], side.pipeline_times(args, PROMPT, NEGATIVE_PROMPT))
            time.sleep(SETTLE_SECONDS)
        add(samples["latentd"], latentd_times(args))
        if args.block:
            add(samples["diffusers"], diffusers_side.block_times())
            time.sleep(SETTLE_SECONDS)
            add(samples["latentd"], block_times())
    report = {
        "machine": {"processor": processor(), "threads": args.threads, "system": platform.system()},
        "versions": {name: version for side in peers.values() for name, version in side.versions().items()},
        "arguments": {"dtype": args.dtype, "steps": args.steps, "true_cfg_scale": args.cfg, "rounds": args.rounds, "runs": args.runs},
        "medians": {side: {key: statistics.median(values) for key, values in s.items()} for side, s in samples.items()},
        "samples": samples,
    }
    for peer in peers:
        print_table(report, peer, TARGETS.get((peer, args.dtype)))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--weights", default=str(ROOT / "crates/demo/weights"), help="a diffusers folder, for both")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0, help="true CFG scale; 1 makes one pass a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3, help="pictures a round on each side, after one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", choices=list(OUR_DTYPES), default="float32", help="of all sides' weights")
    parser.add_argument("--openvino", action="store_true", help="OpenVINO as a peer too: pip install openvino")
    parser.add_argument("--block", action="store_true", help="also one block of the real model's size, in f32")
    parser.add_argument("--json", help="a file for every figure")
    return parser.parse_args()


def latentd_times(args):
    """Runs `latentd bench` on the same pictures. Returns milliseconds by key."""
    command = [args.latentd, "bench", "--model", args.weights, "--dtype", OUR_DTYPES[args.dtype], "--device", "cpu", "--json"]
    command += ["--prompt", PROMPT, "--negative-prompt", NEGATIVE_PROMPT, "--true-cfg-scale", str(args.cfg)]
    command += ["--num-inference-steps", str(args.steps), "--runs", str(args.runs)]
    times = json.loads(printed(command + ["--height", "128", "--width", "128"]))
    return {key: value for key, value in times.items() if key.endswith("_ms")}


def block_times():
    """Times the same block in crates/kernels, whose example prints milliseconds."""
    command = ["cargo", "run", "--release", "-q", "-p", "kernels", "--example", "kernels", "--", "--sets", "fastest", BLOCK]
    lines = [line.removeprefix(BLOCK).split() for line in printed(command).splitlines() if line.startswith(BLOCK + " ")]
    return {"block_ms": float(lines[0][0])}


def printed(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    return done.stdout


def add(samples, times):
    for key, value in times.items():
        samples.setdefault(key, []).append(value)


def print_table(report, peer, target):
    machine, versions = report["machine"], report["versions"]
    print(f"{machine['processor']}, {machine['threads']} threads;", ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"| {report['arguments']['dtype']} | {peer} (ms) | latentd (ms) | ratio |")
    print("|---|---|---|---|")
    for name, key in ROWS:
        theirs, ours = (report["medians"][side].get(key) for side in (peer, "latentd"))
        if theirs is not None and ours is not None:
            goal = f" (to reach: {target})" if target and key == "end_to_end_ms" else ""
            print(f"| {name} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f}{goal} |")


def processor():
    """The processor's name as Linux reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
