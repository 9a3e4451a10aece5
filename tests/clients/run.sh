#!/bin/sh
# Runs real OpenAI clients against a served built-in model.
#
#   tests/clients/run.sh                       starts target/release/latentd
#   tests/clients/run.sh path/to/latentd       starts that binary, on a free port
#   tests/clients/run.sh http://host:8091      uses a server that runs already
#
# The clients are installed in pinned versions under tests/clients/.venv. Without a package registry the run is
# skipped with one line and succeeds.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
server=${1:-$here/../../target/release/latentd}
work=$(mktemp -d)
server_pid=

stop() {
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

install_python_clients() {
    [ -x "$here/.venv/bin/python" ] || python3 -m venv "$here/.venv"
    "$here/.venv/bin/pip" install --disable-pip-version-check -q -r "$here/requirements.txt" >"$work/pip" 2>&1 && return
    # pip found no version at all, rather than not the one asked for: there is no registry.
    if grep -q "from versions: none" "$work/pip"; then
        echo "skipped: no package registry is reachable"
        exit 0
    fi
    cat "$work/pip" >&2
    exit 1
}

# Sets base_url to the address that the server says it listens on.
start_server() {
    NO_COLOR=1 "$server" serve --host 127.0.0.1 --port 0 >"$work/server" 2>&1 &
    server_pid=$!
    for _ in $(seq 120); do
        address=$(grep -Eo '127\.0\.0\.1:[0-9]+' "$work/server" | head -n 1)
        if [ -n "$address" ]; then
            base_url=http://$address
            return
        fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "$server named no address:" >&2
    cat "$work/server" >&2
    exit 1
}

install_python_clients
case $server in
http://* | https://*) base_url=$server ;;
*) start_server ;;
esac
LATENTD_URL=$base_url "$here/.venv/bin/python" -m unittest discover -s "$here" -p 'test_*.py'
