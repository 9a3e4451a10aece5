// Norms over one token or pixel.
#include "row.cuh"

namespace {

// out = (x - mean) / sqrt(variance + eps) * (1 + scale[row]) + shift[row]
template <class T>
__device__ __forceinline__ void modulated_layer_norm(const T* x, const T* shift, const T* scale, const uint32_t* offsets,
                                                     T* out, int tokens, int num_rows, int dim, int shift_stride,
                                                     int scale_stride, float eps) {
  const int64_t token = row_index();
  if (token >= tokens) return;
  const int64_t row = row_of(offsets, num_rows, token);
  x += token * dim, out += token * dim, shift += row * shift_stride, scale += row * scale_stride;
  float v[PIECES][WIDTH], sum = 0.f;
  each_piece(dim, [&](int piece, int column) {
    load8(x + column, v[piece]);
    for (float number : v[piece]) sum += number;
  });
  const float mean = row_sum(sum) / dim;
  float squares = 0.f;
  each_piece(dim, [&](int piece, int) {
    for (float number : v[piece]) squares += (number - mean) * (number - mean);
  });
  const float factor = rsqrtf(row_sum(squares) / dim + eps);
  each_piece(dim, [&](int piece, int column) {
    float a[WIDTH], b[WIDTH];
    load8(scale + column, a);
    load8(shift + column, b);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) a[i] = (v[piece][i] - mean) * factor * (1.f + a[i]) + b[i];
    store8(out + column, a);
  });
}

// out = x * factor(sum of squares) * weight, followed by SiLU if `with_silu`.
template <class T, class F>
__device__ __forceinline__ void scaled_by_length(const T* x, const T* weight, T* out, int rows, int dim, bool with_silu,
                                                 F factor_of) {
  const int64_t row = row_index();
  if (row >= rows) return;
  x += row * dim, out += row * dim;
  float v[PIECES][WIDTH], squares = 0.f;
  each_piece(dim, [&](int piece, int column) {
    load8(x + column, v[piece]);
    for (float number : v[piece]) squares += number * number;
  });
  const float factor = factor_of(row_sum(squares));
  each_piece(dim, [&](int piece, int column) {
    float w[WIDTH];
    load8(weight + column, w);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      w[i] = v[piece][i] * factor * w[i];
      if (with_silu) w[i] = silu(w[i]);
    }
    store8(out + column, w);
  });
}

// The factor that scales a pixel's channels to length sqrt(channels). It divides by at least 1e-12.
__device__ __forceinline__ float to_unit(float squares, int channels) {
  return sqrtf((float)channels) / fmaxf(sqrtf(squares), 1e-12f);
}

// The channel norm for any number of channels, one pixel per thread.
template <class T>
__device__ __forceinline__ void channel_norm_of_any(const T* x, const T* gamma, T* out, int pixels, int channels,
                                                    bool with_silu) {
  const int64_t pixel = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  x += pixel * channels, out += pixel * channels;
  float squares = 0.f;
  for (int i = 0; i < channels; i++) squares += to_float(x[i]) * to_float(x[i]);
  const float factor = to_unit(squares, channels);
  for (int i = 0; i < channels; i++) {
    const float normed = to_float(x[i]) * factor * to_float(gamma[i]);
    store(out + i, with_silu ? silu(normed) : normed);
  }
}

// The largest number of requests per launch, limited by the size of kernel parameters.
constexpr int MAX_REQUESTS = 64;

// A request's passes, and the output.
struct Passes {
  const void* cond;
  const void* uncond;
  void* out;
  int tokens;
  float scale;
  int keeps_length;
};

struct Requests {
  Passes request[MAX_REQUESTS];
};

// out = uncond + scale * (cond - uncond), rescaled to the length of cond if `keeps_length`.
template <class T>
__device__ __forceinline__ void guided(const Passes& passes, int dim) {
  const int64_t token = row_index();
  if (token >= passes.tokens) return;
  const T* cond = static_cast<const T*>(passes.cond) + token * dim;
  const T* uncond = static_cast<const T*>(passes.uncond) + token * dim;
  T* out = static_cast<T*>(passes.out) + token * dim;
  const float scale = passes.scale;
  float v[PIECES][WIDTH], length = 0.f, of_cond = 0.f;
  each_piece(dim, [&](int piece, int column) {
    float a[WIDTH], b[WIDTH];
    load8(cond + column, a);
    load8(uncond + column, b);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      v[piece][i] = b[i] + scale * (a[i] - b[i]);
      length += v[piece][i] * v[piece][i];
      of_cond += a[i] * a[i];
    }
  });
  const float factor = passes.keeps_length ? sqrtf(row_sum(of_cond)) / sqrtf(row_sum(length)) : 1.f;
  each_piece(dim, [&](int piece, int column) {
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[piece][i] *= factor;
    store8(out + column, v[piece]);
  });
}

}  // namespace

#define MODULATED_LAYER_NORM(SUFFIX, T)                                                                                \
  extern "C" __global__ void modulated_layer_norm_##SUFFIX(const T* x, const T* shift, const T* scale,                 \
                                                           const uint32_t* offsets, T* out, int tokens, int num_rows,  \
                                                           int dim, int shift_stride, int scale_stride, float eps) {   \
    modulated_layer_norm(x, shift, scale, offsets, out, tokens, num_rows, dim, shift_stride, scale_stride, eps);       \
  }
FOR_BOTH_TYPES(MODULATED_LAYER_NORM)

#define RMS_NORM(SUFFIX, T)                                                                                            \
  extern "C" __global__ void rms_norm_##SUFFIX(const T* x, const T* weight, T* out, int rows, int dim, float eps) {    \
    scaled_by_length(x, weight, out, rows, dim, false,                                                                 \
                     [=](float squares) { return rsqrtf(squares / dim + eps); });                                      \
  }
FOR_BOTH_TYPES(RMS_NORM)

#define CHANNEL_NORM(SUFFIX, T)                                                                                        \
  extern "C" __global__ void channel_norm_##SUFFIX(const T* x, const T* gamma, T* out, int pixels, int channels,       \
                                                   int with_silu) {                                                    \
    scaled_by_length(x, gamma, out, pixels, channels, with_silu,                                                       \
                     [=](float squares) { return to_unit(squares, channels); });                                       \
  }                                                                                                                    \
  extern "C" __global__ void channel_norm_of_any_##SUFFIX(const T* x, const T* gamma, T* out, int pixels,              \
                                                          int channels, int with_silu) {                               \
    channel_norm_of_any(x, gamma, out, pixels, channels, with_silu);                                                   \
  }
FOR_BOTH_TYPES(CHANNEL_NORM)

#define GUIDED(SUFFIX, T)                                                                                              \
  extern "C" __global__ void guided_##SUFFIX(const __grid_constant__ Requests requests, int dim) {                     \
    guided<T>(requests.request[blockIdx.y], dim);                                                                      \
  }
FOR_BOTH_TYPES(GUIDED)
