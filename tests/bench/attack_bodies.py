"""What bodies that mean harm make a served model hold: the resident memory before and at its highest.

    python3 tests/bench/attack_bodies.py target/release/latentd [-- FLAG...]

Each body has 16 MiB and is sent by two clients at a time to a server of its own with `--max-upload-memory 32MiB`, so
that both together are what the flag allows. Needs Linux and nothing but Python.
"""

import http.client
import re
import subprocess
import sys
import threading
import time
import zlib

SIZE = 16 << 20
CLIENTS = 2
PROMISED = CLIENTS * SIZE

binary, more = sys.argv[1], sys.argv[3:]


def repeated(head, unit, tail):
    return (head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail).encode()


def unknown_keys():
    keys = ",".join(f'"k{i}":0' for i in range(1_000_000))
    return ('{"prompt":"x",' + keys + "}").encode()


BODIES = {
    "small objects in a list": lambda: repeated('{"prompt":"x","images":[', '{"":0},', "0]}"),
    "URLs in a list": lambda: repeated('{"prompt":"x","images":[', '"data:,",', "0]}"),
    "a million unknown keys": unknown_keys,
    "deep nesting": lambda: ('{"prompt":"x","a":' + "[" * (SIZE // 2) + "]" * (SIZE // 2) + "}").encode(),
    "a long prompt": lambda: repeated('{"prompt":"', "word ", '"}'),
    "a long prompt in escapes": lambda: repeated('{"prompt":"', "w\\no", '"}'),
    "a long picture": lambda: repeated('{"prompt":"x","images":["data:image/png;base64,', "AAAA", '"]}'),
    "a long number": lambda: repeated('{"prompt":"x","n":1', "0", "}"),
    "gzip, a thousand times as long": lambda: zlib.compress(repeated('{"prompt":"', "x", '"}'), wbits=31),
}


def memory(pid, what):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(rf"{what}:\s+(\d+) kB", status.read())[1]) << 10


def start():
    command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", "--max-upload-memory", str(PROMISED), *more]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in server.stdout:
        if found := re.search(r"127\.0\.0\.1:(\d+)", line):
            threading.Thread(target=server.stdout.read, daemon=True).start()
            return server, int(found[1])
    raise SystemExit("the server named no address")


def send(port, body, headers, path, outcomes):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    begun = time.monotonic()
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        outcomes.append((answer.status, time.monotonic() - begun))
    except OSError as err:
        outcomes.append((type(err).__name__, time.monotonic() - begun))


print(f"{'body':34}{'before':>10}{'highest':>10}{'over what is promised':>24}  answers, slowest")
for name, make in BODIES.items():
    body = make()
    headers = {"content-encoding": "gzip"} if "gzip" in name else {}
    server, port = start()
    try:
        time.sleep(2)
        # What a first request makes is no part of it.
        send(port, b'{"prompt":"x","num_inference_steps":1}', {}, "/v1/images/generations", [])
        before = memory(server.pid, "VmRSS")
        with open(f"/proc/{server.pid}/clear_refs", "w") as highest:
            highest.write("5")
        outcomes = []
        clients = [
            threading.Thread(target=send, args=(port, body, headers, "/v1/images/edits", outcomes)) for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        highest = memory(server.pid, "VmHWM")
        counts = {status: sum(other == status for other, _ in outcomes) for status, _ in outcomes}
        answers = ", ".join(f"{count}x {status}" for status, count in counts.items())
        print(
            f"{name:34}{before >> 20:>7} MB{highest >> 20:>7} MB{(highest - before) / PROMISED:>24.2f}  "
            f"{answers}, {max(seconds for _, seconds in outcomes):.1f} s",
            flush=True,
        )
    finally:
        server.kill()
        server.wait()
