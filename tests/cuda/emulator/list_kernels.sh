#!/usr/bin/env bash
# list_kernels.sh FILE.cu [flags]: prints a C++ file that includes FILE.cu and registers its kernels. It reads the
# preprocessor's output, so that it also finds names made by macros.
set -euo pipefail
file=$(realpath "$1")
shift
source=$(g++ -std=c++20 -w -E -P -DKERNEL_MARK=KERNEL_MARK_ -include cuda_host.h -x c++ "$@" "$file" | tr '\n' ' ')
echo "#include \"$file\""
# The launch sets the size of `extern __shared__ T name[]`. It is defined here with the largest possible size.
array='extern +thread_local +(__attribute__\(\([a-z_]+\([0-9]+\)\)\) +)?([A-Za-z_0-9]+) +([A-Za-z_0-9]+)\[\]'
grep -oE "$array" <<<"$source" | sort -u |
    sed -E "s/$array/alignas(16) __attribute__((weak)) thread_local \2 \3[(227 << 10) \/ sizeof(\2)]; EMU_DYNAMIC_SHARED(\3)/" || true
kernel='KERNEL_MARK_ +(static +)?void +([A-Za-z_0-9]+) *\('
grep -oE "$kernel" <<<"$source" | sort -u | sed -E "s/$kernel/EMU_KERNEL(\2)/"
