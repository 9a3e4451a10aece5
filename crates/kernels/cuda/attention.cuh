// What the attention kernels are given, and what they share.
#pragma once
#include "common.cuh"

namespace {

// Attention of every row over its own tokens, of which a row's text lies ahead of its image.
template <class T>
struct Attention {
  const T* q;  // [tokens, num_heads * head_dim]
  const T* k;  // [tokens, num_heads / heads_a_key * head_dim], perhaps within wider rows, as v
  const T* v;
  T* text_out;  // [text tokens, num_heads * head_dim]
  T* image_out;
  const uint32_t* text_offsets;  // of a RowLayout, null where no row has text
  const uint32_t* image_offsets;  // null where all tokens are of one row
  int q_stride, k_stride, v_stride;  // numbers from one token to the next
  int num_heads, heads_a_key;
  int tokens;  // of all rows
  int valid;   // tokens of a row that are keys at most: padding lies behind them
  int causal;  // whether a query sees no key behind its own place
  float scale;  // of the scores, times log2(e)
};

// One row's place in the tensors.
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

// Where the attended values of a row's token go.
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

// 2^x. The approximation of the device has an error of 2 units in the last place.
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
