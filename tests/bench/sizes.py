"""Times the built-in model for the sizes that clients request.

    cargo build --release -p latentd
    python3 tests/bench/sizes.py

Starts `latentd serve` and requests one picture after another, like Open WebUI: a JSON body, the picture as base64.
The time is from the first byte sent to the last byte read. The table has the median and the maximum over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = ["64x64", "128x128", "192x128", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1792", "1920x1080", "2048x2048", "4096x4096"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--port", type=int, default=8198)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    command = [args.latentd, "serve", "--host", "127.0.0.1", "--port", str(args.port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(args.port)
        print("| size | median (s) | longest (s) | VAE and resizing (ms) | answer (MB) |\n|---|---|---|---|---|")
        for size in SIZES:
            rounds = [generate(args.port, size, seed) for seed in range(args.rounds)]
            took, vae, bytes_ = zip(*rounds)
            print(f"| {size} | {statistics.median(took):.2f} | {max(took):.2f} | {statistics.median(vae):.0f} | {max(bytes_) / 1e6:.2f} |")
    finally:
        server.terminate()
        server.wait()


def wait(port):
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
            return
        except OSError:
            time.sleep(0.1)


def generate(port, size, seed):
    body = {"prompt": "a fox on a green background", "size": size, "n": 1, "seed": seed, "return_timings": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/generations", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        answer = response.read()
    took = time.perf_counter() - begun
    return took, json.loads(answer)["timings"]["vae_ms"], len(answer)


if __name__ == "__main__":
    main()
