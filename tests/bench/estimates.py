"""Compares a fresh server's time estimate for each size with the time that the picture then takes.

    cargo build --release -p latentd
    python3 tests/bench/estimates.py [--latentd BINARY] [--rounds 3] [--seconds 60] [MODEL ...]

Each model and round has its own server, which makes one picture of each size in a shuffled order. An estimate comes
from a request with a deadline below a millisecond, which is refused with the predicted time (`deadline_too_short`).
*Fresh* is the estimate before the server has made any picture. *Then* is the estimate just before the size's own
turn, when the server has learnt from the previous sizes. *Measured* is the server's own time from the first encoding
to the end of the decoding (`return_timings`). A size for which both estimates exceed `--seconds` is left out. Needs
only Python 3.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests/goldens/models"
MODELS = [str(GOLDENS / "qwen-image"), str(GOLDENS / "flux2-klein"), "builtin"]
SIDES = [64, 128, 256, 512, 768, 1024, 2048]
UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--calibration", action="store_true", help="print what each server measured at its start")
    args = parser.parse_args()
    print("| model | size | fresh (s) | then (s) | measured (s) | fresh / measured | then / measured |")
    print("|---|---|---|---|---|---|---|")
    for model in args.models:
        rounds = [one_round(args, model, random.Random(seed)) for seed in range(args.rounds)]
        for side in args.sides:
            figures = [figures[side] for figures in rounds if side in figures]
            if figures:
                print(line(Path(model).name, side, figures))


def line(model, side, figures):
    """A table line: medians, and the smallest and largest ratios."""
    fresh, then, took = (statistics.median(column) for column in zip(*figures))
    ratios = [spread([figure[i] / figure[2] for figure in figures]) for i in (0, 1)]
    return f"| {model} | {side}x{side} | {fresh:.3g} | {then:.3g} | {took:.3g} | {ratios[0]} | {ratios[1]} |"


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def one_round(args, model, shuffle):
    """For each side: the fresh estimate, the estimate before its turn, and the measured time, in seconds."""
    flags = ["--host", "127.0.0.1", "--port", "0", "--max-generated-image-size", str(max(args.sides) ** 2)]
    command = [args.latentd, "serve", *([] if model == "builtin" else [model]), *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = address(server, args.calibration)
        fresh = {side: estimate(url, side, args.steps) for side in args.sides}
        order, figures = list(args.sides), {}
        shuffle.shuffle(order)
        for side in order:
            then = estimate(url, side, args.steps)
            if then < args.seconds or fresh[side] < args.seconds:
                figures[side] = (fresh[side], then, measured(url, side, args.steps))
        return figures
    finally:
        server.terminate()
        server.wait(60)


def address(server, shows_calibration):
    """The server's URL, once it is ready."""
    url, lines = None, iter(server.stderr)
    for text in lines:
        if found := re.search(r"127\.0\.0\.1:\d+", text):
            url = f"http://{found[0]}"
            break
    if url is None:
        raise SystemExit("the server names no address")

    def drain():
        for text in lines:
            if shows_calibration and "worker is ready" in text:
                print(re.sub("\x1b\\[[0-9;]*m", "", text).strip())

    threading.Thread(target=drain, daemon=True).start()
    for _ in range(6000):
        try:
            urllib.request.urlopen(f"{url}/readyz").close()
            return url
        except OSError:
            time.sleep(0.01)
    raise SystemExit("the server does not become ready")


def estimate(url, side, steps):
    """The predicted time in seconds, read from the refusal of an impossible deadline."""
    status, answer = post(url, side, steps, {"x-request-timeout": "0.0001"})
    if status != 429:
        raise SystemExit(f"not refused: {status} {answer}")
    number, unit = re.search(r"([\d.]+)(ns|µs|ms|s)\b", answer["error"]["message"]).groups()
    return float(number) * UNITS[unit]


def measured(url, side, steps):
    status, answer = post(url, side, steps, {})
    if status != 200:
        raise SystemExit(f"{status} {answer}")
    timings = answer["timings"]
    return sum(timings[stage] for stage in ("text_encoder_ms", "denoise_ms", "vae_ms")) / 1e3


def post(url, side, steps, headers):
    # The prompt contains the size, so that its encoding is not cached yet.
    asked = {"size": f"{side}x{side}", "num_inference_steps": steps, "return_timings": True, "true_cfg_scale": 1}
    body = {"prompt": f"a fox, {side} pixels high"} | asked
    headers = {"content-type": "application/json"} | headers
    request = urllib.request.Request(f"{url}/v1/images/generations", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


if __name__ == "__main__":
    main()
