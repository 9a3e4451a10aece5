// Turns a layer's output, the queries, keys and values of a token side by side, into the input of attention. Queries
// and keys are normalised and rotated. For joint attention the text of a row precedes its image.
#include "common.cuh"

namespace {

// The largest number of rows per launch, limited by the size of kernel parameters.
constexpr int MAX_ROWS = 64;

// Cosines and sines of each row's positions, [positions, head_dim / 2].
struct Tables {
  const float* cos[MAX_ROWS];
  const float* sin[MAX_ROWS];
};

template <class T>
struct Stream {
  const T* qkv;
  const T* norm_q;
  const T* norm_k;
  const uint32_t* offsets;  // null if no row has a token
};

template <class T>
__device__ __forceinline__ uint32_t begin_of(const Stream<T>& stream, int row) {
  return offset_of(stream.offsets, row);
}

// The row of a joint token, as `row_of` on the sums of both offsets.
template <class T>
__device__ __forceinline__ int joint_row_of(const Stream<T>& text, const Stream<T>& image, int low, int high,
                                            uint32_t token) {
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (begin_of(text, middle) + begin_of(image, middle) <= token) low = middle;
    else high = middle;
  }
  return low;
}

// x / sqrt(mean(x^2) + eps) * weight of a head, eight numbers per lane.
template <class T>
__device__ __forceinline__ void norm(float (&x)[WIDTH], const T* weight, int head_dim, float eps) {
  float squares = 0.f, w[WIDTH];
#pragma unroll
  for (int i = 0; i < WIDTH; i++) squares += x[i] * x[i];
  const float factor = rsqrtf(group_sum(squares, head_dim / WIDTH) / head_dim + eps);
  load8(weight, w);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) x[i] *= factor * w[i];
}

// Rotates the pairs (x[2i], x[2i + 1]) by the angles of this lane's numbers.
__device__ __forceinline__ void turn_interleaved(float (&x)[WIDTH], const float* cos, const float* sin) {
  const float4 c = *reinterpret_cast<const float4*>(cos), s = *reinterpret_cast<const float4*>(sin);
  const float cosines[4] = {c.x, c.y, c.z, c.w}, sines[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
  for (int i = 0; i < WIDTH / 2; i++) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = b * cosines[i] + a * sines[i];
  }
}

// Rotates the pairs (x[i], x[i + head_dim / 2]). Another lane holds the other half of each pair.
__device__ __forceinline__ void turn_halves(float (&x)[WIDTH], const float* cos, const float* sin, int feature,
                                            int head_dim) {
  const bool is_second = feature >= head_dim / 2;
  const int angle = is_second ? feature - head_dim / 2 : feature;
  float c[WIDTH], s[WIDTH];
  load8(cos + angle, c);
  load8(sin + angle, s);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float other = __shfl_xor_sync(~0u, x[i], head_dim / WIDTH / 2);
    x[i] = x[i] * c[i] + (is_second ? other : -other) * s[i];
  }
}

// Calls f(piece, is_one) for `pieces` pieces of a token. Whole warps iterate so that all lanes take part in sums and
// shuffles. Lanes past the end repeat the last piece with is_one = false.
template <class F>
__device__ __forceinline__ void each_piece(int pieces, F f) {
  const int lane = threadIdx.x % 32;
  for (int first = threadIdx.x - lane; first < pieces; first += blockDim.x)
    f(min(first + lane, pieces - 1), first + lane < pieces);
}

// A block handles one token: head_dim / WIDTH lanes for each head of its queries, then of its keys, then with three
// parts of its values.
template <class T>
__device__ __forceinline__ void joint_qkv(const Stream<T>& text, const Stream<T>& image, const Tables& tables,
                                          int first_row, int end_row, T* out, int64_t tokens, int parts, int num_heads,
                                          int head_dim, float eps) {
  const uint32_t token = begin_of(text, first_row) + begin_of(image, first_row) + blockIdx.x;
  const int row = joint_row_of(text, image, first_row, end_row, token), dim = num_heads * head_dim;
  const uint32_t text_begin = begin_of(text, row), text_len = begin_of(text, row + 1) - text_begin;
  const uint32_t image_begin = begin_of(image, row), position = token - text_begin - image_begin;
  const bool is_text = position < text_len;
  const Stream<T>& stream = is_text ? text : image;
  const int64_t source = is_text ? text_begin + position : image_begin + position - text_len;
  const T* from = stream.qkv + source * 3 * dim;
  const int pieces = dim / WIDTH, lanes = head_dim / WIDTH;
  each_piece(parts * pieces, [&](int piece, bool is_one) {
    const int part = piece / pieces, column = (piece - part * pieces) * WIDTH, feature = piece % lanes * WIDTH;
    const int64_t angle = (int64_t)position * (head_dim / 2) + feature / 2;
    float x[WIDTH], turned[WIDTH];
    load8(from + piece * WIDTH, x);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) turned[i] = x[i];
    norm(turned, (part == 0 ? stream.norm_q : stream.norm_k) + feature, head_dim, eps);
    turn_interleaved(turned, tables.cos[row - first_row] + angle, tables.sin[row - first_row] + angle);
    if (!is_one) return;
    T* to = out + ((int64_t)part * tokens + token) * dim + column;
    if (part == 2) store8(to, x);
    else store8(to, turned);
  });
}

// Queries and keys, [tokens, (num_heads + num_kv_heads) * head_dim], of input tokens that also hold values. The norms
// may be null.
template <class T>
__device__ __forceinline__ void turned_qk(const T* qkv, const T* norm_q, const T* norm_k, const float* cos,
                                          const float* sin, T* out, int num_heads, int num_kv_heads, int head_dim,
                                          float eps) {
  const int64_t token = blockIdx.x;
  const int width = (num_heads + 2 * num_kv_heads) * head_dim, kept = (num_heads + num_kv_heads) * head_dim;
  each_piece(kept / WIDTH, [&](int piece, bool is_one) {
    const int column = piece * WIDTH, feature = column % head_dim;
    const T* weight = column < num_heads * head_dim ? norm_q : norm_k;
    float x[WIDTH];
    load8(qkv + token * width + column, x);
    if (norm_q) norm(x, weight + feature, head_dim, eps);
    turn_halves(x, cos + token * (head_dim / 2), sin + token * (head_dim / 2), feature, head_dim);
    if (is_one) store8(out + token * kept + column, x);
  });
}

}  // namespace

#define JOINT_QKV(SUFFIX, T)                                                                                           \
  extern "C" __global__ void joint_qkv_##SUFFIX(                                                                       \
      const __grid_constant__ Stream<T> text, const __grid_constant__ Stream<T> image,                                 \
      const __grid_constant__ Tables tables, int first_row, int end_row, T* out, int64_t tokens, int parts,            \
      int num_heads, int head_dim, float eps) {                                                                        \
    joint_qkv(text, image, tables, first_row, end_row, out, tokens, parts, num_heads, head_dim, eps);                  \
  }
FOR_BOTH_TYPES(JOINT_QKV)

#define TURNED_QK(SUFFIX, T)                                                                                           \
  extern "C" __global__ void turned_qk_##SUFFIX(const T* qkv, const T* norm_q, const T* norm_k, const float* cos,      \
                                                const float* sin, T* out, int num_heads, int num_kv_heads,             \
                                                int head_dim, float eps) {                                             \
    turned_qk(qkv, norm_q, norm_k, cos, sin, out, num_heads, num_kv_heads, head_dim, eps);                             \
  }
FOR_BOTH_TYPES(TURNED_QK)
