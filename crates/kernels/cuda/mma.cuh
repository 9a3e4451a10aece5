// Warp-level matrix instructions as functions: PTX under nvcc, and the same lane by lane where the kernels are compiled
// for the host. Fragment layouts:
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-fragment-mma-16816-float
#pragma once
#include <cstdint>
#include <cstring>

namespace {

// d (16x8, f32) += a (16x16, bf16) * b (16x8, bf16). With group = lane / 4 and t = lane % 4, a word holds a pair of
// numbers: a: rows group and group + 8 of columns 2t, then both of columns 2t + 8; b: rows 2t, then 2t + 8, of column
// group; d: columns 2t and 2t + 1 of row group, then of row group + 8.
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __NVCC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  struct Operands {
    uint32_t a[4], b[2];
  };
  auto number = [](uint32_t word, int half) {
    const uint32_t bits = word >> (16 * half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  };
  emu::with_warp(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](auto of_lane) {
    const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      const int column = t * 2 + i % 2;
      for (int k = 0; k < 16; k++) {
        const int holder = k % 8 / 2, high = k / 8;
        const Operands &row = of_lane(group * 4 + holder), &of_column = of_lane(column * 4 + holder);
        d[i] += number(row.a[2 * high + i / 2], k % 2) * number(of_column.b[high], k % 2);
      }
    }
  });
#endif
}

// Loads four 8x8 matrices of 16-bit numbers from shared memory. Lane 8m + r passes the address of row r of matrix m. A
// lane gets columns 2t and 2t + 1 of row `group` of each matrix, or with `transposed` rows 2t and 2t + 1 of column
// `group`.
template <bool transposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
#ifdef __NVCC__
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  if (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
#else
  struct Row {
    uint16_t numbers[8];
  } mine;
  std::memcpy(&mine, row, sizeof mine);
  emu::with_warp(mine, [&](auto of_lane) {
    const int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; m++) {
      uint16_t pair[2];
      for (int i = 0; i < 2; i++) {
        const int r = transposed ? 2 * t + i : group, c = transposed ? group : 2 * t + i;
        pair[i] = of_lane(m * 8 + r).numbers[c];
      }
      to[m] = pair[0] | (uint32_t)pair[1] << 16;
    }
  });
#endif
}

// Starts a copy of 16 bytes to shared memory, or of zeros unless `valid`.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#ifdef __NVCC__
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;"
               :
               : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#else
  if (valid) std::memcpy(to, from, 16);
  else std::memset(to, 0, 16);
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
#ifdef __NVCC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` of this thread's groups are in flight.
template <int pending>
__device__ __forceinline__ void wait_for_copies() {
#ifdef __NVCC__
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

}  // namespace
