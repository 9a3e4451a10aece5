// Operands and helpers of the attention kernels.
#pragma once
#include "common.cuh"

namespace {

// Attention of every row over its own tokens. The text of a row precedes its image.
template <class T>
struct Attention {
  const T* q;  // [tokens, num_heads * head_dim]
  const T* k;  // [tokens, num_heads / heads_a_key * head_dim]; like v, possibly part of wider rows
  const T* v;
  T* text_out;  // [text tokens, num_heads * head_dim]
  T* image_out;
  const uint32_t* text_offsets;  // of a RowLayout; null if no row has text
  const uint32_t* image_offsets;  // null if all tokens belong to one row
  int q_stride, k_stride, v_stride;  // distance between tokens, in numbers
  int num_heads, heads_a_key;
  int tokens;  // of all rows
  int valid;   // largest number of keys of a row; padding follows them
  int causal;  // whether a query sees no key after its own position
  float scale;  // factor of the scores, times log2(e)
};

// The position of one row in the tensors.
struct Row {
  uint32_t text_begin, image_begin;
  int text_len, len;
};

template <class T>
__device__ __forceinline__ Row row_at(const Attention<T>& a, int row) {
  if (!a.image_offsets) return {0, 0, 0, a.tokens};
  Row r;
  r.text_begin = offset_of(a.text_offsets, row);
  r.image_begin = offset_of(a.image_offsets, row);
  r.text_len = offset_of(a.text_offsets, row + 1) - r.text_begin;
  r.len = r.text_len + a.image_offsets[row + 1] - r.image_begin;
  return r;
}

// The address of a token's attended values in the output.
template <class T>
__device__ __forceinline__ T* out_of(const Attention<T>& a, const Row& row, int position, int dim) {
  if (position < row.text_len) return a.text_out + (int64_t)(row.text_begin + position) * dim;
  return a.image_out + (int64_t)(row.image_begin + position - row.text_len) * dim;
}

// Whether a query sees a key.
template <class T>
__device__ __forceinline__ bool sees(const Attention<T>& a, int query, int key, int keys) {
  return key < keys && (!a.causal || key <= query);
}

// 2^x. The device's approximation has an error of 2 units in the last place.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef __NVCC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

}  // namespace
