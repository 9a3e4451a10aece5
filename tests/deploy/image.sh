#!/usr/bin/env bash
# Builds docker/Dockerfile with buildah and runs the image like Kubernetes: with its numeric user, as process 1, without
# capabilities, on a read-only root.
#
#   tests/deploy/image.sh path/to/latentd
#   tests/deploy/image.sh --from-source       compiles everything: half an hour on two cores
#   tests/deploy/image.sh --cuda path/to/latentd      docker/Dockerfile.cuda, on the CPU
#
# It needs no image registry. debootstrap makes debian:bookworm-slim from Debian's packages. rust:… is the same image
# with a `cargo` that installs the given binary, or, with --from-source, with this machine's toolchain. With --cuda,
# Debian also replaces NVIDIA's images, so the toolkit and its libraries are not tested.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dockerfile=Dockerfile features=
if [ "${1:-}" = --cuda ]; then dockerfile=Dockerfile.cuda features=' --features cuda' && shift; fi
[ $# -eq 1 ] || { sed -n '2,12s/^# \?//p' "$0"; exit 2; }
work=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

say() { printf '   %s\n' "$1"; }
die() { printf '%s\n' "$1" >&2; exit 1; }
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
quietly() { "$@" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; die "failed: $*"; }; }

# import NAME FOLDER [buildah config flags]: the folder is the image's root.
import() {
    local name=$1 folder=$2 container
    shift 2
    container=$(buildah from scratch)
    quietly buildah copy "$container" "$folder" /
    buildah config "$@" "$container"
    quietly buildah commit --rm "$container" "$name"
}

# A fake `cargo` that saves half an hour. It is the only step of the Dockerfile that does not run for real.
prebuilt_cargo() {
    mkdir -p "$1/usr/local/cargo/bin" "$1/usr/local/rustup"
    cp "$binary" "$1/usr/local/cargo/latentd"
    cat >"$1/usr/local/cargo/bin/cargo" <<CARGO
#!/bin/sh
set -eu
features='$features'
CARGO
    cat >>"$1/usr/local/cargo/bin/cargo" <<'CARGO'
case "$*" in
"install cargo-chef --version "*" --locked") ;;
"chef prepare --bin latentd --recipe-path recipe.json") cp Cargo.lock recipe.json ;;
"chef cook --release --locked --package latentd$features --recipe-path recipe.json") test -f recipe.json ;;
"build --release --locked --package latentd$features")
    for needed in Cargo.toml crates/latentd/Cargo.toml crates/demo/weights tests/lib.rs; do [ -e $needed ]; done
    for ignored in target .git docker tests/goldens/models; do [ ! -e $ignored ]; done
    install -D /usr/local/cargo/latentd target/release/latentd
    ;;
*) echo "cargo $*: not expected" >&2 && exit 1 ;;
esac
CARGO
    chmod +x "$1/usr/local/cargo/bin/cargo"
}

# Uses this machine's toolchain, mounted into the build.
mounted_cargo() {
    mkdir -p "$1/usr/local/cargo/bin"
    ln -s /usr/local/rustup/bin/{cargo,rustc,rustdoc} "$1/usr/local/cargo/bin"
    build_flags+=(--volume "$(rustc --print sysroot):/usr/local/rustup:ro")
    build_flags+=(--volume "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry")
}

make_base_images() {
    local debian=$work/debian packages=
    [ -n "$binary" ] || packages=--include=gcc,g++,libc6-dev,make
    if ! debootstrap --variant=minbase bookworm "$debian" >"$work/log" 2>&1; then
        tail -n 40 "$work/log" >&2
        # Without Debian's archive the check is skipped, not failed.
        grep -Eq 'Failed getting release file|Invalid Release file' "$work/log" || die "failed: debootstrap"
        say "Debian's archive is out of reach" >&2
        exit 77
    fi
    import localhost/debian:bookworm-slim "$debian" --cmd bash
    if [ -n "$features" ]; then
        local kind
        for kind in devel runtime; do
            import "localhost/nvidia/cuda:13.0.2-$kind-ubuntu24.04" "$debian" --cmd bash
        done
    fi
    # A second tree for the builder, so that the runtime image has no compiler.
    [ -z "$packages" ] || { rm -rf "$debian" && quietly debootstrap --variant=minbase "$packages" bookworm "$debian"; }
    if [ -n "$binary" ]; then prebuilt_cargo "$debian"; else mounted_cargo "$debian"; fi
    mkdir -p "$debian/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$debian/etc/ssl/certs/"
    import localhost/rust:1.95-bookworm "$debian" --env CARGO_HOME=/usr/local/cargo \
        --env PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    rm -rf "$debian"
}

# Prints one value of the image's configuration: config 'config["User"]'.
config() {
    python3 -c 'import json, sys
config = json.load(open(sys.argv[1]))["Docker"]["config"]
print(eval(sys.argv[2]))' "$work/inspect" "$1"
}

check_configuration() {
    local expression expected given
    buildah inspect --type image latentd >"$work/inspect"
    while read -r expression expected; do
        given=$(config "config$expression")
        [ "$given" = "$expected" ] || die "config$expression is $given, not $expected"
    done <<'EXPECTED'
["User"] 10001:10001
["Entrypoint"] ['latentd']
["Cmd"] ['serve']
["ExposedPorts"] {'8091/tcp': {}}
["Volumes"] {'/var/lib/latentd': {}}
["Healthcheck"]["Test"] ['CMD', 'latentd', 'healthcheck']
["Labels"]["org.opencontainers.image.title"] latentd
EXPECTED
    if [ -n "$features" ]; then
        given=$(config '"LATENTD_DEVICE=cuda" in config["Env"]')
        [ "$given" = True ] || die "the image does not ask for a GPU"
    fi
    say "the configuration is as it should be"
}

# confined COMMAND...: runs as the image's user, in its environment, without capabilities.
confined=(setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all env -i)

start() {
    local mounted container
    container=$(buildah from latentd)
    mounted=$(buildah mount "$container")
    mapfile -t environment < <(config '"\n".join(config["Env"])')
    # This machine has no GPU.
    [ -z "$features" ] || environment+=(LATENTD_DEVICE=cpu)
    # The server is process 1 of its own namespaces. $0 is the image's root.
    # shellcheck disable=SC2016 # the inner shell's
    unshare --mount --pid --net --fork -- sh -euc '
        ip link set lo up
        mount --bind "$0" "$0"
        mount -t proc proc "$0/proc"
        mount -t tmpfs tmpfs "$0/dev"
        for device in null urandom; do touch "$0/dev/$device"; mount --bind "/dev/$device" "$0/dev/$device"; done
        mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
        mount -t tmpfs -o mode=0750,uid=10001,gid=10001 tmpfs "$0/var/lib/latentd"
        mount -o remount,bind,ro "$0"
        exec chroot "$0" "$@"' "$mounted" "${confined[@]}" "${environment[@]}" latentd serve >"$work/server" 2>&1 &
    unshare=$!
    for _ in $(seq 50); do
        server=$(pgrep -P "$unshare" || true)
        [ -n "$server" ] && [ "$(cat "/proc/$server/comm")" = latentd ] && return
        sleep 0.1
    done
    cat "$work/server" >&2
    die "the container did not start"
}

# Runs a command in the container, like `docker exec`.
inside() { nsenter --target "$server" --mount --pid --net --root --wdns=/ "${confined[@]}" "${environment[@]}" "$@"; }
from_its_network() { nsenter --target "$server" --net "$@"; }

wait_until_ready() {
    for _ in $(seq 240); do
        inside latentd healthcheck --ready 2>/dev/null && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.5
    done
    cat "$work/server" >&2
    die "the container did not become ready"
}

check_run() {
    local status=/proc/$server/status
    grep -Eq '^Uid:\s10001\s10001' "$status" || die "not user 10001"
    [ "$(grep -Ec '^Cap(Eff|Prm|Bnd):\s0+$' "$status")" -eq 3 ] || die "has capabilities"
    grep -Eq '^NSpid:.*\s1$' "$status" || die "is not process 1"
    awk '$5 == "/" && $6 ~ /^ro/ { found = 1 } END { exit !found }' "/proc/$server/mountinfo" || die "the root is writable"
    # shellcheck disable=SC2016 # the container's
    inside sh -c 'mkdir -p "$HF_HOME" && touch "$HF_HOME/new" /tmp/new' || die "the cache is not writable"
    inside latentd healthcheck || die "the image's HEALTHCHECK fails"
    ! inside latentd healthcheck --url http://127.0.0.1:1 2>/dev/null || die "a server that is not there is healthy"
    say "process 1 of user 10001 without capabilities is healthy on a read-only root"
    from_its_network curl -sf 127.0.0.1:8091/v1/images/generations -H 'content-type: application/json' \
        -d '{"prompt":"a fox","num_inference_steps":2}' >"$work/answer" || die "no answer"
    python3 -c 'import base64, json, sys
assert base64.b64decode(json.load(open(sys.argv[1]))["data"][0]["b64_json"]).startswith(b"\x89PNG")' "$work/answer"
    say "it makes a picture"
}

check_stop() {
    kill -TERM "$server"
    for _ in $(seq 100); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    local code=0
    wait "$unshare" || code=$?
    server=
    [ "$code" -eq 0 ] || die "exit code $code after SIGTERM"
    say "it ends well on SIGTERM"
}

binary='' build_flags=()
[ "$1" = --from-source ] || binary=$(realpath "$1")
[ -n "$binary" ] || [ -z "$features" ] || die "--cuda needs a program: there is no toolkit in Debian's image"
make_base_images
say "base images: debootstrap"
build=(buildah bud --pull-never --isolation chroot --format docker --ignorefile "$root/docker/$dockerfile.dockerignore"
    "${build_flags[@]}" --file "$root/docker/$dockerfile" --tag latentd "$root")
quietly "${build[@]}"
say "docker/$dockerfile builds"
check_configuration
start
wait_until_ready
check_run
check_stop
