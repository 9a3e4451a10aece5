// Helpers of all kernels: numbers move eight at a time, sums are f32, and offsets give the row of a token.
#pragma once
#include <cuda_bf16.h>
#include <cstdint>

// Defines a kernel for both float types: DEFINE(suffix of the kernel's name, type).
#define FOR_BOTH_TYPES(DEFINE) \
  DEFINE(bf16, __nv_bfloat16)  \
  DEFINE(f32, float)

namespace {

using bf16 = __nv_bfloat16;

// Numbers that a thread reads or writes at a time: 16 bytes of bf16.
constexpr int WIDTH = 8;

// Copied as whole words: a struct of __nv_bfloat162 would be copied member by member, in 32-bit accesses.
union Pack {
  uint4 words;
  __nv_bfloat162 pairs[WIDTH / 2];
  __device__ Pack() {}
};

__device__ __forceinline__ void load8(const bf16* from, float (&x)[WIDTH]) {
  Pack pack;
  pack.words = *reinterpret_cast<const uint4*>(from);
#pragma unroll
  for (int i = 0; i < WIDTH / 2; i++) {
    const float2 pair = __bfloat1622float2(pack.pairs[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void load8(const float* from, float (&x)[WIDTH]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
  x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

__device__ __forceinline__ void store8(bf16* to, const float (&x)[WIDTH]) {
  Pack pack;
#pragma unroll
  for (int i = 0; i < WIDTH / 2; i++) pack.pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = pack.words;
}

__device__ __forceinline__ void store8(float* to, const float (&x)[WIDTH]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

union HalfPack {
  uint2 words;
  __nv_bfloat162 pairs[2];
  __device__ HalfPack() {}
};

// Adds four numbers to x.
__device__ __forceinline__ void add4(const bf16* from, float (&x)[4]) {
  HalfPack pack;
  pack.words = *reinterpret_cast<const uint2*>(from);
  const float2 low = __bfloat1622float2(pack.pairs[0]), high = __bfloat1622float2(pack.pairs[1]);
  x[0] += low.x, x[1] += low.y, x[2] += high.x, x[3] += high.y;
}

__device__ __forceinline__ void add4(const float* from, float (&x)[4]) {
  const float4 a = *reinterpret_cast<const float4*>(from);
  x[0] += a.x, x[1] += a.y, x[2] += a.z, x[3] += a.w;
}

__device__ __forceinline__ void store4(bf16* to, const float (&x)[4]) {
  HalfPack pack;
  pack.pairs[0] = __floats2bfloat162_rn(x[0], x[1]), pack.pairs[1] = __floats2bfloat162_rn(x[2], x[3]);
  *reinterpret_cast<uint2*>(to) = pack.words;
}

__device__ __forceinline__ void store4(float* to, const float (&x)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ void store(bf16* to, float x) { *to = __float2bfloat16(x); }
__device__ __forceinline__ void store(float* to, float x) { *to = x; }

__device__ __forceinline__ float silu(float x) { return x / (1.f + expf(-x)); }

// The sum over a group of `lanes` neighbouring lanes, a power of two. Every lane of the warp takes part.
__device__ __forceinline__ float group_sum(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// The sum over the threads of one `threadIdx.y`. A block has either one warp per value of it, or a single value.
__device__ __forceinline__ float row_sum(float x) {
  x = group_sum(x, 32);
  if (blockDim.x == 32) return x;
  __shared__ float sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();  // the sums of the previous call have been read
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  return group_sum(lane < warps ? sums[lane] : 0.f, 32);
}

// The row of `token`, by the `num_rows + 1` offsets of a RowLayout. Empty rows are skipped.
__device__ __forceinline__ int row_of(const uint32_t* offsets, int num_rows, uint32_t token) {
  int low = 0, high = num_rows;  // offsets[low] <= token < offsets[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (offsets[middle] <= token) low = middle;
    else high = middle;
  }
  return low;
}

// An offset of a RowLayout. The offsets are null if no row has a token.
__device__ __forceinline__ uint32_t offset_of(const uint32_t* offsets, int row) { return offsets ? offsets[row] : 0; }

}  // namespace
