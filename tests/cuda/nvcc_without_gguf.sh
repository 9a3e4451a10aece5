#!/usr/bin/env bash
# NVCC=…/nvcc_without_gguf.sh: nvcc, except that candle's kernels of GGUF and of mixtures of experts become functions
# that abort. They take minutes to compile, and nothing here calls them. For checks only: a released program has the
# real ones.
set -euo pipefail
nvcc=$CUDA_HOME/bin/nvcc
source='' object='' before='' compiles=''
for argument in "$@"; do
    case $argument in
    *.cu) source=$argument ;;
    -c) compiles=yes ;;
    esac
    [ "$before" != -o ] || object=$argument
    before=$argument
done
case $compiles:$source in
yes:*moe_*.cu | yes:*mmq_*.cu | yes:*mmvq_gguf.cu) ;;
*) exec "$nvcc" "$@" ;;
esac
{
    echo '#include <stdlib.h>'
    # One of the files provides them all.
    if [[ $source == *mmvq_gguf.cu ]]; then
        grep -oE 'fn [a-z_0-9]+ *\(' "$(dirname "$source")/ffi.rs" | sed -E 's/fn ([a-z_0-9]+).*/void \1(void) { abort(); }/' | sort -u
    fi
} | gcc -x c -fPIC -c - -o "$object"
