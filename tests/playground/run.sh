#!/bin/sh
# Drives the playground in a real Chromium, against the built-in model and tiny models that edit.
#
#   tests/playground/run.sh                            tests target/release/latentd
#   tests/playground/run.sh path/to/latentd            tests that binary
#   tests/playground/run.sh path/to/latentd SHOTS      and writes screenshots to the folder SHOTS
#
# Chromium is taken from the PATH, or from CHROMIUM. The Python packages are installed in pinned versions under
# tests/playground/.venv. Without a browser, or without a package registry, the run is skipped with one line and
# succeeds.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
LATENTD=${1:-$here/../../target/release/latentd}
SCREENSHOTS=${2:-}
CHROMIUM=${CHROMIUM:-$(command -v chromium || true)}
[ -x "$LATENTD" ] || { echo "no program at $LATENTD: cargo build --release" >&2; exit 2; }
if [ -z "$CHROMIUM" ]; then
    echo "skipped: there is no chromium (Debian: apt install chromium)"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
[ -x "$here/.venv/bin/python" ] || python3 -m venv "$here/.venv"
if ! "$here/.venv/bin/pip" install --disable-pip-version-check -q -r "$here/requirements.txt" >"$log" 2>&1; then
    # "none" means that pip found no version at all: no registry is reachable.
    if grep -q "from versions: none" "$log"; then
        echo "skipped: no package registry is reachable"
        exit 0
    fi
    cat "$log" >&2
    exit 1
fi
export LATENTD SCREENSHOTS CHROMIUM
"$here/.venv/bin/python" -m unittest discover -s "$here" -t "$here" -p 'test_*.py'
