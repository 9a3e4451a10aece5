// What the cached step asks of tensors: how much each row changed, its forecast, and rows side by side.
#include "common.cuh"

namespace {

// Rows that one launch compares: what kernel parameters have room for.
constexpr int MAX_ROWS = 64;

// A row's numbers of now and of before. `pieces` is 0 where there is nothing to compare with.
struct Compared {
  const void* current;
  const void* previous;
  int64_t length;
  int pieces;
};

struct Rows {
  Compared row[MAX_ROWS];
};

// sums[row][piece] = the sum of |previous - current| and that of |previous| over one of a row's pieces. How a row is
// cut depends on its own length alone, so that its sums do not depend on the rows beside it.
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

// Sums that one launch makes, and terms of all of them: what kernel parameters have room for.
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

// Parts that one launch puts side by side.
constexpr int MAX_PARTS = 128;

// 16 bytes each, `length` of them from `from` on go to `begin`.
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
