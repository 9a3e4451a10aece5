"""Prints what `gpu_check.sh` found as Markdown.

    python3 tests/cuda/gpu_table.py OUT

Every figure comes from the output of a part. A part that failed or was not run is marked.
"""

import json
import re
import sys
from pathlib import Path


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    print("## Machine\n")
    for line in text(out / "machine.out").splitlines():
        print(f"- {line}")
    print_checks(out)
    print_benches(out)
    print_peers(out)


def text(path):
    return path.read_text() if path.exists() else ""


def names(out, prefixes):
    """The parts that have ended, by their outputs."""
    return sorted(path.stem for path in out.glob("*.out") if path.stem.startswith(prefixes))


def state(out, name):
    if (out / f"{name}.done").exists():
        return "ok"
    code = text(out / f"{name}.failed").strip()
    return f"FAILED ({code})" if code else "not run"


def print_checks(out):
    print("\n## Checks\n\n| | | |\n|---|---|---|")
    for name in ("kernels", "parity", "pictures"):
        written = text(out / f"{name}.out")
        result = re.search(r"^test result: .*?(\d+) passed; (\d+) failed", written, re.M)
        counted = f"{result[1]} passed, {result[2]} failed" if result else ""
        print(f"| {name} | {state(out, name)} | {counted} |")
    print()
    for line in re.findall(r"parity: (.*)", text(out / "parity.out")):
        print(f"- {line}")


def json_of(out, name):
    """The result of a part, or the reason why it has none."""
    if state(out, name) != "ok":
        return None, state(out, name)
    found = json.loads(text(out / f"{name}.out").splitlines()[-1])
    return (None, f"skipped: {found['skipped']}") if "skipped" in found else (found, None)


def print_benches(out):
    print("\n## Made-up weights\n")
    print("| | computed step (ms) | TFLOP/s | outside kernels | reused step (ms) | steps | encode (ms) | decode (ms) "
          "| picture (s) | memory: weights, most (GB) |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names(out, ("qwen-", "klein-")):
        found, reason = json_of(out, name)
        if reason:
            print(f"| {name} | {reason} |" + " |" * 8)
            continue
        computed, reused = found["computed"], found["reused"]
        memory = found["memory"]
        cells = [
            f"{computed['median_ms']:.2f}",
            f"{computed['gflop'] / computed['median_ms']:.0f}",
            outside(computed),
            f"{reused['median_ms']:.2f} ({outside(reused)} outside)" if reused else "",
            f"{computed['steps']} computed" + (f", {reused['steps']} reused" if reused else ""),
            f"{found['encode_ms']:.1f}",
            f"{found['decode_ms']:.1f}",
            f"{found['picture_ms'] / 1e3:.3f}",
            f"{memory['weights_bytes'] / 1e9:.2f}, {memory['most_bytes'] / 1e9:.2f}" if memory else "",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def outside(step):
    """The share of a step's time without a kernel: lower and upper bound."""
    device = step["device"]
    if not device:
        return ""
    least, most = (100 * device[key] / step["median_ms"] for key in ("outside_ms", "outside_at_most_ms"))
    return f"{least:.1f} to {most:.1f} %"


def print_peers(out):
    print("\n## Beside PyTorch\n")
    print("| | PyTorch (ms) | latentd (ms) | latentd / PyTorch | |")
    print("|---|---|---|---|---|")
    for name in names(out, ("peer-",)):
        found, reason = json_of(out, name)
        if reason:
            print(f"| {name} | {reason} | | | |")
            continue
        compiled = "torch.compile" if found["compiled"] else "eager"
        how = f"torch {found['torch']}, {compiled}, attention by {found['attention']}, {found['rows']} row(s)"
        print(f"| {name} | {found['torch_ms']:.2f} | {found['latentd_ms']:.2f} | {found['ratio']:.3f} | {how} |")


if __name__ == "__main__":
    main()
