// Rows held in registers, one at a time: memory is read once and written once.
//
// Threads: blockDim.x per row, blockDim.y rows per block. More than one warp per row means one row per block.
#pragma once
#include "common.cuh"

namespace {

// Pieces of a row per thread: a row has up to PIECES * WIDTH * blockDim.x numbers.
constexpr int PIECES = 4;

__device__ __forceinline__ int64_t row_index() { return (int64_t)blockIdx.x * blockDim.y + threadIdx.y; }

// Calls f(piece, first column) for each piece of this thread.
template <class F>
__device__ __forceinline__ void each_piece(int dim, F f) {
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++) {
    const int column = (piece * blockDim.x + threadIdx.x) * WIDTH;
    if (column < dim) f(piece, column);
  }
}

}  // namespace
