#!/bin/sh
# Runs real clients against servers of the built-in model and of tiny models that edit, and checks /openapi.json.
#
#   tests/clients/run.sh                        starts target/release/latentd
#   tests/clients/run.sh path/to/latentd        starts that binary, on free ports
#   tests/clients/run.sh http://host:8091       uses a running server; tests that need a key, a limit,
#                                               another model or a server to stop are skipped
#   ONLY=openai,node tests/clients/run.sh       some of openai, openai2, litellm, node, contract
#
# The clients, and a Node to run some of them, are installed in pinned versions under tests/clients/.venv and
# tests/clients/node/node_modules. Needs only Python 3.10 or later. Without a package registry the run is skipped with
# one line and succeeds.
set -eu
# Stops LiteLLM from downloading a price list at its start.
export LITELLM_LOCAL_MODEL_COST_MAP=True
here=$(cd "$(dirname "$0")" && pwd)
server=${1:-$here/../../target/release/latentd}
only=,${ONLY:-openai,openai2,litellm,node,contract},
venvs=$here/.venv
work=$(mktemp -d)
pids=
failed=0

stop() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

wants() { case $only in *",$1,"*) ;; *) return 1 ;; esac }

# install_python NAME REQUIREMENTS: makes a virtual environment with exactly these packages.
install_python() {
    stamp=$venvs/$1/requirements
    cmp -s "$2" "$stamp" && return
    python3 -m venv --clear "$venvs/$1"
    if "$venvs/$1/bin/pip" install --disable-pip-version-check -q -r "$2" >"$work/pip" 2>&1; then
        cp "$2" "$stamp"
        return
    fi
    # "none" means that pip found no version at all: no registry is reachable.
    if grep -q "from versions: none" "$work/pip"; then
        echo "skipped: no package registry is reachable"
        exit 0
    fi
    cat "$work/pip" >&2
    exit 1
}

# Installs the JavaScript clients, with Node from a wheel.
install_node() {
    install_python node "$here/node/requirements.txt"
    PATH=$venvs/node/bin:$PATH
    cmp -s "$here/node/package-lock.json" "$here/node/node_modules/.installed" && return
    (cd "$here/node" && npm ci --silent --no-audit --no-fund)
    cp "$here/node/package-lock.json" "$here/node/node_modules/.installed"
}

# start_server NAME FLAG...: starts a server, and sets address to its address.
start_server() {
    log=$work/$1
    shift
    NO_COLOR=1 "$server" serve --host 127.0.0.1 --port 0 "$@" >"$log" 2>&1 &
    pid=$!
    pids="$pids $pid"
    for _ in $(seq 120); do
        address=$(grep -Eo '127\.0\.0\.1:[0-9]+' "$log" | head -n 1)
        if [ -n "$address" ]; then
            address=http://$address
            return
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
    echo "$server named no address:" >&2
    cat "$log" >&2
    exit 1
}

# suite TITLE COMMAND...: runs a suite. The next suites run even if it fails.
suite() {
    printf '\n-- %s\n' "$1"
    shift
    "$@" || failed=1
}

python_suite() {
    (cd "$here/python" && exec "$venvs/$1/bin/python" -m unittest $2)
}

node_suite() {
    (cd "$here/node" && exec npm test --silent)
}

if wants openai; then install_python openai "$here/python/openai.txt"; fi
if wants openai2; then install_python openai2 "$here/python/openai2.txt"; fi
if wants litellm; then install_python litellm "$here/python/litellm.txt"; fi
if wants contract; then install_python contract "$here/contract/requirements.txt"; fi
if wants node; then install_node; fi

case $server in
http://* | https://*) export LATENTD_URL="$server" ;;
*)
    start_server plain
    export LATENTD_URL="$address"
    # With one request per second, tests reach the limit easily and wait only briefly.
    export LATENTD_KEY=sk-tests
    start_server keyed --api-key "tests=$LATENTD_KEY" --rate-limit 60:1
    export LATENTD_KEYED_URL="$address"
    # Tiny models with random weights: one that only edits, and one that also generates.
    models=$here/../goldens/models
    start_server edits "$models/qwen-image-edit-plus"
    export LATENTD_EDITS_URL="$address"
    start_server klein "$models/flux2-klein"
    export LATENTD_KLEIN_URL="$address"
    LATENTD_BINARY=$(cd "$(dirname "$server")" && pwd)/$(basename "$server")
    export LATENTD_BINARY
    ;;
esac

openai_tests="test_openai_images test_openai_streams test_openai_edits test_openai_edit_models test_openai_keys"
if wants openai; then suite "openai-python" python_suite openai "$openai_tests"; fi
if wants openai2; then suite "openai-python 2" python_suite openai2 "$openai_tests"; fi
if wants litellm; then suite "LiteLLM" python_suite litellm test_litellm; fi
if wants node; then suite "openai-node, AI SDK" node_suite; fi
if wants contract; then suite "schemathesis" "$here/contract/run.sh" "$server" "$venvs/contract/bin/schemathesis"; fi
exit $failed
