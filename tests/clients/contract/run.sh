#!/bin/sh
# Tests the server against its /openapi.json with schemathesis: run.sh SERVER SCHEMATHESIS. SERVER is a binary or an
# address.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
server=$1
schemathesis=$2
work=$(mktemp -d)
pid=

stop() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

case $server in
http://* | https://*) address=$server ;;
*)
    # Small pictures are enough, because only the answers are checked.
    NO_COLOR=1 "$server" serve --host 127.0.0.1 --port 0 --max-generated-image-size 16384 --max-waiting 1000 \
        --allow-request-cache-config >"$work/log" 2>&1 &
    pid=$!
    for _ in $(seq 120); do
        address=$(grep -Eo '127\.0\.0\.1:[0-9]+' "$work/log" | head -n 1)
        [ -z "$address" ] || break
        sleep 0.5
    done
    address=http://$address
    ;;
esac
for _ in $(seq 120); do
    "$(dirname "$schemathesis")/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])' \
        "$address/health" 2>/dev/null && break
    sleep 0.5
done

cd "$work"
export SCHEMATHESIS_HOOKS=checks PYTHONPATH="$here"
"$schemathesis" --config-file "$here/schemathesis.toml" run "$address/openapi.json" --url "$address" \
    --max-examples "${EXAMPLES:-500}" --seed 1
