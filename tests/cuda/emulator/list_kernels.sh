#!/usr/bin/env bash
# list_kernels.sh FILE.cu [flags]: a C++ file that includes it and registers its kernels. The preprocessor is asked, so
# that names that macros make are found too.
set -euo pipefail
file=$(realpath "$1")
shift
source=$(g++ -std=c++20 -w -E -P -DKERNEL_MARK=KERNEL_MARK_ -include cuda_host.h -x c++ "$@" "$file" | tr '\n' ' ')
echo "#include \"$file\""
# `extern __shared__ T name[]` is shared memory that the launch sizes: it is defined here, as large as any may be.
array='extern +thread_local +(__attribute__\(\([a-z_]+\([0-9]+\)\)\) +)?([A-Za-z_0-9]+) +([A-Za-z_0-9]+)\[\]'
grep -oE "$array" <<<"$source" | sort -u |
    sed -E "s/$array/alignas(16) __attribute__((weak)) thread_local \2 \3[(227 << 10) \/ sizeof(\2)]; EMU_DYNAMIC_SHARED(\3)/" || true
kernel='KERNEL_MARK_ +(static +)?void +([A-Za-z_0-9]+) *\('
grep -oE "$kernel" <<<"$source" | sort -u | sed -E "s/$kernel/EMU_KERNEL(\2)/"
