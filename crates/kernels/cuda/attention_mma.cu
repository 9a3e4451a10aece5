// Attention in bf16 by the warp-level products of the tensor cores, in one pass over the keys as in attention_tiled.cu.
// Scores and weights stay in registers: the lane that holds a result of one product needs it in the next product.
//
// A block handles BLOCK_Q queries of a head, 16 per warp. It copies the next tile of keys and values while it works on
// the current one. The 16-byte pieces of a tile's rows are swizzled, so that eight rows of a matrix lie in eight
// different banks.
#include "attention.cuh"
#include "mma.cuh"

extern __shared__ uint4 attention_buffers[];

namespace {

constexpr int WARPS = 4, BLOCK_Q = 16 * WARPS, BLOCK_K = 64, KEY_TILES = BLOCK_K / 8;

template <int D>
struct Shape {
  static constexpr int PIECES = D / WIDTH;  // of 16 bytes each, per row of a tile
  static constexpr int TILE = BLOCK_K * PIECES;
  static constexpr int STEPS = D / 16;  // of a score's sum
  static constexpr int COLUMN_TILES = D / 8;
};

template <int D>
__device__ __forceinline__ uint4* piece_of(uint4* tile, int row, int piece) {
  constexpr int PIECES = Shape<D>::PIECES, EXCHANGED = PIECES < 8 ? PIECES : 8, ROWS = 8 / EXCHANGED;
  return tile + row * PIECES + (piece ^ (row / ROWS % EXCHANGED));
}

// Starts the copy of a tile of keys or values. `rows` tokens are left.
template <int D>
__device__ __forceinline__ void copy_tile(uint4* tile, const bf16* from, int stride, int rows) {
  constexpr int PIECES = Shape<D>::PIECES;
#pragma unroll
  for (int i = 0; i < Shape<D>::TILE / (32 * WARPS); i++) {
    const int at = i * 32 * WARPS + threadIdx.x, row = at / PIECES, piece = at % PIECES;
    const bool valid = row < rows;
    copy_async(piece_of<D>(tile, row, piece), valid ? from + (int64_t)row * stride + piece * WIDTH : from, valid);
  }
}

// State of a warp's 16 queries. A lane holds rows group and group + 8.
template <int D>
struct Running {
  uint32_t q[Shape<D>::STEPS][4];
  float out[Shape<D>::COLUMN_TILES][4];
  float largest[2], sum[2];
};

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, 4);
  return word;
}

template <int D>
__device__ __forceinline__ void load_queries(Running<D>& r, const bf16* q, int stride, int first, int len) {
  const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
#pragma unroll
  for (int step = 0; step < Shape<D>::STEPS; step++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int query = first + group + i % 2 * 8, column = step * 16 + t * 2 + i / 2 * 8;
      r.q[step][i] = query < len ? *reinterpret_cast<const uint32_t*>(q + (int64_t)query * stride + column) : 0;
    }
  }
#pragma unroll
  for (int c = 0; c < Shape<D>::COLUMN_TILES; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) r.out[c][i] = 0.f;
  r.largest[0] = r.largest[1] = -INFINITY;
  r.sum[0] = r.sum[1] = 0.f;
}

// Scores of the warp's queries and the tile's keys.
template <int D>
__device__ __forceinline__ void score(const Running<D>& r, uint4* k, float (&scores)[KEY_TILES][4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
#pragma unroll
  for (int n = 0; n < KEY_TILES; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) scores[n][i] = 0.f;
#pragma unroll
  for (int step = 0; step < Shape<D>::STEPS; step++) {
#pragma unroll
    for (int n = 0; n < KEY_TILES; n += 2) {
      uint32_t b[4];  // both halves of the sum for keys 8n to 8n + 7, then for the next eight
      load_matrices<false>(b, piece_of<D>(k, n * 8 + matrix / 2 * 8 + lane % 8, step * 2 + matrix % 2));
      mma(scores[n], r.q[step], b[0], b[1]);
      mma(scores[n + 1], r.q[step], b[2], b[3]);
    }
  }
}

// Turns scores into weights relative to the largest score so far, and rescales the earlier results to it.
template <int D>
__device__ __forceinline__ void weigh(const Attention<bf16>& a, Running<D>& r, float (&scores)[KEY_TILES][4],
                                      int first_query, int first_key, int keys) {
  const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
  if (first_key + BLOCK_K > keys || a.causal) {
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (!sees(a, first_query + group + i / 2 * 8, first_key + n * 8 + t * 2 + i % 2, keys))
          scores[n][i] = -INFINITY;
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float largest = r.largest[half];
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    const float shrink = power_of_two((r.largest[half] - largest) * a.scale), offset = largest * a.scale;
    float sum = 0.f;
#pragma unroll
    for (int n = 0; n < KEY_TILES; n++) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; i++) {
        scores[n][i] = power_of_two(fmaf(scores[n][i], a.scale, -offset));
        sum += scores[n][i];
      }
    }
    r.sum[half] = r.sum[half] * shrink + sum;  // over this lane's keys; the four lanes of a row are added at the end
    r.largest[half] = largest;
#pragma unroll
    for (int c = 0; c < Shape<D>::COLUMN_TILES; c++) {
      r.out[c][2 * half] *= shrink;
      r.out[c][2 * half + 1] *= shrink;
    }
  }
}

template <int D>
__device__ __forceinline__ void add_values(Running<D>& r, uint4* v, const float (&weights)[KEY_TILES][4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
#pragma unroll
  for (int step = 0; step < KEY_TILES / 2; step++) {
    const float(&low)[4] = weights[2 * step], (&high)[4] = weights[2 * step + 1];
    const uint32_t a[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])};
#pragma unroll
    for (int c = 0; c < Shape<D>::COLUMN_TILES; c += 2) {
      uint32_t b[4];  // both halves of the keys for columns 8c to 8c + 7, then for the next eight
      load_matrices<true>(b, piece_of<D>(v, step * 16 + matrix % 2 * 8 + lane % 8, c + matrix / 2));
      mma(r.out[c], a, b[0], b[1]);
      mma(r.out[c + 1], a, b[2], b[3]);
    }
  }
}

template <int D>
__device__ __forceinline__ void store_queries(const Attention<bf16>& a, const Running<D>& r, const Row& row, int first,
                                              int head) {
  const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = r.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int query = first + group + half * 8;
    if (query < row.len) {
      const float factor = 1.f / sum;
      bf16* out = out_of(a, row, query, a.num_heads * D) + head * D + t * 2;
#pragma unroll
      for (int c = 0; c < Shape<D>::COLUMN_TILES; c++)
        *reinterpret_cast<uint32_t*>(out + c * 8) = pack(r.out[c][2 * half] * factor, r.out[c][2 * half + 1] * factor);
    }
  }
}

// Grid: tiles of queries of the longest row, heads, rows.
template <int D>
__device__ __forceinline__ void attention(const Attention<bf16>& a, uint4* buffers) {
  constexpr int TILE = Shape<D>::TILE;
  const Row row = row_at(a, blockIdx.z);
  const int block_query = blockIdx.x * BLOCK_Q, head = blockIdx.y, first_query = block_query + threadIdx.x / 32 * 16;
  if (block_query >= row.len) return;
  const int keys = min(row.len, a.valid), end = a.causal ? min(keys, block_query + BLOCK_Q) : keys;
  const int64_t begin = row.text_begin + row.image_begin, key_head = head / a.heads_a_key;
  const bf16 *k = a.k + begin * a.k_stride + key_head * D, *v = a.v + begin * a.v_stride + key_head * D;
  auto copy = [&](int key, int stage) {
    copy_tile<D>(buffers + stage * 2 * TILE, k + (int64_t)key * a.k_stride, a.k_stride, keys - key);
    copy_tile<D>(buffers + (stage * 2 + 1) * TILE, v + (int64_t)key * a.v_stride, a.v_stride, keys - key);
  };
  copy(0, 0);
  commit_copies();
  Running<D> r;
  load_queries(r, a.q + begin * a.q_stride + head * D, a.q_stride, first_query, row.len);
  for (int key = 0, stage = 0; key < end; key += BLOCK_K, stage ^= 1) {
    if (key + BLOCK_K < end) copy(key + BLOCK_K, stage ^ 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();  // all threads' copies of this tile have arrived
    uint4 *keys_tile = buffers + stage * 2 * TILE, *values_tile = keys_tile + TILE;
    float scores[KEY_TILES][4];
    score(r, keys_tile, scores);
    weigh(a, r, scores, first_query, key, keys);
    add_values(r, values_tile, scores);
    __syncthreads();  // this tile may now be overwritten
  }
  store_queries(a, r, row, first_query, head);
}

}  // namespace

#define ATTENTION_MMA(D)                                                                                               \
  extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                             \
      attention_mma_##D##_bf16(const __grid_constant__ Attention<bf16> a) {                                            \
    attention<D>(a, attention_buffers);                                                                                \
  }
ATTENTION_MMA(16)
ATTENTION_MMA(32)
ATTENTION_MMA(64)
ATTENTION_MMA(128)
