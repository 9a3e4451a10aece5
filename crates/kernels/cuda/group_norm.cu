// Group norm of [pixels, channels] pictures in three launches: sums over slices of pixels, means and factors of groups
// from these sums, and a pass that applies them.
//
// The first number of a group is subtracted from its numbers before the sums. That keeps the digits of a variance that
// is small compared with the mean.
#include "common.cuh"

namespace {

// sums[slice][group] = sum and sum of squares of a group's numbers in a slice of pixels.
// Threads: channels / WIDTH columns of 8 channels, blockDim.y pixels at a time.
template <class T>
__device__ __forceinline__ void group_sums(const T* x, float2* sums, int64_t pixels, int channels, int num_groups,
                                           float2* of_thread) {
  const int64_t per_slice = (pixels + gridDim.x - 1) / gridDim.x;
  const int64_t first = blockIdx.x * per_slice, end = min(first + per_slice, pixels);
  const int channel = threadIdx.x * WIDTH, per_group = channels / num_groups;
  float shift[WIDTH], sum[WIDTH] = {}, squares[WIDTH] = {};
#pragma unroll
  for (int i = 0; i < WIDTH; i++) shift[i] = to_float(x[(channel + i) / per_group * per_group]);
  for (int64_t pixel = first + threadIdx.y; pixel < end; pixel += blockDim.y) {
    float v[WIDTH];
    load8(x + pixel * channels + channel, v);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      const float less = v[i] - shift[i];
      sum[i] += less;
      squares[i] += less * less;
    }
  }
#pragma unroll
  for (int i = 0; i < WIDTH; i++) of_thread[threadIdx.y * channels + channel + i] = make_float2(sum[i], squares[i]);
  __syncthreads();
  for (int group = threadIdx.y * blockDim.x + threadIdx.x; group < num_groups; group += blockDim.x * blockDim.y) {
    float2 total = make_float2(0.f, 0.f);
    for (int y = 0; y < (int)blockDim.y; y++) {
      for (int i = 0; i < per_group; i++) {
        const float2 part = of_thread[y * channels + group * per_group + i];
        total.x += part.x;
        total.y += part.y;
      }
    }
    sums[(int64_t)blockIdx.x * num_groups + group] = total;
  }
}

// moments[group] = mean and 1 / sqrt(variance + eps). One warp per group.
template <class T>
__device__ __forceinline__ void group_moments(const T* x, const float2* sums, float2* moments, int slices,
                                              int64_t pixels, int channels, int num_groups, float eps) {
  const int group = blockIdx.x, per_group = channels / num_groups;
  float sum = 0.f, squares = 0.f;
  for (int slice = threadIdx.x; slice < slices; slice += 32) {
    const float2 part = sums[(int64_t)slice * num_groups + group];
    sum += part.x;
    squares += part.y;
  }
  const float count = (float)(pixels * per_group);
  const float less = group_sum(sum, 32) / count;
  const float variance = fmaxf(group_sum(squares, 32) / count - less * less, 0.f);
  if (threadIdx.x == 0) moments[group] = make_float2(to_float(x[group * per_group]) + less, rsqrtf(variance + eps));
}

// out = (x - mean) * factor * weight + bias, followed by SiLU if `with_silu`.
template <class T>
__device__ __forceinline__ void apply_group_norm(const T* x, const float2* moments, const float* weight,
                                                 const float* bias, T* out, int64_t pieces, int channels,
                                                 int num_groups, bool with_silu) {
  const int64_t piece = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  const int channel = piece * WIDTH % channels, per_group = channels / num_groups;
  float v[WIDTH], w[WIDTH], b[WIDTH];
  load8(x + piece * WIDTH, v);
  load8(weight + channel, w);
  load8(bias + channel, b);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float2 of_group = moments[(channel + i) / per_group];
    v[i] = (v[i] - of_group.x) * of_group.y * w[i] + b[i];
    if (with_silu) v[i] = silu(v[i]);
  }
  store8(out + piece * WIDTH, v);
}

}  // namespace

extern __shared__ float2 group_norm_sums[];

#define GROUP_NORM(SUFFIX, T)                                                                                          \
  extern "C" __global__ void group_sums_##SUFFIX(const T* x, float2* sums, int64_t pixels, int channels,               \
                                                 int num_groups) {                                                     \
    group_sums(x, sums, pixels, channels, num_groups, group_norm_sums);                                                \
  }                                                                                                                    \
  extern "C" __global__ void group_moments_##SUFFIX(const T* x, const float2* sums, float2* moments, int slices,       \
                                                    int64_t pixels, int channels, int num_groups, float eps) {         \
    group_moments(x, sums, moments, slices, pixels, channels, num_groups, eps);                                        \
  }                                                                                                                    \
  extern "C" __global__ void apply_group_norm_##SUFFIX(const T* x, const float2* moments, const float* weight,         \
                                                       const float* bias, T* out, int64_t pieces, int channels,        \
                                                       int num_groups, int with_silu) {                                \
    apply_group_norm(x, moments, weight, bias, out, pieces, channels, num_groups, with_silu);                          \
  }
FOR_BOTH_TYPES(GROUP_NORM)
