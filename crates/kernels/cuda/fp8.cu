// Kernels around a product of eight-bit floats (e4m3). They round the rows before it. If the library does not apply
// scales per row and per output, they also do everything after the sums.
#include <cuda_fp8.h>

#include "row.cuh"

namespace {

constexpr float LARGEST = 448.f;

// The largest value over the threads of one threadIdx.y, as row_sum computes the sum.
__device__ __forceinline__ uint32_t row_max(uint32_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(~0u, x, offset));
  if (blockDim.x == 32) return x;
  __shared__ uint32_t largest[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  if (lane == 0) largest[warp] = x;
  __syncthreads();
  x = lane < warps ? largest[lane] : 0;
  for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

// Rounds each row to e4m3, scaled so that the largest magnitude is 448, and writes the row's scale. The scale is NaN if
// the row has a NaN or an infinity.
template <class T>
__device__ __forceinline__ void rounded_rows(const T* x, uint8_t* numbers, float* scales, int rows, int dim) {
  const int64_t row = row_index();
  if (row >= rows) return;
  x += row * dim, numbers += row * dim;
  float v[PIECES][WIDTH];
  uint32_t bits = 0;  // magnitudes compare like their bits, with NaN as the largest
  each_piece(dim, [&](int piece, int column) {
    load8(x + column, v[piece]);
    for (float number : v[piece]) bits = max(bits, __float_as_uint(number) & 0x7fffffffu);
  });
  bits = row_max(bits);
  const bool finite = bits < 0x7f800000u;
  const float largest = __uint_as_float(bits);
  const bool is_some = finite && largest >= 1e-30f;  // otherwise the inverse may be infinite
  const float factor = is_some ? LARGEST / largest : 0.f;
  each_piece(dim, [&](int piece, int column) {
    union {
      uint2 words;
      __nv_fp8x2_storage_t pairs[WIDTH / 2];
    } pack;
#pragma unroll
    for (int i = 0; i < WIDTH / 2; i++) {
      const float2 pair = make_float2(v[piece][2 * i] * factor, v[piece][2 * i + 1] * factor);
      pack.pairs[i] = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
    }
    *reinterpret_cast<uint2*>(numbers + column) = pack.words;
  });
  if (threadIdx.x == 0) scales[row] = is_some ? largest / LARGEST : finite ? 0.f : __uint_as_float(0x7fc00000u);
}

// out = sums * scale of the row * scale of the output + bias, followed by GELU (tanh) if `gelu`. `bias` may be null.
template <class T>
__device__ __forceinline__ void scaled_sums(const float* sums, const float* row_scales, const float* scales, const T* bias,
                                            T* out, int64_t pieces, int dim, bool gelu) {
  const int64_t piece = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t row = piece * WIDTH / dim;
  const int column = piece * WIDTH - row * dim;
  float x[WIDTH], scale[WIDTH], shift[WIDTH] = {};
  load8(sums + piece * WIDTH, x);
  load8(scales + column, scale);
  if (bias) load8(bias + column, shift);
  const float of_row = row_scales[row];
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    x[i] = x[i] * of_row * scale[i] + shift[i];
    if (gelu) x[i] = 0.5f * x[i] * (1.f + tanhf(0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
  }
  store8(out + piece * WIDTH, x);
}

}  // namespace

#define ROUNDED_ROWS(SUFFIX, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(1024)                                                                   \
      rounded_rows_##SUFFIX(const T* x, uint8_t* numbers, float* scales, int rows, int dim) {                          \
    rounded_rows(x, numbers, scales, rows, dim);                                                                       \
  }
FOR_BOTH_TYPES(ROUNDED_ROWS)

#define SCALED_SUMS(SUFFIX, T)                                                                                         \
  extern "C" __global__ void scaled_sums_##SUFFIX(const float* sums, const float* row_scales, const float* scales,     \
                                                  const T* bias, T* out, int64_t pieces, int dim, int gelu) {          \
    scaled_sums(sums, row_scales, scales, bias, out, pieces, dim, gelu);                                               \
  }
FOR_BOTH_TYPES(SCALED_SUMS)
