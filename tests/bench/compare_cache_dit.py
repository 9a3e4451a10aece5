"""Compares latentd's step cache with cache-dit's (in diffusers) on the built-in model: decisions, quality, speed.

    python3 -m venv .venv && .venv/bin/pip install -r tests/bench/requirements.txt
    cargo build --release -p latentd -p bench
    .venv/bin/python tests/bench/compare_cache_dit.py

For each prompt, step count and configuration both sides make the picture from the same noise and report the decision
of each step of each branch. The comparison fails if a branch decides differently from cache-dit's, unless its diff is
within 1 % of the threshold there. It also fails if a configuration's pictures are more than 0.5 dB further from their
uncached ones than cache-dit's are from theirs. Presets exist only in latentd, so the table has them on one side only.

Files in --out: latentd.json and latentd.svg, written by `latentd bench cache`; cache_dit.*.jsonl, with one picture per
line, from which a stopped run resumes; and comparison.json.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH = Path(__file__).parent
WEIGHTS = str(ROOT / "crates/demo/weights")
# A diff this close to the threshold may fall on either side of it.
MARGIN = 0.01
# How much further from the uncached picture latentd may be than cache-dit.
TOLERANCE_DB = 0.5
# Upper bound of a picture's PSNR in a mean, as in latentd's tables.
CEILING_DB = 60.0
# Minimum PSNR between both sides' uncached pictures of a prompt. Below it the sides run different models.
SAME_MODEL_DB = 60.0


def main():
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    ours = latentd_report(args)
    theirs = cache_dit_pictures(args, ours)
    speed = cache_dit_speed(args, ours) if args.speed_prompts else {}
    comparison = {
        "versions": speed.pop("versions", None),
        "uncached_psnr": uncached_agreement(args, ours, theirs),
        "step_counts": [compare_step_count(count, theirs, speed) for count in ours["step_counts"]],
    }
    (args.out / "comparison.json").write_text(json.dumps(comparison, indent=1) + "\n")
    for count in comparison["step_counts"]:
        print_table(count)
    raise SystemExit(verdict(comparison))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--weights", default=WEIGHTS, help="a diffusers folder, for both")
    parser.add_argument("--prompts", default=str(BENCH / "cache_prompts.txt"), help="one a line")
    parser.add_argument("--configs", default=str(BENCH / "cache_configs.json"), help="a list of name and config")
    parser.add_argument("--steps", default="20,28,50", help="step counts, parted by commas")
    parser.add_argument("--cfg", type=float, default=3.0, help="true CFG scale, above 1: two branches")
    parser.add_argument("--processes", type=int, default=2, help="of diffusers, each on one thread")
    parser.add_argument("--speed-prompts", type=int, default=4, help="whose pictures diffusers times; 0 for none")
    parser.add_argument("--out", type=Path, default=ROOT / "target/cache_bench", help="a folder")
    parser.add_argument("--keep", action="store_true", help="take latentd.json as it is, if it is there")
    return parser.parse_args()


def latentd_report(args):
    """The report of `latentd bench cache`, which also writes its pictures."""
    path = args.out / "latentd.json"
    if not (args.keep and path.exists()):
        command = [args.latentd, "bench", "cache", "--dtype", "f32", "--device", "cpu"]
        # The binary contains the same weights. If it is older than the weights, the uncached pictures reveal it.
        command += [] if args.weights == WEIGHTS else ["--model", args.weights]
        command += ["--prompts", args.prompts, "--configs", args.configs, "--num-inference-steps", args.steps]
        command += ["--negative-prompt", " ", "--true-cfg-scale", str(args.cfg), "--height", "128", "--width", "128"]
        command += ["--json", str(path), "--plot", str(args.out / "latentd.svg")]
        done = subprocess.run(command + ["--images", str(args.out / "pictures")], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
        (args.out / "latentd.md").write_text(done.stdout)
    return json.loads(path.read_text())


def setting(ours):
    """The settings that all pictures share, from latentd's report."""
    width, height = map(int, ours["size"].split("x"))
    same = {key: ours[key] for key in ("negative_prompt", "true_cfg_scale", "seed")}
    return same | {"height": height, "width": width}


def cache_dit_pictures(args, ours):
    """Every picture of cache-dit, by (steps, configuration, prompt)."""
    jobs = [(args, ours, worker, args.processes) for worker in range(args.processes)]
    with fresh_processes(args.processes, threads=1) as pool:
        pool.starmap(make_pictures, jobs)
    lines = [line for worker in range(args.processes) for line in picture_file(args, worker).read_text().splitlines()]
    pictures = map(json.loads, lines)
    return {(picture["steps"], picture["name"], picture["prompt"]): picture for picture in pictures}


def picture_file(args, worker):
    return args.out / f"cache_dit.{worker}-of-{args.processes}.jsonl"


def fresh_processes(count, threads):
    """A pool of new interpreters, because torch reads its thread count when it is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    return multiprocessing.get_context("spawn").Pool(count)


def make_pictures(args, ours, worker, workers):
    """Makes the pictures of every `workers`th prompt, and writes one line for each. Existing ones are skipped."""
    import cache_dit_side as side

    path = picture_file(args, worker)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(picture["steps"], picture["name"], picture["prompt"]) for picture in done}
    pipeline = side.load(args.weights, threads=1)
    prompts = list(enumerate(ours["prompts"]))[worker::workers]
    with path.open("a") as file:
        for count in ours["step_counts"]:
            steps = count["num_inference_steps"]
            uncached = {i: side.picture(pipeline, setting(ours), prompt, i, steps)[0] for i, prompt in prompts}
            for i, pixels in uncached.items():
                save(pixels, args.out / "cache_dit_pictures" / f"{steps}-{i:02}.png")
            for configuration in count["configurations"]:
                name, keys = configuration["name"], configuration.get("config")
                missing = [(i, prompt) for i, prompt in prompts if (steps, name, i) not in done]
                if not missing or not side.expressible(keys):
                    continue
                side.enable(pipeline, keys, steps)
                for i, prompt in missing:
                    pixels, _ = side.picture(pipeline, setting(ours), prompt, i, steps)
                    picture = {"steps": steps, "name": name, "prompt": i, "threshold": side.threshold(keys)}
                    picture |= {"psnr": side.psnr(uncached[i], pixels), "ssim": side.ssim(uncached[i], pixels)}
                    print(json.dumps(picture | {"runs": side.runs(pipeline, steps)}), file=file, flush=True)
                side.disable(pipeline)
                print(f"worker {worker}: {steps} steps, {name}", file=sys.stderr, flush=True)


def save(pixels, path):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def cache_dit_speed(args, ours):
    """Median speedups of the steps, by (step count, configuration), and the versions."""
    with fresh_processes(1, threads=os.cpu_count()) as pool:
        return pool.apply(time_pictures, (args, ours))


def time_pictures(args, ours):
    import cache_dit_side as side

    pipeline = side.load(args.weights, threads=os.cpu_count())
    speedups = {"versions": side.versions()}

    def milliseconds(i, steps):
        return side.picture(pipeline, setting(ours), ours["prompts"][i], i, steps)[1]

    milliseconds(0, ours["step_counts"][0]["num_inference_steps"])
    for count in ours["step_counts"]:
        steps, ratios = count["num_inference_steps"], {}
        for i in range(min(args.speed_prompts, len(ours["prompts"]))):
            # As in latentd's rounds, all pictures of a prompt are timed under the same conditions.
            uncached = milliseconds(i, steps)
            for configuration in count["configurations"]:
                if side.expressible(configuration.get("config")):
                    side.enable(pipeline, configuration["config"], steps)
                    ratios.setdefault(configuration["name"], []).append(uncached / milliseconds(i, steps))
                    side.disable(pipeline)
        speedups |= {(steps, name): statistics.median(values) for name, values in ratios.items()}
    return speedups


def uncached_agreement(args, ours, theirs):
    """The worst PSNR between both sides' uncached pictures of each step count; None if all are equal."""
    import numpy as np
    from PIL import Image

    def worst(steps):
        pairs = []
        for i in range(len(ours["prompts"])):
            one = args.out / "pictures" / f"{steps}-steps" / "uncached" / f"{i:02}.png"
            other = args.out / "cache_dit_pictures" / f"{steps}-{i:02}.png"
            pairs.append([np.asarray(Image.open(path), dtype=np.float64) for path in (one, other)])
        error = max(np.mean((one - other) ** 2) for one, other in pairs)
        return float(10 * np.log10(255**2 / error)) if error else None

    return {count["num_inference_steps"]: worst(count["num_inference_steps"]) for count in ours["step_counts"]}


def compare_step_count(count, theirs, speed):
    """Compares the configurations of a step count."""
    steps = count["num_inference_steps"]
    rows = []
    for configuration in count["configurations"]:
        name, pictures = configuration["name"], configuration["pictures"]
        row = {"name": name, "latentd": {key: configuration[key] for key in ("computed", "psnr", "ssim", "speedup")}}
        others = [theirs.get((steps, name, i)) for i in range(len(pictures))]
        if all(others):
            row["cache_dit"] = summary(others) | {"speedup": speed.get((steps, name))}
            row["differences"] = [
                {"prompt": i, **found}
                for i, (one, other) in enumerate(zip(pictures, others))
                if (found := difference(one["runs"], other["runs"], other["threshold"]))
            ]
        rows.append(row)
    return {"num_inference_steps": steps, "prompts": len(count["uncached_ms"]), "configurations": rows}


def summary(pictures):
    """The figures of latentd's table for cache-dit's pictures."""
    steps = [step for picture in pictures for run in picture["runs"] for step in run["decisions"]]
    decibels = [picture["psnr"] for picture in pictures]
    differs = any(value is not None for value in decibels)
    mean = statistics.mean(CEILING_DB if value is None else min(value, CEILING_DB) for value in decibels)
    return {
        "computed": steps.count("1") / len(steps),
        "psnr": mean if differs else None,
        "ssim": statistics.mean(picture["ssim"] for picture in pictures),
    }


def difference(ours, theirs, threshold):
    """The first step at which a branch decides differently on the two sides, or None.

    It is `explained` if the diffs of all differing branches there are within the margin on both sides. Afterwards the
    two sides make different pictures, so later steps cannot be compared.
    """
    pairs = list(zip(ours, theirs, strict=True))
    assert all(one["branch"] == other["branch"] for one, other in pairs)
    apart = [
        step
        for one, other in pairs
        for step, (a, b) in enumerate(zip(one["decisions"], other["decisions"], strict=True))
        if a != b
    ]
    if not apart:
        return None
    step = min(apart)
    differing = [(one, other) for one, other in pairs if one["decisions"][step] != other["decisions"][step]]
    diffs = [[side["diffs"][step] for side in pair] for pair in differing]
    near = lambda diff: diff is not None and abs(diff - threshold) <= MARGIN * threshold
    branches = [one["branch"] for one, _ in differing]
    return {"step": step, "branches": branches, "diffs": diffs, "explained": all(map(near, sum(diffs, [])))}


def print_table(count):
    columns = ("computed", "PSNR", "SSIM", "speedup")
    header = [f"{column} {side}" for column in columns for side in ("latentd", "cache-dit")]
    print(f"| {count['num_inference_steps']} steps |", " | ".join(header), "| other decisions |")
    print("|---" * (len(header) + 2) + "|")
    for row in count["configurations"]:
        cells = [cell(row.get(side), key.lower()) for key in columns for side in ("latentd", "cache_dit")]
        found = row.get("differences")
        explained = sum(difference["explained"] for difference in found or [])
        other = "" if found is None else f"{len(found)} of {count['prompts']}"
        print(f"| {row['name']} |", " | ".join(cells), f"| {other}{f', {explained} explained' if found else ''} |")
    print()


def cell(side, key):
    if side is None:
        return "-"
    value, digits = side[key], {"computed": 3, "psnr": 2, "ssim": 4, "speedup": 2}[key]
    return f"{value:.{digits}f}" if value is not None else "identical" if key == "psnr" else "-"


def verdict(comparison):
    """Prints the findings. Returns the exit code."""
    counts = [(count, row) for count in comparison["step_counts"] for row in count["configurations"]]
    pictures = sum(count["prompts"] for count, row in counts if "cache_dit" in row)
    rows = [(count["num_inference_steps"], row) for count, row in counts if "cache_dit" in row]
    found = [(steps, row["name"], difference) for steps, row in rows for difference in row["differences"]]
    uncached = comparison["uncached_psnr"].items()
    agreement = ", ".join("identical" if psnr is None else f"{psnr:.1f}" for _, psnr in uncached)
    failures = [(steps, name, difference) for steps, name, difference in found if not difference["explained"]]
    print(f"{pictures} pictures: {len(found)} with other decisions, {len(failures)} of them unexplained")
    worse = [(steps, row["name"], behind(row)) for steps, row in rows if behind(row) > TOLERANCE_DB]
    most = max((behind(row) for _, row in rows), default=0)
    print(f"{len(worse)} of {len(rows)} rows more than {TOLERANCE_DB} dB behind cache-dit, at most {most:.3f} dB")
    print(f"worst PSNR between the two sides' uncached pictures (dB): {agreement}")
    strange = [(steps, "uncached", psnr) for steps, psnr in uncached if psnr is not None and psnr < SAME_MODEL_DB]
    for steps, name, what in failures + worse + strange:
        print(f"failed: {steps} steps, {name}: {what}")
    return 1 if failures or worse or strange else 0


def behind(row):
    """How many dB further latentd's pictures are from the uncached ones than cache-dit's."""
    one, other = (CEILING_DB if row[side]["psnr"] is None else row[side]["psnr"] for side in ("latentd", "cache_dit"))
    return other - one


if __name__ == "__main__":
    main()
