// Attention by tiles in shared memory with f32 products, in one pass over the keys. For each query the softmax is kept
// as the largest score so far, and the sums of weights and of weighted values relative to it
// (https://arxiv.org/abs/1805.02867). No score leaves the block.
//
// A block handles BLOCK_Q queries of a head. Thread (x, y) of 16 x 16 handles queries 4y to 4y + 3: for the scores keys
// x and x + 16 of a tile, then columns x, x + 16, ... of the values.
#include "attention.cuh"

extern __shared__ float attention_tiles[];

namespace {

constexpr int BLOCK_Q = 64, BLOCK_K = 32, SIDE = 16, QUERIES = BLOCK_Q / SIDE, KEYS = BLOCK_K / SIDE;

// Copies `rows` tokens to a tile of `count` rows of `pitch` floats, padded with zeros.
template <int D, class T>
__device__ __forceinline__ void load_tile(float* tile, int pitch, const T* from, int stride, int rows, int count) {
  for (int i = threadIdx.x; i < count * (D / WIDTH); i += SIDE * SIDE) {
    const int row = i / (D / WIDTH), column = i % (D / WIDTH) * WIDTH;
    float x[WIDTH] = {};
    if (row < rows) load8(from + (int64_t)row * stride + column, x);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) tile[row * pitch + column + k] = x[k];
  }
}

// Reduces over the 16 threads of one y, half a warp.
template <class F>
__device__ __forceinline__ float across(float x, F f) {
#pragma unroll
  for (int offset = SIDE / 2; offset > 0; offset /= 2) x = f(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}

// State of a thread's queries.
template <int D>
struct Running {
  float largest[QUERIES], sum[QUERIES], out[QUERIES][D / SIDE];
};

// The scores of a tile of keys from `first_key` on, then its weighted values.
template <int D, class T>
__device__ __forceinline__ void tile(const Attention<T>& a, Running<D>& r, const float* q, const float* k,
                                     const float* v, float* weights, int first_query, int first_key, int keys) {
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
  float scores[QUERIES][KEYS] = {};
  for (int d = 0; d < D; d++) {
#pragma unroll
    for (int i = 0; i < QUERIES; i++)
#pragma unroll
      for (int j = 0; j < KEYS; j++)
        scores[i][j] = fmaf(q[(y * QUERIES + i) * (D + 1) + d], k[(x + j * SIDE) * (D + 1) + d], scores[i][j]);
  }
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    float largest = r.largest[i];
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
      const bool seen = sees(a, first_query + y * QUERIES + i, first_key + x + j * SIDE, keys);
      scores[i][j] = seen ? scores[i][j] * a.scale : -INFINITY;
      largest = fmaxf(largest, scores[i][j]);
    }
    largest = across(largest, [](float left, float right) { return fmaxf(left, right); });
    const float shrink = power_of_two(r.largest[i] - largest);
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
      const float weight = power_of_two(scores[i][j] - largest);
      weights[(y * QUERIES + i) * (BLOCK_K + 1) + x + j * SIDE] = weight;
      sum += weight;
    }
    r.sum[i] = r.sum[i] * shrink + across(sum, [](float left, float right) { return left + right; });
    r.largest[i] = largest;
#pragma unroll
    for (int c = 0; c < D / SIDE; c++) r.out[i][c] *= shrink;
  }
  __syncwarp();  // a query's weights are written and read within half a warp
  for (int j = 0; j < BLOCK_K; j++) {
#pragma unroll
    for (int c = 0; c < D / SIDE; c++) {
      const float value = v[j * D + x + c * SIDE];
#pragma unroll
      for (int i = 0; i < QUERIES; i++)
        r.out[i][c] = fmaf(weights[(y * QUERIES + i) * (BLOCK_K + 1) + j], value, r.out[i][c]);
    }
  }
}

// Grid: tiles of queries of the longest row, heads, rows.
template <int D, class T>
__device__ __forceinline__ void attention(const Attention<T>& a, float* shared) {
  const Row row = row_at(a, blockIdx.z);
  const int first_query = blockIdx.x * BLOCK_Q, head = blockIdx.y, dim = a.num_heads * D;
  if (first_query >= row.len) return;
  const int keys = min(row.len, a.valid), end = a.causal ? min(keys, first_query + BLOCK_Q) : keys;
  const int64_t begin = row.text_begin + row.image_begin, key_head = head / a.heads_a_key;
  float *q = shared, *k = q + BLOCK_Q * (D + 1), *v = k + BLOCK_K * (D + 1), *weights = v + BLOCK_K * D;
  load_tile<D>(q, D + 1, a.q + (begin + first_query) * a.q_stride + head * D, a.q_stride, row.len - first_query,
               BLOCK_Q);
  Running<D> r;
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    r.largest[i] = -INFINITY, r.sum[i] = 0.f;
#pragma unroll
    for (int c = 0; c < D / SIDE; c++) r.out[i][c] = 0.f;
  }
  for (int key = 0; key < end; key += BLOCK_K) {
    __syncthreads();  // the previous tile has been read
    load_tile<D>(k, D + 1, a.k + (begin + key) * a.k_stride + key_head * D, a.k_stride, keys - key, BLOCK_K);
    load_tile<D>(v, D, a.v + (begin + key) * a.v_stride + key_head * D, a.v_stride, keys - key, BLOCK_K);
    __syncthreads();
    tile<D>(a, r, q, k, v, weights, first_query, key, keys);
  }
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
  for (int i = 0; i < QUERIES; i++) {
    const int query = first_query + y * QUERIES + i;
    if (query >= row.len) break;
    T* out = out_of(a, row, query, dim) + head * D;
#pragma unroll
    for (int c = 0; c < D / SIDE; c++) store(out + x + c * SIDE, r.out[i][c] / r.sum[i]);
  }
}

}  // namespace

#define ATTENTION_TILED(SUFFIX, T, D)                                                                                  \
  extern "C" __global__ void __launch_bounds__(SIDE* SIDE)                                                             \
      attention_tiled_##D##_##SUFFIX(const __grid_constant__ Attention<T> a) {                                         \
    attention<D>(a, attention_tiles);                                                                                  \
  }
#define ALL_HEADS(SUFFIX, T)     \
  ATTENTION_TILED(SUFFIX, T, 16) \
  ATTENTION_TILED(SUFFIX, T, 32) \
  ATTENTION_TILED(SUFFIX, T, 64) \
  ATTENTION_TILED(SUFFIX, T, 128)
FOR_BOTH_TYPES(ALL_HEADS)
