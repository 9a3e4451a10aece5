"""Measures how long small pictures wait beside a huge one, and whether any is refused.

    cargo build --release -p latentd
    python3 tests/bench/beside.py target/release/latentd [OTHER_BINARY ...]

Each binary in turn serves a tiny checkpoint of the goldens, which draws every size natively. One request makes
1024x1024 pixels in many steps. While it runs, a request of 64x64 with a deadline of 20 seconds arrives every half
second. Needs only Python 3. Figures are medians over the rounds.
"""

import argparse
import json
import re
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/goldens/models/qwen-image"
COLUMNS = ["alone_p50", "p50", "p99", "sent", "refused", "huge"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--huge-steps", type=int, default=40)
    args = parser.parse_args()
    rounds = {binary: [] for binary in args.binary}
    for _ in range(args.rounds):
        for binary in args.binary:
            rounds[binary].append(measured(binary, args.huge_steps))
    print("| binary | " + " | ".join(COLUMNS) + " |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for binary, figures in rounds.items():
        medians = [statistics.median(figure[column] for figure in figures) for column in COLUMNS]
        print(f"| {binary} | " + " | ".join(f"{median:.3g}" for median in medians) + " |")


def measured(binary, huge_steps):
    """The figures of one round, in seconds."""
    flags = ["--host", "127.0.0.1", "--port", "0", "--max-generated-image-size", str(1024 * 1024)]
    server = subprocess.Popen([binary, "serve", MODEL, *flags], stderr=subprocess.PIPE, text=True)
    try:
        url = address(server)
        ask = lambda size, steps, seconds=None: answer(url, size, steps, seconds)  # noqa: E731
        [ask(64, 4) for _ in range(3)]
        alone = sorted(ask(64, 4)[1] for _ in range(20))
        huge, small = [], []
        big = threading.Thread(target=lambda: huge.append(ask(1024, huge_steps)))
        big.start()
        time.sleep(0.3)
        threads = []
        while big.is_alive():
            threads.append(threading.Thread(target=lambda: small.append(ask(64, 4, 20))))
            threads[-1].start()
            time.sleep(0.5)
        [thread.join() for thread in threads]
        waits = sorted(seconds for code, seconds in small if code == 200)
        return {
            "alone_p50": alone[len(alone) // 2],
            "p50": waits[len(waits) // 2] if waits else float("nan"),
            "p99": waits[min(len(waits) - 1, int(len(waits) * 0.99))] if waits else float("nan"),
            "sent": len(small),
            "refused": sum(code != 200 for code, _ in small),
            "huge": huge[0][1],
        }
    finally:
        server.terminate()
        server.wait(60)


def address(server):
    """The server's URL, once it is ready."""
    for line in server.stderr:
        if found := re.search(r"127\.0\.0\.1:\d+", line):
            url = f"http://{found[0]}"
            break
    else:
        raise SystemExit("the server named no address")
    threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health").close()
            return url
        except urllib.error.URLError:
            time.sleep(0.1)
    raise SystemExit("the server does not become ready")


def answer(url, side, steps, seconds):
    """Sends a request. Returns its status and its seconds."""
    body = {"prompt": "a cat", "size": f"{side}x{side}", "num_inference_steps": steps, "true_cfg_scale": 1}
    headers = {"content-type": "application/json"} | ({"x-request-timeout": str(seconds)} if seconds else {})
    request = urllib.request.Request(f"{url}/v1/images/generations", json.dumps(body).encode(), headers)
    begun = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=600) as response:
            response.read()
            code = response.status
    except urllib.error.HTTPError as error:
        code = error.code
    return code, time.monotonic() - begun


if __name__ == "__main__":
    main()
