"""Measures how long a worker continues after the client of a picture has left.

    cargo build --release -p latentd
    python3 tests/bench/cancel.py [--latentd BINARY] [--model builtin] [--sides 512 1024] [--rounds 40]

Starts `latentd serve`, requests a picture of many steps, closes the connection after 0.1 to 1 s, and polls /metrics
about every millisecond until no worker is busy. Needs only Python 3.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AFTER = (0.1, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    model = [] if args.model == "builtin" else [args.model]
    command = [args.latentd, "serve", *model, "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = listens_on(server)
        print("| size | requests | p50 (ms) | max (ms) |\n|---|---|---|---|")
        for side in args.sides:
            free = sorted(cancelled(port, side, after(i, args.rounds)) for i in range(args.rounds))
            print(f"| {side}x{side} | {len(free)} | {statistics.median(free):.1f} | {free[-1]:.1f} |")
    finally:
        server.terminate()
        server.wait(60)


def after(i, rounds):
    return AFTER[0] + (AFTER[1] - AFTER[0]) * i / max(rounds - 1, 1)


def listens_on(server):
    """The server's port, once it is ready."""
    for line in server.stderr:
        if found := re.search(r"127\.0\.0\.1:(\d+)", line):
            port = int(found[1])
            break
    else:
        raise SystemExit("the server names no address")
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    for _ in range(6000):
        try:
            if get(http.client.HTTPConnection("127.0.0.1", port), "/readyz")[0] == 200:
                return port
        except OSError:
            pass
        time.sleep(0.01)
    raise SystemExit("the server does not become ready")


def cancelled(port, side, seconds):
    """Cancels a request after `seconds`. Returns milliseconds from then until no worker is busy."""
    metrics = http.client.HTTPConnection("127.0.0.1", port)
    client = http.client.HTTPConnection("127.0.0.1", port)
    body = {"prompt": "a fox", "size": f"{side}x{side}", "num_inference_steps": 1000}
    client.request("POST", "/v1/images/generations", json.dumps(body), {"content-type": "application/json"})
    time.sleep(seconds)
    if busy(metrics) == 0:
        raise SystemExit(f"nothing runs after {seconds} s")
    left = time.monotonic()
    client.close()
    while busy(metrics) > 0:
        time.sleep(0.001)
    return (time.monotonic() - left) * 1e3


def busy(metrics):
    """Number of busy workers."""
    return float(re.search(r"^latentd_workers_busy(?:\{.*\})? (\S+)$", get(metrics, "/metrics")[1], re.M)[1])


def get(connection, path):
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


if __name__ == "__main__":
    main()
