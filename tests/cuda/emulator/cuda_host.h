// CUDA C++ for g++. Included before an unchanged .cu, it maps CUDA's keywords, built-in variables and functions to
// fibers (fibers.h). NVIDIA's headers provide the vector types and the 16-bit and 8-bit float types.
#pragma once
#define __CUDACC__ 1  // NVIDIA's headers then declare all of their interface
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_INCLUDE_COMPILER_INTERNAL_HEADERS__
#include <crt/host_defines.h>
#include <vector_functions.h>
#include <vector_types.h>
#undef __shared__
#undef __constant__
#undef __global__
#undef __device__
#undef __host__
#undef __launch_bounds__
#undef __grid_constant__
#undef __forceinline__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#ifndef KERNEL_MARK  // what list_kernels.sh looks for
#define KERNEL_MARK
#endif
#define __global__ KERNEL_MARK
#define __shared__ thread_local
#define warpSize 32

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "fibers.h"

#define threadIdx (emu::running.thread->index)
#define blockIdx (emu::running.block)
#define blockDim (emu::running.block_dim)
#define gridDim (emu::running.grid_dim)

// ---- barriers and warp primitives
inline void __syncthreads() { emu::barrier(); }
inline void __syncwarp(unsigned mask = ~0u) {
  emu::meet(mask, 0, [](auto&, unsigned) { return 0; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { emu::fail("__trap()"); }

namespace emu {
// Every lane gets the value of the lane that `source` names.
template <class T, class Source>
inline T shuffle(unsigned mask, T x, Source source) {
  return meet(mask, x, [=](auto& meeting, unsigned lane) { return value_of<T>(meeting, source((int)lane)); });
}
// Calls `use` with a function from a lane's number to its value. This is cheaper than one shuffle per value.
template <class T, class Use>
inline void with_warp(const T& mine, Use use) {
  meet(~0u, mine, [&](auto& meeting, unsigned) {
    use([&](unsigned lane) -> const T& { return *(const T*)meeting.values[lane]; });
    return 0;
  });
}
}  // namespace emu
template <class T>
inline T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
  return emu::shuffle(mask, x, [=](int lane) { return (lane & ~(width - 1)) | (from & (width - 1)); });
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
  return emu::shuffle(mask, x, [=](int lane) {
    const int from = lane ^ bits;
    return (from & ~(width - 1)) > (lane & ~(width - 1)) ? lane : from;
  });
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
  return emu::shuffle(mask, x, [=](int lane) { return (lane & (width - 1)) + (int)by < width ? lane + (int)by : lane; });
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
  return emu::shuffle(mask, x, [=](int lane) { return (lane & (width - 1)) >= (int)by ? lane - (int)by : lane; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emu::meet(mask, predicate, [](auto& meeting, unsigned) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; lane++)
      if (meeting.mask >> lane & 1) votes |= (unsigned)(emu::value_of<int>(meeting, lane) != 0) << lane;
    return votes;
  });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// ---- atomics: the threads of a block never run at the same time
template <class T, class V>
inline T atomicAdd(T* p, V x) {
  T old = *p;
  *p = old + T(x);
  return old;
}
template <class T, class V>
inline T atomicMax(T* p, V x) {
  T old = *p;
  *p = std::max(old, T(x));
  return old;
}
template <class T, class V>
inline T atomicMin(T* p, V x) {
  T old = *p;
  *p = std::min(old, T(x));
  return old;
}
template <class T, class V>
inline T atomicExch(T* p, V x) {
  T old = *p;
  *p = T(x);
  return old;
}
template <class T>
inline T atomicCAS(T* p, T expected, T x) {
  T old = *p;
  if (old == expected) *p = x;
  return old;
}
template <class T>
inline T __ldg(const T* p) {
  return *p;
}

// ---- scalar functions; the fast ones are exact here
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frsqrt_rn(float a) { return 1.f / std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmaf_ieee_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? std::min(x, 1.f) : 0; }
inline float normcdff(float x) { return 0.5f * std::erfc(x * -0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * std::erfc(x * -0.70710678118654752440); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

namespace emu {
template <class To, class From>
inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
// Converts to float, rounding 'n' to nearest, 'z' to zero, 'd' down or 'u' up.
template <class I>
inline float to_float(I i, char mode) {
  const float f = (float)i;
  const long double over = (long double)f - (long double)i;
  const bool down = mode == 'd' || (mode == 'z' && i > 0), up = mode == 'u' || (mode == 'z' && i < 0);
  if (down && over > 0) return std::nextafterf(f, -INFINITY);
  if (up && over < 0) return std::nextafterf(f, INFINITY);
  return f;
}
// Converts to an integer, saturating as on the device.
template <class I>
inline I to_integer(float f, char mode) {
  using Limits = std::numeric_limits<I>;
  if (f != f) return sizeof(I) == 8 ? I(1ull << 63) : 0;
  const float r = mode == 'n'   ? std::nearbyint(f)
                  : mode == 'z' ? std::trunc(f)
                  : mode == 'd' ? std::floor(f)
                                : std::ceil(f);
  return r <= (float)Limits::min() ? Limits::min() : r >= (float)Limits::max() ? Limits::max() : (I)r;
}
}  // namespace emu
inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
inline int __float_as_int(float x) { return emu::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
inline float __int_as_float(int x) { return emu::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emu::bits<double>(x); }
#define EMU_CONVERSION(NAME, TYPE, SUFFIX, MODE)                                             \
  inline float __##NAME##2float_##SUFFIX(TYPE x) { return emu::to_float(x, MODE); }          \
  inline TYPE __float2##NAME##_##SUFFIX(float x) { return emu::to_integer<TYPE>(x, MODE); }
#define EMU_CONVERSIONS(NAME, TYPE)   \
  EMU_CONVERSION(NAME, TYPE, rn, 'n') \
  EMU_CONVERSION(NAME, TYPE, rz, 'z') \
  EMU_CONVERSION(NAME, TYPE, rd, 'd') \
  EMU_CONVERSION(NAME, TYPE, ru, 'u')
EMU_CONVERSIONS(int, int)
EMU_CONVERSIONS(uint, unsigned)
EMU_CONVERSIONS(ll, long long)
EMU_CONVERSIONS(ull, unsigned long long)

// ---- 16-bit and 8-bit floats
// NVIDIA's overloads are inline PTX except for the newest compilers. They are renamed while the headers are read, and
// replaced by the definitions here. Inline PTX that is reached ends the kernel with a report.
#define asm(...) emu::fail("inline PTX: " #__VA_ARGS__)
#define EMU_RENAMED(name) emu_nvidia_##name
#define hexp EMU_RENAMED(hexp)
#define hexp2 EMU_RENAMED(hexp2)
#define hlog EMU_RENAMED(hlog)
#define hlog2 EMU_RENAMED(hlog2)
#define hsqrt EMU_RENAMED(hsqrt)
#define hrsqrt EMU_RENAMED(hrsqrt)
#define hrcp EMU_RENAMED(hrcp)
#define hsin EMU_RENAMED(hsin)
#define hcos EMU_RENAMED(hcos)
#define htanh EMU_RENAMED(htanh)
#define hceil EMU_RENAMED(hceil)
#define hfloor EMU_RENAMED(hfloor)
#define hrint EMU_RENAMED(hrint)
#define htrunc EMU_RENAMED(htrunc)
#define __hfma EMU_RENAMED(hfma)
#define atomicAdd EMU_RENAMED(atomicAdd)
#define __shfl_sync EMU_RENAMED(shfl)
#define __shfl_xor_sync EMU_RENAMED(shfl_xor)
#define __shfl_down_sync EMU_RENAMED(shfl_down)
#define __shfl_up_sync EMU_RENAMED(shfl_up)
#define __ldg EMU_RENAMED(ldg)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#undef hexp
#undef hexp2
#undef hlog
#undef hlog2
#undef hsqrt
#undef hrsqrt
#undef hrcp
#undef hsin
#undef hcos
#undef htanh
#undef hceil
#undef hfloor
#undef hrint
#undef htrunc
#undef __hfma
#undef atomicAdd
#undef __shfl_sync
#undef __shfl_xor_sync
#undef __shfl_down_sync
#undef __shfl_up_sync
#undef __ldg
#define EMU_HALF_FUNCTION(name, value) \
  template <class T>                   \
  inline T name(T half) {              \
    const float x = (float)half;       \
    return T(value);                   \
  }
EMU_HALF_FUNCTION(hexp, std::exp(x))
EMU_HALF_FUNCTION(hexp2, std::exp2(x))
EMU_HALF_FUNCTION(hlog, std::log(x))
EMU_HALF_FUNCTION(hlog2, std::log2(x))
EMU_HALF_FUNCTION(hsqrt, std::sqrt(x))
EMU_HALF_FUNCTION(hrsqrt, 1 / std::sqrt(x))
EMU_HALF_FUNCTION(hrcp, 1 / x)
EMU_HALF_FUNCTION(hsin, std::sin(x))
EMU_HALF_FUNCTION(hcos, std::cos(x))
EMU_HALF_FUNCTION(htanh, std::tanh(x))
EMU_HALF_FUNCTION(hceil, std::ceil(x))
EMU_HALF_FUNCTION(hfloor, std::floor(x))
EMU_HALF_FUNCTION(hrint, std::nearbyint(x))
EMU_HALF_FUNCTION(htrunc, std::trunc(x))
template <class T>
inline T __hfma(T a, T b, T c) {
  return T(std::fma((float)a, (float)b, (float)c));
}

#ifdef KERNEL_ARCH  // after the headers, which have to take their host's branches
#define __CUDA_ARCH__ KERNEL_ARCH
#endif
