// 3x3 convolutions in f32 by tiles in shared memory. A block computes 128 pixels by OUT output channels, a thread eight
// adjacent pixels by four output channels.
#include "conv.cuh"

namespace {

constexpr int OUT = 64, ACROSS = OUT / 4, COLUMNS = 8, THREADS = TILE_ROWS * TILE_COLUMNS / COLUMNS * ACROSS;
constexpr int CHANNELS = 8;  // in shared memory at a time

// Loads channels of a halo as one plane each, padded with zeros.
template <int sampling>
__device__ __forceinline__ void load_halo(const Conv<float>& c, const Place& place, int channel, float* halo) {
  constexpr int PIXELS = Halo<sampling>::PIXELS;
  for (int at = threadIdx.x; at < PIXELS * CHANNELS; at += THREADS) {
    const int pixel = at / CHANNELS, i = at % CHANNELS;
    const float* from = halo_pixel<sampling>(c, place, pixel, channel + i);
    halo[i * PIXELS + pixel] = from && channel + i < c.channels ? *from : 0.f;
  }
}

// Loads weights as [tap][channel][output channel].
__device__ __forceinline__ void load_weights(const Conv<float>& c, const Place& place, int channel, float4* weights) {
  const float* from = c.weight + (int64_t)channel * TAPS * c.padded_out + place.out;
  for (int at = threadIdx.x; at < TAPS * CHANNELS * ACROSS; at += THREADS)
    weights[at] = *reinterpret_cast<const float4*>(from + (int64_t)(at / ACROSS) * c.padded_out + at % ACROSS * 4);
}

template <int sampling>
__device__ __forceinline__ void multiply(const float* halo, const float4* weights, int row, int column, int quad,
                                         float (&sums)[COLUMNS][4]) {
  using H = Halo<sampling>;
  for (int channel = 0; channel < CHANNELS; channel++) {
#pragma unroll
    for (int tap = 0; tap < TAPS; tap++) {
      const float* line = halo + channel * H::PIXELS + H::under(row, tap / SIDE) * H::COLUMNS;
      const float4 w = weights[(tap * CHANNELS + channel) * ACROSS + quad];
#pragma unroll
      for (int i = 0; i < COLUMNS; i++) {
        const float x = line[H::under(column + i, tap % SIDE)];
        sums[i][0] = fmaf(x, w.x, sums[i][0]);
        sums[i][1] = fmaf(x, w.y, sums[i][1]);
        sums[i][2] = fmaf(x, w.z, sums[i][2]);
        sums[i][3] = fmaf(x, w.w, sums[i][3]);
      }
    }
  }
}

// Grid: tiles of pixels, and for each tile all blocks of output channels.
template <int sampling>
__device__ __forceinline__ void conv(const Conv<float>& c) {
  __shared__ float halo[Halo<sampling>::PIXELS * CHANNELS];
  __shared__ float4 weights[TAPS * CHANNELS * ACROSS];
  const Place place = place_of(c, OUT);
  const int quad = threadIdx.x % ACROSS, part = threadIdx.x / ACROSS;
  const int row = part / (TILE_COLUMNS / COLUMNS), column = part % (TILE_COLUMNS / COLUMNS) * COLUMNS;
  float sums[COLUMNS][4] = {};
  for (int channel = 0; channel < c.channels; channel += CHANNELS) {
    __syncthreads();  // the previous channels have been read
    load_halo<sampling>(c, place, channel, halo);
    load_weights(c, place, channel, weights);
    __syncthreads();
    multiply<sampling>(halo, weights, row, column, quad, sums);
  }
#pragma unroll
  for (int i = 0; i < COLUMNS; i++) finish4(c, place.row + row, place.column + column + i, place.out + quad * 4, sums[i]);
}

}  // namespace

#define CONV_TILED(NAME, SAMPLING)                                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                             \
      conv_##NAME##_f32(const __grid_constant__ Conv<float> c) {                                                       \
    conv<SAMPLING>(c);                                                                                                 \
  }
CONV_TILED(same, SAME)
CONV_TILED(stride2, STRIDE_2)
CONV_TILED(upsampled, UPSAMPLED)
