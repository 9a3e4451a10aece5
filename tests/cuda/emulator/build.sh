#!/usr/bin/env bash
# build.sh FOLDER KERNEL.cu...: builds FOLDER/libcuda.so.1 and its siblings, an NVIDIA driver and libraries that run on
# the CPU. They contain the given kernels and candle's own, compiled from the crate as cargo unpacked it. Needs g++ and
# the headers of CUDA_HOME.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
mkdir -p "$out"
includes=(-I"$here" -I"$here/headers" -I"$CUDA_HOME/include")
# One width of vectors on every x86 processor, because the order of sums, and so their rounding, depends on it.
target=()
[ "$(uname -m)" != x86_64 ] || target=(-march=x86-64-v3)
compile() { g++ -std=c++20 -w -fPIC "${target[@]}" -ffp-contract=off -fvisibility=hidden "${includes[@]}" "$@"; }
# is_new OBJECT SOURCE...: whether the object is newer than all of its sources
is_new() {
    local object=$1 source
    shift
    for source in "$@"; do [ "$object" -nt "$source" ] || return 1; done
}
own=("$here"/*.cpp "$here"/*.h "$here"/*.sh)

# kernels OBJECT SOURCE FLAGS...: compiles the kernels of a .cu
kernels() {
    local object=$1 source=$2
    shift 2
    is_new "$object" "$source" "$(dirname "$source")"/*.cuh "${own[@]}" && return
    "$here/list_kernels.sh" "$source" "${includes[@]}" "$@" >"${object%.o}.cpp"
    compile "$@" -include cuda_host.h -c "${object%.o}.cpp" -o "$object.new"
    mv "$object.new" "$object"
}

manifest=$here/../../../Cargo.toml
# For this platform only, because crates of other platforms were never fetched.
host=$(rustc -vV | sed -n 's/^host: //p')
packages=$(cargo metadata --offline --filter-platform "$host" --format-version 1 --features latentd/cuda --manifest-path "$manifest")
candle=$(grep -oEm 1 '"[^"]*/candle-kernels-[0-9.]+/Cargo.toml"' <<<"$packages" | tr -d '"')
candle=$(dirname "$candle")/src

jobs=()
for source in fibers driver order libraries; do
    # Sums may be reordered, because GEMMs take most of a picture's time.
    is_new "$out/$source.o" "${own[@]}" || { compile -O3 -fassociative-math -fno-signed-zeros -fno-trapping-math -c "$here/$source.cpp" -o "$out/$source.o" & jobs+=($!); }
done
for source in "$@"; do
    # A misaligned vector access is a fault, as on a GPU.
    kernels "$out/own_$(basename "$source" .cu).o" "$source" -O2 -fsanitize=alignment -fsanitize-undefined-trap-on-error &
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
for module in affine binary cast conv fill indexing reduce sort ternary unary; do
    kernels "$out/candle_$module.o" "$candle/$module.cu" -O1 -DKERNEL_ARCH=900 -I"$candle" &
    while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n; done
done
while [ -n "$(jobs -p)" ]; do wait -n || exit 1; done
# Functions of a shared header are in every module, because nvcc keeps modules separate. The linker takes the first.
ld -r -z muldefs -o "$out/candle.o" "$out"/candle_*.o

# Stubs for everything else that cuda.h declares, so that no symbol is looked up in a real driver.
grep -ohE '\bcu[A-Z][A-Za-z0-9_]+ *\(|cu[A-Z][A-Za-z0-9]+_v[0-9]+' "$CUDA_HOME/include/cuda.h" | tr -d ' (' | sort -u |
    sed 's/.*/__attribute__((weak)) int &(void) { return 801; }/' >"$out/rest.c" # CUDA_ERROR_NOT_SUPPORTED
gcc -w -fPIC -c "$out/rest.c" -o "$out/rest.o"
own_kernels=("$out"/own_*.o)
[ -e "${own_kernels[0]}" ] || own_kernels=()
g++ -shared -Wl,-soname,libcuda.so.1 -o "$out/libcuda.so.1" "$out"/{fibers,driver,order,libraries,candle,rest}.o "${own_kernels[@]}"
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do ln -sf libcuda.so.1 "$out/$name"; done
