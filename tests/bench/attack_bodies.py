"""Measures the memory that malicious clients make a server hold, relative to the bounds that its flags promise.

    cargo build --release -p latentd
    python3 tests/bench/attack_bodies.py target/release/latentd [--clients 12] [-- FLAG...]
    python3 tests/bench/attack_bodies.py target/release/latentd --pictures

For each kind of body, several clients at a time send bodies of `--mib` MiB, JSON or forms, to a new server. Its
`--max-upload-memory` is the size of all these bodies together. With --pictures, 20 async edits with a picture of
8000x8000 each (192 MB) wait behind a long one. Each line has the resident memory before (the idle server after a
first request), at its highest, and five seconds after the last answer; then the increases of the latter two over the
first, relative to the promised bound. Exits with 1 if the highest increase is more than 1.3 times the bound. Needs
Linux and only Python.
"""

import argparse
import base64
import http.client
import json
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EDITING_MODEL = ROOT / "tests/goldens/models/qwen-image-edit-plus"
MOST = 1.3
BOUNDARY = "----boundary"
MIB = 1 << 20
SMALL = {"prompt": "x", "size": "64x64", "num_inference_steps": 1}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--clients", type=int, default=2, help="that send at a time (2)")
    parser.add_argument("--mib", type=int, default=16, help="MiB of each body (16)")
    parser.add_argument("--only", default="", help="the bodies whose names have this in them")
    parser.add_argument("--pictures", action="store_true", help="send large pictures instead")
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="more for `latentd serve`, after --")
    args = parser.parse_args()
    print(f"{'':34}{'before':>10}{'highest':>10}{'after':>10}{'promised':>10}{'highest':>9}{'after':>7}  answers, slowest")
    ratios = pictures(args) if args.pictures else bodies(args)
    sys.exit(max(ratios) > MOST)


def bodies(args):
    size, promised = args.mib * MIB, args.clients * args.mib * MIB
    for name, make in BODIES.items():
        if args.only not in name:
            continue
        kind, body = make(size)
        headers = {"content-type": "application/json", **kind}
        flags = ["--max-upload-memory", promised, "--max-client-upload-memory", promised, "--body-limit", 2 * size]
        with Server(args.binary, [*flags, *args.flags]) as server:
            clients = [lambda: server.send("/v1/images/edits", body, headers)[0]] * args.clients
            yield server.line(name, promised, lambda: together(clients))


def pictures(args):
    """Large edits wait behind a long one; then all are cancelled."""
    promised = {"--memory-budget": 256 * MIB, "--max-picture-memory": 1024 * MIB, "--max-upload-memory": 64 * MIB}
    flags = [part for flag in promised.items() for part in flag]
    large = json.dumps({"prompt": "x", "images": [data_url(png(8000, 8000))], "async": True, "size": "64x64"})
    with Server(args.binary, [*flags, "--max-generated-image-size", 1024 * 1024, *args.flags]) as server:
        long = {**SMALL, "images": [data_url(png(64, 64))], "async": True, "size": "1024x1024", "num_inference_steps": 1000}
        jobs = []

        def attack():
            jobs.append(server.send("/v1/images/edits", json.dumps(long))[1])
            outcomes = []
            for _ in range(20):
                outcome, answer = server.send("/v1/images/edits", large)
                outcomes.append(outcome)
                jobs.append(answer)
            for job in jobs:
                if "id" in job:
                    server.send(f"/v1/images/jobs/{job['id']}", None, method="DELETE")
            return outcomes

        yield server.line("20 async edits of 8000x8000", sum(promised.values()), attack)


class Server:
    """A new server with a tiny model that edits. A first request makes the allocations that are not measured."""

    def __init__(self, binary, flags):
        command = [binary, "serve", EDITING_MODEL, "--host", "127.0.0.1", "--port", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.port, said = None, []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
            if "ready:" in line:
                break
        else:
            raise SystemExit("".join(said))
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def __enter__(self):
        small = {**SMALL, "images": [data_url(png(64, 64))]}
        (status, _), answer = self.send("/v1/images/edits", json.dumps(small))
        assert status == 200, answer
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def send(self, path, body, headers=None, method="POST"):
        """Sends a request. Returns its status, its seconds and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        begun = time.monotonic()
        try:
            connection.request(method, path, body, headers or {"content-type": "application/json"})
            answer = connection.getresponse()
            read = answer.read()
            return (answer.status, time.monotonic() - begun), json.loads(read)
        except OSError as err:
            return (type(err).__name__, time.monotonic() - begun), {}

    def resident(self, what="VmRSS"):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) << 10

    def line(self, name, promised, attack):
        """Prints the memory held during an attack. Returns its ratio to the promised bound."""
        before = self.resident()
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        outcomes = attack()
        time.sleep(5)
        highest, after = self.resident("VmHWM"), self.resident()
        over, kept = (highest - before) / promised, (after - before) / promised
        sizes = "".join(f"{size >> 20:>7} MB" for size in (before, highest, after, promised))
        counts = {status: sum(other == status for other, _ in outcomes) for status, _ in outcomes}
        answers = ", ".join(f"{count}x {status}" for status, count in counts.items())
        print(f"{name:34}{sizes}{over:>9.2f}{kept:>7.2f}  {answers}, {max(s for _, s in outcomes):.1f} s", flush=True)
        return over


def together(sends):
    outcomes = []
    threads = [threading.Thread(target=lambda send=send: outcomes.append(send())) for send in sends]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return outcomes


def repeated(head, unit, tail):
    """A maker of bodies: copies of `unit` between two texts."""
    return lambda size: ({}, (head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail).encode())


def unknown_keys(size):
    keys = ",".join(f'"k{i}":0' for i in range(size // 16))
    return {}, ('{"prompt":"x",' + keys + "}").encode()


def nested(size):
    return {}, ('{"prompt":"x","a":' + "[" * (size // 2) + "]" * (size // 2) + "}").encode()


def compressed(size):
    return {"content-encoding": "gzip"}, zlib.compress(repeated('{"prompt":"', "x", '"}')(size)[1], wbits=31)


def form(parts, kind="image"):
    """A maker of forms with this number of files, without a prompt."""

    def make(size):
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{kind}"; filename="a"\r\n\r\n'.encode()
        file = b"x" * (size // parts - len(head) - 16)
        body = (head + file + b"\r\n") * parts + f"--{BOUNDARY}--\r\n".encode()
        return {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}, body

    return make


BODIES = {
    "small objects in a list": repeated('{"prompt":"x","images":[', '{"":0},', "0]}"),
    "URLs in a list": repeated('{"prompt":"x","images":[', '"data:,",', "0]}"),
    "unknown keys": unknown_keys,
    "deep nesting": nested,
    "a long prompt": repeated('{"prompt":"', "word ", '"}'),
    "a long prompt in escapes": repeated('{"prompt":"', "w\\no", '"}'),
    "a long picture": repeated('{"prompt":"x","images":["data:image/png;base64,', "AAAA", '"]}'),
    "a long number": repeated('{"prompt":"x","n":1', "0", "}"),
    "gzip, a thousand times as long": compressed,
    "a form of 8 files": form(8),
    "a form of what is not known": form(1, "attachment"),
}


def png(width, height):
    """A PNG of one colour."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x40\x80\xc0" * width) * height, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def data_url(file):
    return "data:image/png;base64," + base64.b64encode(file).decode()


if __name__ == "__main__":
    main()
