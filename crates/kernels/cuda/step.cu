// Tensor operations of the cached step: the change of each row, its forecast, and the concatenation of rows.
#include "common.cuh"

namespace {

// The largest number of rows per launch, limited by the size of kernel parameters.
constexpr int MAX_ROWS = 64;

// The current and previous numbers of a row. `pieces` is 0 if there is nothing to compare with.
struct Compared {
  const void* current;
  const void* previous;
  int64_t length;
  int pieces;
};

struct Rows {
  Compared row[MAX_ROWS];
};

// sums[row][piece] = the sums of |previous - current| and of |previous| over one piece of a row. The pieces of a row
// depend only on its own length, so its sums do not depend on other rows.
template <class T>
__device__ __forceinline__ void abs_sums(const Compared& row, float2* sums) {
  if ((int)blockIdx.x >= row.pieces) return;
  const T *current = static_cast<const T*>(row.current), *previous = static_cast<const T*>(row.previous);
  const int64_t vectors = row.length / WIDTH, piece = (vectors + row.pieces - 1) / row.pieces;
  const int64_t first = blockIdx.x * piece, end = min(first + piece, vectors);
  float diff = 0.f, size = 0.f;
  for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
    float a[WIDTH], b[WIDTH];
    load8(current + i * WIDTH, a);
    load8(previous + i * WIDTH, b);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) {
      diff += fabsf(b[k] - a[k]);
      size += fabsf(b[k]);
    }
  }
  diff = row_sum(diff);
  size = row_sum(size);
  if (threadIdx.x == 0) *sums = make_float2(diff, size);
}

// The largest numbers of sums, and of terms of all sums, per launch, limited by the size of kernel parameters.
constexpr int MAX_SUMS = 48, MAX_TERMS = 128;

// out = sum(weight * term) over `num_terms` terms from `first_term` on.
struct Sum {
  void* out;
  int64_t pieces;
  int first_term, num_terms;
};

struct Term {
  const void* numbers;
  float weight;
};

struct Sums {
  Sum sum[MAX_SUMS];
  Term term[MAX_TERMS];
};

template <class T>
__device__ __forceinline__ void weighted_sums(const Sums& sums) {
  const Sum& sum = sums.sum[blockIdx.y];
  const int64_t piece = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= sum.pieces) return;
  float total[WIDTH] = {}, numbers[WIDTH];
  for (int i = 0; i < sum.num_terms; i++) {
    const Term& term = sums.term[sum.first_term + i];
    load8(static_cast<const T*>(term.numbers) + piece * WIDTH, numbers);
#pragma unroll
    for (int k = 0; k < WIDTH; k++) total[k] = fmaf(term.weight, numbers[k], total[k]);
  }
  store8(static_cast<T*>(sum.out) + piece * WIDTH, total);
}

// The largest number of parts per launch.
constexpr int MAX_PARTS = 128;

// A copy of `length` pieces of 16 bytes from `from` to index `begin` of the output.
struct Part {
  const uint4* from;
  int64_t begin, length;
};

struct Parts {
  Part part[MAX_PARTS];
};

__device__ __forceinline__ void gather(const Part& part, uint4* out) {
  const int64_t stride = (int64_t)gridDim.x * blockDim.x;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < part.length; i += stride)
    out[part.begin + i] = part.from[i];
}

}  // namespace

#define ABS_SUMS(SUFFIX, T)                                                                                            \
  extern "C" __global__ void abs_sums_##SUFFIX(const __grid_constant__ Rows rows, float2* sums, int max_pieces) {      \
    abs_sums<T>(rows.row[blockIdx.y], sums + (int64_t)blockIdx.y * max_pieces + blockIdx.x);                           \
  }
FOR_BOTH_TYPES(ABS_SUMS)

#define WEIGHTED_SUMS(SUFFIX, T)                                                                                       \
  extern "C" __global__ void weighted_sums_##SUFFIX(const __grid_constant__ Sums sums) { weighted_sums<T>(sums); }
FOR_BOTH_TYPES(WEIGHTED_SUMS)

#define GATHER(SUFFIX, T)                                                                                              \
  extern "C" __global__ void gather_##SUFFIX(const __grid_constant__ Parts parts, uint4* out) {                        \
    gather(parts.part[blockIdx.y], out);                                                                               \
  }
FOR_BOTH_TYPES(GATHER)
