// What the cached step asks of tensors: how much each row changed, and its forecast.
#include "common.cuh"

namespace {

// Rows that one launch compares, and terms that one launch adds: what kernel parameters have room for.
constexpr int MAX_ROWS = 64, MAX_TERMS = 16;

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

struct Term {
  const void* numbers;
  float weight;
};

struct Terms {
  Term term[MAX_TERMS];
};

// out = x + sum(weight * term)
template <class T>
__device__ __forceinline__ void add_weighted(const T* x, const Terms& terms, int num_terms, T* out, int64_t pieces) {
  const int64_t piece = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  float sum[WIDTH], numbers[WIDTH];
  load8(x + piece * WIDTH, sum);
  for (int term = 0; term < num_terms; term++) {
    load8(static_cast<const T*>(terms.term[term].numbers) + piece * WIDTH, numbers);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = fmaf(terms.term[term].weight, numbers[i], sum[i]);
  }
  store8(out + piece * WIDTH, sum);
}

}  // namespace

#define ABS_SUMS(SUFFIX, T)                                                                                            \
  extern "C" __global__ void abs_sums_##SUFFIX(const __grid_constant__ Rows rows, float2* sums, int max_pieces) {      \
    abs_sums<T>(rows.row[blockIdx.y], sums + (int64_t)blockIdx.y * max_pieces + blockIdx.x);                           \
  }
FOR_BOTH_TYPES(ABS_SUMS)

#define ADD_WEIGHTED(SUFFIX, T)                                                                                        \
  extern "C" __global__ void add_weighted_##SUFFIX(const T* x, const __grid_constant__ Terms terms, int num_terms,     \
                                                   T* out, int64_t pieces) {                                           \
    add_weighted(x, terms, num_terms, out, pieces);                                                                    \
  }
FOR_BOTH_TYPES(ADD_WEIGHTED)
