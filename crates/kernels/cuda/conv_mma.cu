// 3x3 convolutions in bf16 by the warp-level products of the tensor cores: an implicit GEMM of pixels by output
// channels. Its sums run over the taps of blocks of CHANNELS input channels.
//
// A block of four warps computes 128 pixels by OUT output channels. It steps through the weights one tap at a time,
// with up to STAGES taps in flight, and copies the next channels' halo while it works on the current one. A row of
// shared memory is a pixel or an output channel. The 16-byte pieces of rows are swizzled, so that eight neighbours lie
// in eight different banks.
#include "conv.cuh"
#include "mma.cuh"

extern __shared__ uint4 conv_buffers[];

namespace {

constexpr int WARPS = 4, THREADS = 32 * WARPS, STAGES = 4;
constexpr int CHANNELS = 32, PIECES = CHANNELS / WIDTH;

__device__ __forceinline__ uint4* piece_of(uint4* rows, int row, int piece) {
  return rows + row * PIECES + (piece ^ (row / 2 % PIECES));
}

// A warp's part of the block: rows of 16 pixels by fragments of eight output channels.
template <int OUT>
struct Part {
  static constexpr int ACROSS = OUT == 32 ? 1 : 2;  // warps along the output channels
  static constexpr int ROWS = TILE_ROWS * ACROSS / WARPS;
  static constexpr int FRAGMENTS = OUT / ACROSS / 8;
};

// Starts the copy of the halo's channels from `channel` on, padded with zeros.
template <int sampling>
__device__ __forceinline__ void copy_halo(const Conv<bf16>& c, const Place& place, uint4* halo, int channel) {
  for (int at = threadIdx.x; at < Halo<sampling>::PIXELS * PIECES; at += THREADS) {
    const int pixel = at / PIECES, piece = at % PIECES, first = channel + piece * WIDTH;
    const bf16* from = halo_pixel<sampling>(c, place, pixel, first);
    uint4* to = piece_of(halo, pixel, piece);
    if (c.channels % WIDTH == 0) {
      const bool valid = from && first < c.channels;
      copy_async(to, valid ? from : c.x, valid);
      continue;
    }
    uint32_t words[WIDTH / 2] = {};
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
      if (from && first + i < c.channels)
        words[i / 2] |= (uint32_t) reinterpret_cast<const uint16_t*>(from)[i] << (i % 2 * 16);
    *to = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// Starts the copy of the weights of a tap and CHANNELS input channels, one row per output channel.
template <int OUT>
__device__ __forceinline__ void copy_weights(const Conv<bf16>& c, int first_out, uint4* weights, int step) {
  const bf16* from = c.weight + ((int64_t)step * c.padded_out + first_out) * CHANNELS;
#pragma unroll
  for (int i = 0; i < OUT * PIECES / THREADS; i++) {
    const int at = i * THREADS + threadIdx.x;
    copy_async(piece_of(weights, at / PIECES, at % PIECES), from + at * WIDTH, true);
  }
}

// Adds the products of one tap. `channels` input channels are left.
template <int sampling, int OUT>
__device__ __forceinline__ void multiply(uint4* halo, uint4* weights, int tap, int channels,
                                         float (&sums)[Part<OUT>::ROWS][Part<OUT>::FRAGMENTS][4]) {
  using H = Halo<sampling>;
  using P = Part<OUT>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrix = lane / 8;
  const int first_row = warp / P::ACROSS * P::ROWS, first_out = warp % P::ACROSS * P::FRAGMENTS * 8;
  const int column = H::under(lane % 16, tap % SIDE);
#pragma unroll
  for (int half = 0; half < CHANNELS / 16; half++) {
    if (half * 16 >= channels) break;
    uint32_t a[P::ROWS][4];
#pragma unroll
    for (int m = 0; m < P::ROWS; m++) {
      const int pixel = H::under(first_row + m, tap / SIDE) * H::COLUMNS + column;
      load_matrices<false>(a[m], piece_of(halo, pixel, half * 2 + lane / 16));
    }
#pragma unroll
    for (int n = 0; n < P::FRAGMENTS; n += 2) {
      uint32_t b[4];  // both halves of the sum for output channels 8n to 8n + 7, then for the next eight
      const int out = first_out + n * 8 + matrix / 2 * 8 + lane % 8;
      load_matrices<false>(b, piece_of(weights, out, half * 2 + matrix % 2));
#pragma unroll
      for (int m = 0; m < P::ROWS; m++) {
        mma(sums[m][n], a[m], b[0], b[1]);
        mma(sums[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Neighbouring lanes exchange sums of two fragments, so that each lane has four output channels of one fragment.
template <int OUT>
__device__ __forceinline__ void finish(const Conv<bf16>& c, const Place& place,
                                       const float (&sums)[Part<OUT>::ROWS][Part<OUT>::FRAGMENTS][4]) {
  using P = Part<OUT>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, t = lane % 4;
  const bool odd = t % 2;
  const int first_row = place.row + warp / P::ACROSS * P::ROWS;
  const int first_out = place.out + warp % P::ACROSS * P::FRAGMENTS * 8 + odd * 8 + t / 2 * 4;
#pragma unroll
  for (int m = 0; m < P::ROWS; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int n = 0; n < P::FRAGMENTS; n += 2) {
        const float *left = sums[m][n] + 2 * half, *right = sums[m][n + 1] + 2 * half;
        const float low = __shfl_xor_sync(~0u, odd ? left[0] : right[0], 1);
        const float high = __shfl_xor_sync(~0u, odd ? left[1] : right[1], 1);
        float four[4] = {odd ? low : left[0], odd ? high : left[1], odd ? right[0] : low, odd ? right[1] : high};
        finish4(c, first_row + m, place.column + group + half * 8, first_out + n * 8, four);
      }
    }
  }
}

// Grid: tiles of pixels, and for each tile all blocks of output channels.
template <int sampling, int OUT>
__device__ __forceinline__ void conv(const Conv<bf16>& c, uint4* buffers) {
  constexpr int HALO = Halo<sampling>::PIXELS * PIECES, WEIGHTS = OUT * PIECES;
  uint4* stages = buffers + 2 * HALO;
  const Place place = place_of(c, OUT);
  const int steps = (c.channels + CHANNELS - 1) / CHANNELS * TAPS;
  float sums[Part<OUT>::ROWS][Part<OUT>::FRAGMENTS][4] = {};
  copy_halo<sampling>(c, place, buffers, 0);
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) {
    copy_weights<OUT>(c, place.out, stages + step * WEIGHTS, step);
    commit_copies();
  }
  for (int step = 0, tap = 0, channel = 0, halo = 0; step < steps; step++) {
    wait_for_copies<STAGES - 2>();
    __syncthreads();  // all copies for this step have arrived, and all threads have read those of the previous step
    if (tap == 0 && channel + CHANNELS < c.channels)
      copy_halo<sampling>(c, place, buffers + (halo ^ 1) * HALO, channel + CHANNELS);
    const int next = step + STAGES - 1;
    if (next < steps) copy_weights<OUT>(c, place.out, stages + next % STAGES * WEIGHTS, next);
    commit_copies();
    multiply<sampling, OUT>(buffers + halo * HALO, stages + step % STAGES * WEIGHTS, tap, c.channels - channel, sums);
    if (++tap == TAPS) tap = 0, channel += CHANNELS, halo ^= 1;
  }
  finish<OUT>(c, place, sums);
}

}  // namespace

#define CONV_MMA(NAME, SAMPLING, OUT)                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                \
      conv_##NAME##_##OUT##_bf16(const __grid_constant__ Conv<bf16> c) {                                               \
    conv<SAMPLING, OUT>(c, conv_buffers);                                                                              \
  }
#define ALL_OUTS(NAME, SAMPLING) \
  CONV_MMA(NAME, SAMPLING, 32)   \
  CONV_MMA(NAME, SAMPLING, 96)   \
  CONV_MMA(NAME, SAMPLING, 128)
ALL_OUTS(same, SAME)
ALL_OUTS(stride2, STRIDE_2)
ALL_OUTS(upsampled, UPSAMPLED)
