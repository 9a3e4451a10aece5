#!/usr/bin/env bash
# Installs NVIDIA's compiler, headers and libraries into a folder, from Python's package index and without root, and prints
# the environment of a build with CUDA:
#
#   eval "$(tests/cuda/toolkit.sh target/cuda/toolkit)"       # 0.7 GB to download, 1.3 GB on disk
#   cargo build --release -p latentd --features cuda
#
# The versions are those that PyTorch is built with, so that programs linked here run next to it. A newer nvcc gains
# nothing: kernels ship as PTX, and a driver refuses PTX that is newer than itself (580 accepts that of CUDA 13.0).
set -euo pipefail
version=13.0.2
mkdir -p "$1"
folder=$(cd "$1" && pwd)
home=$folder/nvidia/cu${version%%.*}

if [ ! -e "$folder/.complete-$version" ]; then
    parts=nvcc,crt,nvvm,cudart,cccl,cublas,curand,nvrtc,nvjitlink
    rm -rf "$folder" && mkdir -p "$folder"
    "${PYTHON:-python3}" -m pip install --quiet --no-cache-dir --no-compile --disable-pip-version-check \
        --root-user-action=ignore --target "$folder" "cuda-toolkit[$parts]==$version" >&2
    # The packages contain only libX.so.N, and no lib64.
    ln -s lib "$home/lib64"
    for library in "$home"/lib/lib*.so.[0-9]*; do
        name=$(basename "${library%%.so.*}").so
        [ -e "$home/lib/$name" ] || ln -s "$(basename "$library")" "$home/lib/$name"
    done
    touch "$folder/.complete-$version"
fi

# 80 is PTX for every GPU since Ampere; 90 would exclude all GPUs before Hopper.
cat <<ENVIRONMENT
export CUDA_HOME='$home'
export PATH='$home/bin':"\$PATH"
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}"
export CUDAFORGE_THREADS="\${CUDAFORGE_THREADS:-\$(nproc)}"
ENVIRONMENT
