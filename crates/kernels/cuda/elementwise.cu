// Operations after a matrix product, each in one pass over memory.
#include "common.cuh"

namespace {

// out = residual + gate[row] * x, with threads along the columns (x) and the tokens (y).
template <class T>
__device__ __forceinline__ void gated_residual(const T* x, const T* residual, const T* gate, const uint32_t* offsets,
                                               T* out, int tokens, int num_rows, int dim, int gate_stride) {
  const int64_t token = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
  if (token >= tokens) return;
  gate += (int64_t)row_of(offsets, num_rows, token) * gate_stride;
  x += token * dim, residual += token * dim, out += token * dim;
  for (int column = threadIdx.x * WIDTH; column < dim; column += blockDim.x * WIDTH) {
    float a[WIDTH], b[WIDTH], c[WIDTH];
    load8(x + column, a);
    load8(residual + column, b);
    load8(gate + column, c);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) b[i] += c[i] * a[i];
    store8(out + column, b);
  }
}

// out = silu(gate) * up. A token has `features` gates, then as many ups.
template <class T>
__device__ __forceinline__ void swiglu(const T* gate_up, T* out, int64_t pieces, int features) {
  const int64_t piece = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t token = piece * WIDTH / features;
  const T* from = gate_up + piece * WIDTH + token * features;
  float gate[WIDTH], up[WIDTH];
  load8(from, gate);
  load8(from + features, up);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) up[i] *= silu(gate[i]);
  store8(out + piece * WIDTH, up);
}

}  // namespace

#define GATED_RESIDUAL(SUFFIX, T)                                                                                      \
  extern "C" __global__ void gated_residual_##SUFFIX(const T* x, const T* residual, const T* gate,                     \
                                                     const uint32_t* offsets, T* out, int tokens, int num_rows,        \
                                                     int dim, int gate_stride) {                                       \
    gated_residual(x, residual, gate, offsets, out, tokens, num_rows, dim, gate_stride);                               \
  }
FOR_BOTH_TYPES(GATED_RESIDUAL)

#define SWIGLU(SUFFIX, T)                                                                                              \
  extern "C" __global__ void swiglu_##SUFFIX(const T* gate_up, T* out, int64_t pieces, int features) {                 \
    swiglu(gate_up, out, pieces, features);                                                                            \
  }
FOR_BOTH_TYPES(SWIGLU)
