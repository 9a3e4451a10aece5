// Operands and helpers of the convolution kernels. A block computes a tile of output pixels for some output channels.
// It copies the input pixels that the tile needs, its halo, to shared memory once per block of input channels. Each of
// the nine taps reads them there, so no im2col columns are made.
#pragma once
#include "common.cuh"

namespace {

template <class T>
struct Conv {
  const T* x;         // [height, width, channels]
  const T* weight;    // in the layout of its kernel
  const float* bias;  // [padded_out]
  const T* residual;  // [out_height, out_width, out_channels], or null
  T* out;
  int height, width, channels;
  int out_height, out_width, out_channels;
  int padded_out;  // output channels of the weight, padded with zeros
};

// How output pixels map to input pixels.
enum Sampling {
  SAME,       // padded by one on every side
  STRIDE_2,   // stride 2, padded by one at the right and the bottom only
  UPSAMPLED,  // nearest-neighbour upsampling by two, then like SAME
};

constexpr int TAPS = 9, SIDE = 3;  // of a kernel
constexpr int TILE_ROWS = 8, TILE_COLUMNS = 16;

// The number of input rows that `outs` output rows need.
constexpr int span(int sampling, int outs) {
  return sampling == STRIDE_2 ? 2 * outs + 1 : sampling == UPSAMPLED ? outs / 2 + 2 : outs + 2;
}

// The input pixels that a tile of output pixels needs.
template <int sampling>
struct Halo {
  static constexpr int ROWS = span(sampling, TILE_ROWS), COLUMNS = span(sampling, TILE_COLUMNS);
  static constexpr int PIXELS = ROWS * COLUMNS;

  // The first input row of the tile that starts at output row `out`. Columns work alike.
  static __device__ __forceinline__ int first(int out) {
    return sampling == STRIDE_2 ? 2 * out : sampling == UPSAMPLED ? out / 2 - 1 : out - 1;
  }

  // The row of the halo that a tap reads for an output row of the tile. Columns work alike.
  static __device__ __forceinline__ int under(int out, int tap) {
    return sampling == STRIDE_2 ? 2 * out + tap : sampling == UPSAMPLED ? (out + tap + 1) / 2 : out + tap;
  }
};

// A block's tile and its first output channel. Blocks that share a tile have neighbouring indices.
struct Place {
  int row, column, out;
};

template <class T>
__device__ __forceinline__ Place place_of(const Conv<T>& c, int outs) {
  const int blocks = c.padded_out / outs, tile = blockIdx.x / blocks;
  const int across = (c.out_width + TILE_COLUMNS - 1) / TILE_COLUMNS;
  return {tile / across * TILE_ROWS, tile % across * TILE_COLUMNS, (int)blockIdx.x % blocks * outs};
}

// The numbers of a halo's pixel from a channel on; null outside the picture.
template <int sampling, class T>
__device__ __forceinline__ const T* halo_pixel(const Conv<T>& c, const Place& place, int pixel, int channel) {
  using H = Halo<sampling>;
  const int y = H::first(place.row) + pixel / H::COLUMNS, x = H::first(place.column) + pixel % H::COLUMNS;
  if (y < 0 || y >= c.height || x < 0 || x >= c.width) return nullptr;
  return c.x + ((int64_t)y * c.width + x) * c.channels + channel;
}

// Adds bias and residual to four sums of a pixel, and writes those inside the output.
template <class T>
__device__ __forceinline__ void finish4(const Conv<T>& c, int row, int column, int out, float (&sum)[4]) {
  if (row >= c.out_height || column >= c.out_width || out >= c.out_channels) return;
  const int64_t at = ((int64_t)row * c.out_width + column) * c.out_channels + out;
  const float4 bias = *reinterpret_cast<const float4*>(c.bias + out);
  sum[0] += bias.x, sum[1] += bias.y, sum[2] += bias.z, sum[3] += bias.w;
  if (c.out_channels % 4 == 0) {
    if (c.residual) add4(c.residual + at, sum);
    store4(c.out + at, sum);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (out + i >= c.out_channels) break;
    if (c.residual) sum[i] += to_float(c.residual[at + i]);
    store(c.out + at + i, sum[i]);
  }
}

}  // namespace
