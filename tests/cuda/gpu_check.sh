#!/usr/bin/env bash
# Checks for a machine with an NVIDIA GPU but without Rust and without a network: kernels against their references,
# pictures against diffusers', full-size models with synthetic weights, and PyTorch for comparison.
#
#   tests/cuda/gpu_check.sh pack FOLDER                builds here and packs what the other machine needs: at most 60 MiB
#   FOLDER/gpu_check.sh run FOLDER OUT [PART...]       runs there the parts that OUT lacks, then prints the table
#   FOLDER/gpu_check.sh table OUT                      prints the table again
#
# A part that has succeeded does not run again, so a run may be interrupted and restarted. It needs the driver, and the
# libraries of CUDA 13 from the loader's path or from Python's packages (nvidia-cublas, nvidia-curand; PyTorch brings them).
#
# GPU_CHECK_SECONDS (540) is the time limit of a run: a part that may exceed it is left to the next run. GPU_CHECK_QUICK=1
# uses tiny models in place of large ones, for the emulator. PYTHON is the python3 that has torch, if one has.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
most_bytes=$((60 << 20))

die() { printf '%s\n' "$1" >&2; exit 1; }

# ---- here

pack() {
    local folder=$1 root work target archive
    root=$(cd "$here/../.." && pwd)
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    cd "$root"
    export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
    target=${CARGO_TARGET_DIR:-target}/cuda
    mkdir -p "$target"
    target=$(cd "$target" && pwd)
    if [ ! -x "${CUDA_HOME:-}/bin/nvcc" ]; then
        eval "$("$here/toolkit.sh" "${CUDA_TOOLKIT:-$target/toolkit}")"
    fi
    # candle's kernels are PTX for every GPU since Ampere, without those that nothing here calls. Ours are machine code.
    export CUDA_COMPUTE_CAP=80 LATENTD_CUDA_ARCHS=${LATENTD_CUDA_ARCHS:-80 90a} NVCC=$here/nvcc_without_gguf.sh
    export CARGO_TARGET_DIR=${GPU_CHECK_TARGET:-$target/pack}
    # LATENTD_GOLDENS names the folder of the goldens on the other machine.
    local packages=(--release --locked -p kernels -p tests --features 'kernels/cuda tests/cuda')
    cargo build --bin latentd --bin latentd-bench -p latentd -p bench --features bench/cuda "${packages[@]}"
    cargo test --no-run --lib --test cuda "${packages[@]}" --message-format json >"$target/built"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # as it is now
    trap "rm -rf '$work'" EXIT
    strip -o "$work/latentd" "$CARGO_TARGET_DIR/release/latentd"
    strip -o "$work/latentd-bench" "$CARGO_TARGET_DIR/release/latentd-bench"
    strip -o "$work/kernels-tests" "$(built lib kernels <"$target/built")"
    strip -o "$work/cuda-tests" "$(built test cuda <"$target/built")"
    mkdir -p "$work/goldens/models/goldens"
    local case model
    for model in qwen-image flux2-klein; do cp -r "tests/goldens/models/$model" "$work/goldens/models/"; done
    for case in manifest.json qwen-image.t2i_{cfg,nocfg}.safetensors flux2-klein.t2i_distilled.safetensors; do
        cp "tests/goldens/models/goldens/$case" "$work/goldens/models/goldens/"
    done
    archive=$folder/bundle.tar.xz
    compressed "$work" "$archive"
    cp "$here"/{gpu_check.sh,gpu_table.py,peer_torch.py} "$folder/"
    local bytes
    bytes=$(du -cb "$folder"/{gpu_check.sh,gpu_table.py,peer_torch.py,bundle.tar.xz} | awk 'END { print $1 }')
    echo "gpu check: $folder has $(awk "BEGIN { printf \"%.1f\", $bytes / 1048576 }") MiB"
    [ "$bytes" -le "$most_bytes" ] || die "gpu check: that is more than $((most_bytes >> 20)) MiB"
}

# built KIND NAME: the executable of a target, by cargo's messages on stdin.
built() {
    "$python" -c 'import json, sys
for line in sys.stdin:
    found = json.loads(line)
    target = found.get("target", {})
    if found.get("executable") and sys.argv[1] in target["kind"] and target["name"] == sys.argv[2]:
        print(found["executable"])' "$@" | tail -n 1
}

# The built-in model's weights are in three of the programs. A window that spans them stores them once.
compressed() {
    "$python" -c 'import lzma, sys, tarfile
filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 192 << 20}]
with lzma.open(sys.argv[2], "wb", filters=filters) as out, tarfile.open(fileobj=out, mode="w") as archive:
    for name in ("latentd", "latentd-bench", "cuda-tests", "kernels-tests", "goldens"):
        archive.add(f"{sys.argv[1]}/{name}", name)' "$1" "$2"
}

# ---- there

prepare() {
    bundle=$out/.bundle
    if [ ! -e "$bundle/.complete" ]; then
        rm -rf "$bundle" && mkdir -p "$bundle"
        "$python" -m tarfile -e "$folder/bundle.tar.xz" "$bundle"
        touch "$bundle/.complete"
    fi
    local found
    found=$("$python" -c 'import glob, sysconfig
print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))')
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
    export LATENTD=$bundle/latentd LATENTD_GOLDENS=$bundle/goldens CUDA_CACHE_PATH=$out/.ptx_cache
    unset EMULATOR_COUNTS
}

# part NAME SECONDS COMMAND...: runs a part, and keeps its output and whether it succeeded. Skips a part that was not
# requested.
part() {
    local name=$1 most=$2 status=0
    shift 2
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
    [ ! -e "$out/$name.done" ] || return 0
    # The emulator is slow.
    [ -z "${GPU_CHECK_QUICK:-}" ] || most=$((4 * most))
    if [ $((SECONDS + most)) -gt "$seconds" ]; then
        echo "gpu check: $name is left to the next run: it may take $most s"
        unfinished=$((unfinished + 1))
        return
    fi
    local started=$SECONDS
    rm -f "$out/$name.failed"
    timeout -k 5 "$most" "$@" >"$out/$name.out" 2>"$out/$name.log" || status=$?
    if [ "$status" -eq 0 ]; then
        touch "$out/$name.done"
        echo "gpu check: $name, $((SECONDS - started)) s"
    else
        echo "$status" >"$out/$name.failed"
        failed=$((failed + 1))
        echo "gpu check: $name FAILED with $status after $((SECONDS - started)) s: $(tail -n 1 "$out/$name.log")"
    fi
}

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader 2>/dev/null ||
        echo "no nvidia-smi"
    uname -srm
    "$python" --version
    "$python" -c 'import torch; print("torch", torch.__version__)' 2>/dev/null || echo "no torch"
    "$LATENTD" --version
}

# bench PART MODEL FLAGS...
bench() {
    local name=$1 model=$2
    shift 2
    part "$name" 90 "$LATENTD" bench --synthetic "$model" --device cuda --json "$@"
}

# The guide's defaults as a mask of $1 steps: what they reuse if every difference is small, which those of synthetic
# weights are not. Nothing is measured then, so that a step includes no readback.
guide_at_best() {
    "$LATENTD" cache plan --steps "$1" --json | "$python" -c 'import json, sys
mask = [int(step == "1") for step in json.load(sys.stdin)["best_case"]]
print(json.dumps({"steps_computation_mask": mask, "scm_steps_policy": "static"}))'
}

# The same with fp8 products, if the program has them.
bench_fp8() {
    if "$LATENTD" bench --help | grep -q fp8; then
        bench "$@" --quantization fp8
    else
        part "$1" 1 echo '{"skipped": "this program has no --quantization fp8"}'
    fi
}

peer() {
    local name=$1
    shift
    if "$python" -c 'import torch' 2>/dev/null; then
        part "$name" 200 "$python" "$folder/peer_torch.py" --latentd "$LATENTD" "$@"
    else
        part "$name" 1 echo '{"skipped": "there is no torch"}'
    fi
}

run() {
    folder=$(cd "$1" && pwd)
    mkdir -p "$2"
    out=$(cd "$2" && pwd)
    wanted=("${@:3}")
    seconds=${GPU_CHECK_SECONDS:-540} failed=0 unfinished=0
    prepare
    local guide scm qwen klein
    scm=(--cache-backend cache_dit --cache-config '{"scm_steps_mask_policy":"medium","scm_steps_policy":"static"}')
    if [ -n "${GPU_CHECK_QUICK:-}" ]; then
        qwen=(qwen-image-tiny --size 64x64 --steps 12 --true-cfg-scale 4 --text-tokens 32)
        klein=(flux2-klein-tiny --size 64x64 --steps 4)
    else
        qwen=(qwen-image --size 1024x1024 --steps 50 --true-cfg-scale 4 --text-tokens 32)
        klein=(flux2-klein-4b --size 1024x1024 --steps 4)
    fi
    guide=(--cache-backend cache_dit --cache-config "$(guide_at_best "${qwen[4]}")")
    part machine 30 bash "$folder/gpu_check.sh" machine
    part kernels 120 "$bundle/kernels-tests" cuda --test-threads 1
    part parity 120 "$bundle/cuda-tests" parity --test-threads 1 --nocapture
    bench qwen-bf16 "${qwen[@]}"
    bench qwen-bf16-guide "${qwen[@]}" "${guide[@]}"
    bench qwen-bf16-scm-medium "${qwen[@]}" "${scm[@]}"
    bench klein-4b "${klein[@]}"
    bench_fp8 qwen-fp8 "${qwen[@]}"
    bench_fp8 qwen-fp8-guide "${qwen[@]}" "${guide[@]}"
    if [ -n "${GPU_CHECK_QUICK:-}" ]; then
        peer peer-qwen --model qwen-image --size 64x64 --layers 1 --device cpu --dtype f32 --rounds 1 --text-tokens 64
        peer peer-klein-4b --model flux2-klein-4b --size 64x64 --layers 1 --device cpu --dtype f32 --rounds 1
    else
        bench klein-4b-512 flux2-klein-4b --size 512x512 --steps 4
        bench klein-9b flux2-klein-9b --size 1024x1024 --steps 4
        peer peer-qwen --model qwen-image --size 1024x1024 --text-tokens 32
        peer peer-klein-4b --model flux2-klein-4b --size 1024x1024
    fi
    part pictures 120 "$bundle/cuda-tests" pictures:: --test-threads 1 --nocapture
    "$python" "$folder/gpu_table.py" "$out" | tee "$out/table.md"
    [ "$unfinished" -eq 0 ] || echo "gpu check: $unfinished parts are left: start the same again"
    [ "$failed" -eq 0 ] || die "gpu check: $failed parts failed"
}

case ${1:-}:$# in
pack:2) pack "$2" ;;
run:[3-9] | run:1[0-9]) run "${@:2}" ;;
machine:1) machine ;;
table:2) "$python" "$here/gpu_table.py" "$2" ;;
*)
    sed -n '2,16s/^# \?//p' "$0"
    exit 2
    ;;
esac
