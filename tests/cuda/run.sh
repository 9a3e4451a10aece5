#!/usr/bin/env bash
# Builds latentd with CUDA and runs it on the emulated GPU. Compares kernels with their references, whole pictures with
# the CPU's, and the driver calls of a step with their bounds; checks the messages if something is missing. It needs no
# GPU and no driver. The last line is a step's counts.
#
#   tests/cuda/run.sh [name of a test...]
#
# The toolkit is the one in CUDA_HOME, or is installed once into CUDA_TOOLKIT (target/cuda/toolkit): 1.3 GB. If it
# cannot be installed, the run is skipped and says so.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
# A separate target folder, so that its quickly compiled `latentd` does not replace that of `cargo build --release`.
folder=${CARGO_TARGET_DIR:-target}/cuda
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
export CARGO_TARGET_DIR=$folder/build CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off

if [ ! -x "${CUDA_HOME:-}/bin/nvcc" ]; then
    if ! environment=$("$here/toolkit.sh" "${CUDA_TOOLKIT:-$folder/toolkit}" 2>"$folder/toolkit.log"); then
        tail -n 3 "$folder/toolkit.log" >&2
        # "none" means that pip found no version at all: no package index is reachable.
        grep -Eq 'from versions: none|No module named pip' "$folder/toolkit.log" || exit 1
        echo "cuda: SKIPPED, for there is no toolkit: CUDA_HOME names none and none can be installed"
        exit 0
    fi
    eval "$environment"
fi
# One architecture is enough: the machine code is never run.
export CUDA_COMPUTE_CAP=80 LATENTD_CUDA_ARCHS=80 CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
export NVCC=$here/nvcc_without_gguf.sh

packages=(--release --locked -p kernels -p tests --features 'kernels/cuda tests/cuda')
echo "cuda: building the program and its tests"
cargo build --bin latentd --bin latentd-bench -p latentd -p bench --features bench/cuda "${packages[@]}"
cargo test --no-run --lib --test cuda "${packages[@]}"
echo "cuda: building the emulator"
shopt -s nullglob
"$here/emulator/build.sh" "$folder/emulator" crates/kernels/cuda/*.cu

export LATENTD=$CARGO_TARGET_DIR/release/latentd EMULATOR_COUNTS=$folder/counts
export LD_LIBRARY_PATH=$folder/emulator
rm -f "$EMULATOR_COUNTS"
needed=$(readelf -d "$LATENTD" | grep NEEDED)
if grep -E 'cuda|cublas|curand|nvrtc' <<<"$needed"; then
    echo "cuda: the program does not start without CUDA's libraries" >&2
    exit 1
fi
run() { cargo test "${@:2}" "${packages[@]}" -- --test-threads "$1" --nocapture "${filters[@]}"; }
filters=(cuda)
[ $# -eq 0 ] || filters=("$@")
run 1 --lib -p kernels 2>&1 | tee "$folder/log"
filters=("$@")
# A test that counts blocks the other tests of the process, which take no processor time while they wait. The programs
# that tests start run at the same time.
run $((2 * $(nproc) + 2)) --test cuda 2>&1 | tee -a "$folder/log"
passed=$(sed -nE 's/^test result: ok\. ([0-9]+) passed.*/\1/p' "$folder/log" | awk '{ sum += $1 } END { print sum + 0 }')
counts=$(sed -nE 's/^.*counts: (qwen-image, .*uncached step: .*)/\1/p' "$folder/log")
echo "cuda: $passed tests passed${counts:+; $counts}"
