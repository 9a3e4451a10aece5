#!/usr/bin/env bash
# Checks docker/ and deploy/ with every available tool, and reports which checks were skipped and why.
#
#   tests/deploy/run.sh [--install] [path/to/latentd]
#
# --install first installs buildah, debootstrap and Prometheus with Debian's package manager. Python's tools are
# installed in pinned versions in tests/deploy/.venv. kubectl (with kustomize 5) must be present. The image takes
# minutes, the rest seconds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
install=
if [ "${1:-}" = --install ]; then install=yes && shift; fi
LATENTD=$(realpath "${1:-$here/../../target/release/latentd}")
export LATENTD
cd "$here/../.."
[ -x "$LATENTD" ] || { echo "no program at $LATENTD: cargo build --release" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

# check NAME "TOOL..." COMMAND...: runs the command if the tools are present. Status 77 means that it skipped itself.
check() {
    local name=$1 tools=$2 tool
    shift 2
    for tool in $tools; do
        if ! command -v "$tool" >/dev/null; then
            skipped=$((skipped + 1))
            printf 'skipped  %s: there is no %s\n' "$name" "$tool"
            return
        fi
    done
    local status=0
    "$@" >"$work/log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        passed=$((passed + 1))
        printf 'ok       %s\n' "$name"
    elif [ "$status" -eq 77 ]; then
        skipped=$((skipped + 1))
        printf 'skipped  %s: %s\n' "$name" "$(tail -n 1 "$work/log")"
    else
        failed=$((failed + 1))
        printf 'FAILED   %s\n' "$name"
        sed 's/^/         /' "$work/log"
    fi
}

install_tools() {
    if [ -n "$install" ]; then
        local packages="buildah debootstrap prometheus systemd"
        # shellcheck disable=SC2086 # one word a package
        if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages; } >"$work/apt" 2>&1; then
            echo "Debian's package manager brought nothing: $(tail -n 1 "$work/apt")"
        fi
    fi
    [ -x "$here/.venv/bin/python" ] || python3 -m venv "$here/.venv"
    local pip=("$here/.venv/bin/pip" install --disable-pip-version-check -q -r "$here/requirements.txt")
    if ! "${pip[@]}" >"$work/pip" 2>&1; then
        # "none" means that pip found no version at all: no registry is reachable.
        grep -q "from versions: none" "$work/pip" || { cat "$work/pip" >&2; exit 1; }
        echo "no package registry is reachable: Python's tools are as they were"
    fi
    PATH=$here/.venv/bin:$PATH
}

# Whether kubectl's kustomize supports components and labels. Older versions (Debian's) do not.
kustomize5() { kubectl version --client 2>/dev/null | grep -q 'Kustomize Version: v5'; }

schemas() {
    local overlay
    for overlay in base overlays/gpu overlays/single; do
        kubectl kustomize "deploy/kubernetes/$overlay" >"$work/manifests.yaml"
        kubernetes-validate --strict "$work/manifests.yaml" | tee "$work/validated"
        # The kind ServiceMonitor has no schema there. test_manifests.py checks it.
        ! grep WARN "$work/validated" | grep -v 'kind ServiceMonitor ' || return 1
    done
}

# Runs a check on the unit, with a path that exists here, first without and then with the drop-in.
systemd() {
    local folder=$work/system
    mkdir -p "$folder/latentd.service.d"
    sed "s#/usr/local/bin/latentd#$LATENTD#" deploy/systemd/latentd.service >"$folder/latentd.service"
    "$@" "$folder/latentd.service"
    cp deploy/systemd/gpu.conf "$folder/latentd.service.d/"
    "$@" "$folder/latentd.service"
}
# `systemd-analyze verify` always succeeds, so any output counts as a failure.
no_complaint() { [ -z "$(systemd-analyze verify "$1" 2>&1 | tee /dev/stderr)" ]; }
# Exposure in tenths: a typical service has 96, this one 12, with a GPU 15.
confined() { systemd-analyze security --no-pager --offline=true --threshold="$1" "$2"; }

mapfile -t yaml < <(find docker deploy -name '*.yaml' -o -name '*.yml')
install_tools
check "YAML" yamllint yamllint --strict -c "$here/yamllint.yaml" "${yaml[@]}"
check "shell scripts" shellcheck shellcheck "$here"/*.sh tests/cuda/*.sh tests/cuda/emulator/*.sh
check "Dockerfiles" hadolint hadolint docker/Dockerfile docker/Dockerfile.cuda
check "compose.yaml against its schema" check-jsonschema \
    check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
check "systemd unit: verify" systemd-analyze systemd no_complaint
check "systemd unit: security" systemd-analyze systemd confined 20
check "Prometheus: configuration and rules" promtool promtool check config deploy/prometheus/prometheus.yml
check "Prometheus: alerts fire when they should" promtool promtool test rules deploy/prometheus/alerts_test.yml
kubectl=kubectl
kustomize5 || kubectl="kubectl-with-kustomize-5"
check "Kubernetes: schemas" "$kubectl kubernetes-validate" schemas
check "what the files have in common" "$kubectl yamllint" python -m unittest discover -s "$here" -p test_manifests.py
check "dashboard and alerts on a live server" "prometheus promtool" \
    python -m unittest discover -s "$here" -p test_monitoring.py
root=
[ "$(id -u)" -eq 0 ] || root="right-of-root"
tools="$root buildah debootstrap unshare nsenter setpriv curl"
check "image: built and run" "$tools" "$here/image.sh" "$LATENTD"
check "image for GPUs: built, and run on the CPU" "$tools" "$here/image.sh" --cuda "$LATENTD"
printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
