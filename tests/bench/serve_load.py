"""Measures the server under concurrent load: one client against eight, and two hundred clients for minutes.

    cargo build --release -p latentd -p bench
    python3 tests/bench/serve_load.py [--soak-seconds 300]

Starts `latentd serve` with a copy of the built-in model that has no native sizes, so that it draws the load's sizes
natively. The load is tests/bench/load.toml, sent by `latentd bench serve`. One client and eight clients alternate for
several rounds. The ratio of their throughputs, and of each request's latency to its share (eight times its latency
alone, because eight clients share the machine), are medians over the rounds. With the step cache, the reuse of the
same requests must not decrease under concurrency. The soak counts answers and failures and records the memory.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOAD = ROOT / "tests/bench/load.toml"
CLIENTS = 8


def main():
    args = parse_args()
    for cache in (["--cache-backend", "none"], ["--cache-backend", "cache_dit"]):
        with Server(args, cache) as server:
            company(args, server, " ".join(cache))
    if args.soak_seconds:
        with Server(args, ["--cache-backend", "cache_dit", "--max-waiting", "1000"]) as server:
            soak(args, server)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latentd", default=str(ROOT / "target/release/latentd"), help="the binary")
    parser.add_argument("--port", type=int, default=8197)
    parser.add_argument("--rounds", type=int, default=3, help="of one client, then eight")
    parser.add_argument("--requests", type=int, default=48, help="of each turn, the same ones in each")
    parser.add_argument("--soak-seconds", type=float, default=300, help="of two hundred clients; 0 for none")
    return parser.parse_args()


def any_size(folder):
    """Copies the built-in model into `folder`, without its native sizes. Returns the path."""
    model = shutil.copytree(ROOT / "crates/demo/weights", Path(folder) / "model")
    facts = json.loads((model / "latentd.json").read_text())
    del facts["native_sizes"]
    (model / "latentd.json").write_text(json.dumps(facts))
    return str(model)


class Server:
    """A running server."""

    def __init__(self, args, flags):
        self.url = f"http://localhost:{args.port}"
        self.folder = tempfile.TemporaryDirectory()
        command = [args.latentd, "serve", any_size(self.folder.name), "--host", "127.0.0.1", "--port", str(args.port), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        while True:
            assert self.process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"{self.url}/readyz").close()
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def resident_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


def load(args, server, *flags):
    """The figures of `latentd bench serve`. Its exit code is ignored, because its JSON counts failed requests."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [args.latentd, "bench", "serve", "--url", server.url, "--load", LOAD, "--json", file.name, *flags]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())


def company(args, server, title):
    load(args, server, "--requests", "4")
    rounds = []
    for _ in range(args.rounds):
        turns = [load(args, server, "--clients", str(n), "--requests", str(args.requests)) for n in (1, CLIENTS)]
        rounds.append(turns)
    assert not any(turn["failures"] for turns in rounds for turn in turns)
    median = lambda figure: statistics.median(figure(*turns) for turns in rounds)
    print(f"{title}, {args.requests} requests a turn, {args.rounds} rounds:")
    print(f"  pictures a second: one client {median(lambda one, _: one['throughput']):.2f}, "
          f"{CLIENTS} clients {median(lambda _, many: many['throughput']):.2f}, "
          f"ratio {median(lambda one, many: many['throughput'] / one['throughput']):.3f}")
    print(f"  pictures that stepped together: {median(lambda _, many: many['mean_batch'] or 0):.2f}")
    for kind in rounds[0][0]["by_kind"]:
        alone = median(lambda one, _: one["by_kind"][kind]["mean"])
        shares = [spread / (CLIENTS * alone) for _, many in rounds
                  for spread in [many["by_kind"][kind]["mean"], many["by_kind"][kind]["max"]]]
        print(f"  request {int(kind) + 1}: {alone:.3f} s alone; of its share in company "
              f"{statistics.median(shares[::2]):.2f} at the mean, {statistics.median(shares[1::2]):.2f} at the worst")
    if rounds[0][0]["reuse"] is not None:
        reuse = [sorted({turn["reuse"] for turn in turns}) for turns in zip(*rounds)]
        print(f"  reused: one client {reuse[0]}, {CLIENTS} clients {reuse[1]}")


def soak(args, server):
    memory = []
    process = subprocess.Popen(
        [args.latentd, "bench", "serve", "--url", server.url, "--load", LOAD, "--clients", "200", "--json",
         (file := tempfile.NamedTemporaryFile(suffix=".json")).name, "--duration-seconds", str(args.soak_seconds)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        memory.append(server.resident_mb())
        time.sleep(1)
    summary = json.loads(Path(file.name).read_text())
    answered, failed = len(summary["requests"]), summary["failures"]
    print(f"200 clients for {args.soak_seconds:.0f} s: {answered} requests answered, failures {failed or 'none'}, "
          f"{summary['throughput']:.2f} pictures a second, p99 {summary['latency']['p99']:.1f} s")
    parts = [memory[len(memory) * i // 5] for i in range(5)] + [memory[-1]]
    print(f"  resident memory over the run (MB): {', '.join(f'{value:.0f}' for value in parts)}; peak {max(memory):.0f}")


if __name__ == "__main__":
    main()
