// The parts of cuBLAS, cuBLASLt and cuRAND that candle and this project call. Products are summed in f32.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <curand.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "driver.h"

namespace {
float load(const void* p, size_t i, int type) {
  switch (type) {
    case CUDA_R_32F: return ((const float*)p)[i];
    case CUDA_R_16F: return __half2float(((const __half*)p)[i]);
    case CUDA_R_16BF: return __bfloat162float(((const __nv_bfloat16*)p)[i]);
    case CUDA_R_8F_E4M3: return (float)((const __nv_fp8_e4m3*)p)[i];
  }
  COMPLAIN("a product of numbers of type %d", type);
  abort();
}
void store(void* p, size_t i, int type, float x) {
  switch (type) {
    case CUDA_R_32F: ((float*)p)[i] = x; return;
    case CUDA_R_16F: ((__half*)p)[i] = __float2half(x); return;
    case CUDA_R_16BF: ((__nv_bfloat16*)p)[i] = __float2bfloat16(x); return;
    case CUDA_R_8F_E4M3: ((__nv_fp8_e4m3*)p)[i] = __nv_fp8_e4m3(x); return;
  }
  COMPLAIN("a product's result of type %d", type);
  abort();
}

struct Matrix {
  void* data;
  int type;
  int64_t stride;        // between columns
  int64_t batch_stride;  // between matrices
};
// The operation on a product's element before it is stored.
struct Epilogue {
  int kind = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int bias_type = CUDA_R_16BF;
  const float *scale_a = nullptr, *scale_b = nullptr;
  bool a_by_row = false, b_by_column = false;

  float apply(float x, int64_t row) const {
    if (kind & CUBLASLT_EPILOGUE_BIAS) x += load(bias, row, bias_type);
    if (kind & 2 /* ReLU */) x = std::max(x, 0.f);
    if (kind & CUBLASLT_EPILOGUE_GELU) x = 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    return x;
  }
};
struct Product {
  bool transposed_a, transposed_b;
  int64_t m, n, k;
  float alpha, beta;
  Matrix a, b, c, d;
  int batch = 1;
  Epilogue epilogue;
};

// d = alpha * op(a) op(b) + beta * c, all column-major.
void multiply(const Product& p) {
  count(Products);
  TRACE("product %ldx%ldx%ld, batch of %d, epilogue %d", (long)p.m, (long)p.n, (long)p.k, p.batch, p.epilogue.kind);
  std::vector<float> a(p.m * p.k), b(p.n * p.k);  // rows of op(a), columns of op(b)
  const Epilogue& e = p.epilogue;
  for (int batch = 0; batch < p.batch; batch++) {
    auto at = [=](const Matrix& x, int64_t row, int64_t column) { return batch * x.batch_stride + row + column * x.stride; };
    for (int64_t i = 0; i < p.m; i++)
      for (int64_t l = 0; l < p.k; l++)
        a[i * p.k + l] = load(p.a.data, p.transposed_a ? at(p.a, l, i) : at(p.a, i, l), p.a.type);
    for (int64_t j = 0; j < p.n; j++)
      for (int64_t l = 0; l < p.k; l++)
        b[j * p.k + l] = load(p.b.data, p.transposed_b ? at(p.b, j, l) : at(p.b, l, j), p.b.type);
    for (int64_t j = 0; j < p.n; j++)
      for (int64_t i = 0; i < p.m; i++) {
        float sum = 0;
        for (int64_t l = 0; l < p.k; l++) sum += a[i * p.k + l] * b[j * p.k + l];
        if (e.scale_a) sum *= e.scale_a[e.a_by_row ? i : 0];
        if (e.scale_b) sum *= e.scale_b[e.b_by_column ? j : 0];
        sum *= p.alpha;
        if (p.beta != 0) sum += p.beta * load(p.c.data, at(p.c, i, j), p.c.type);
        store(p.d.data, at(p.d, i, j), p.d.type, e.apply(sum, i));
      }
  }
}

template <class Handle>
auto created(Handle* handle) {
  *handle = (Handle) new char;
  return 0;
}
// With a broken context a library may fail here too. This assumes the worst.
template <class Handle>
auto destroyed(Handle handle) {
  if (broken()) return 14;  // CUBLAS_STATUS_INTERNAL_ERROR, and no curandStatus that is a success
  delete (char*)handle;
  return 0;
}
}  // namespace

// ---- cuBLAS
using Status = cublasStatus_t;
API Status cublasCreate_v2(cublasHandle_t* handle) { return (Status)created(handle); }
API Status cublasDestroy_v2(cublasHandle_t handle) { return (Status)destroyed(handle); }
API Status cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
API Status cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
API Status cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
API Status cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                      const void* alpha, const void* a, cudaDataType a_type, int lda, long long step_a,
                                      const void* b, cudaDataType b_type, int ldb, long long step_b, const void* beta,
                                      void* c, cudaDataType c_type, int ldc, long long step_c, int batch,
                                      cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (broken()) return CUBLAS_STATUS_EXECUTION_FAILED;
  const bool in_f16 = compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC;
  const int scalar = in_f16 ? CUDA_R_16F : CUDA_R_32F;
  const Matrix out{c, c_type, ldc, step_c};
  multiply({ta != CUBLAS_OP_N, tb != CUBLAS_OP_N, m, n, k, load(alpha, 0, scalar), load(beta, 0, scalar),
            {(void*)a, a_type, lda, step_a}, {(void*)b, b_type, ldb, step_b}, out, out, batch});
  return CUBLAS_STATUS_SUCCESS;
}
API Status cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                        const void* alpha, const void* a, cudaDataType a_type, int lda, const void* b,
                        cudaDataType b_type, int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                        cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type,
                                    ldc, 0, 1, compute, algorithm);
}

// ---- cuBLASLt: descriptions are tables of attributes
namespace {
struct Description {
  std::map<int, std::vector<char>> attributes;

  template <class T>
  T get(int attribute, T otherwise = {}) const {
    const auto found = attributes.find(attribute);
    if (found != attributes.end()) memcpy(&otherwise, found->second.data(), std::min(sizeof(T), found->second.size()));
    return otherwise;
  }
  Status set(int attribute, const void* value, size_t size) {
    attributes[attribute].assign((const char*)value, (const char*)value + size);
    return CUBLAS_STATUS_SUCCESS;
  }
};
const Description& of(const void* description) { return *(const Description*)description; }

Matrix matrix(const void* data, const Description& layout) {
  return {(void*)data, layout.get<int>(CUBLASLT_MATRIX_LAYOUT_TYPE), layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_LD),
          layout.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)};
}
Epilogue epilogue(const Description& product, int out_type) {
  Epilogue e;
  e.kind = product.get<int>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  e.bias = product.get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER);
  e.bias_type = product.get<int>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out_type);
  e.scale_a = product.get<const float*>(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
  e.scale_b = product.get<const float*>(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
  const int vector = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  e.a_by_row = product.get<int>(CUBLASLT_MATMUL_DESC_A_SCALE_MODE) == vector;
  e.b_by_column = product.get<int>(CUBLASLT_MATMUL_DESC_B_SCALE_MODE) == vector;
  return e;
}
}  // namespace
API Status cublasLtCreate(cublasLtHandle_t* handle) { return (Status)created(handle); }
API Status cublasLtDestroy(cublasLtHandle_t handle) { return (Status)destroyed(handle); }
API Status cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scalar) {
  auto* description = new Description;
  description->set(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, &compute, sizeof compute);
  description->set(CUBLASLT_MATMUL_DESC_SCALE_TYPE, &scalar, sizeof scalar);
  return *made = (cublasLtMatmulDesc_t)description, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t made) {
  return delete (Description*)made, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t made, cublasLtMatmulDescAttributes_t attribute,
                                          const void* value, size_t size) {
  return ((Description*)made)->set(attribute, value, size);
}
API Status cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType type, uint64_t rows, uint64_t columns,
                                      int64_t stride) {
  auto* layout = new Description;
  layout->set(CUBLASLT_MATRIX_LAYOUT_TYPE, &type, sizeof type);
  layout->set(CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, sizeof rows);
  layout->set(CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
  layout->set(CUBLASLT_MATRIX_LAYOUT_LD, &stride, sizeof stride);
  return *made = (cublasLtMatrixLayout_t)layout, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t made) {
  return delete (Description*)made, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t made, cublasLtMatrixLayoutAttribute_t attribute,
                                            const void* value, size_t size) {
  return ((Description*)made)->set(attribute, value, size);
}
API Status cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  return *made = (cublasLtMatmulPreference_t) new Description, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t made) {
  return delete (Description*)made, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t made,
                                                cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                size_t size) {
  return ((Description*)made)->set(attribute, value, size);
}
API Status cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                                          cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                          cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* found,
                                          int* num_found) {
  *num_found = 0;
  if (of(a).get<int>(CUBLASLT_MATRIX_LAYOUT_TYPE) == CUDA_R_8F_E4M3) {  // the library's conditions on 8-bit floats
    const bool transposed_a = of(product).get<int>(CUBLASLT_MATMUL_DESC_TRANSA) == CUBLAS_OP_T;
    const bool plain_b = of(product).get<int>(CUBLASLT_MATMUL_DESC_TRANSB) == CUBLAS_OP_N;
    bool in_sixteens = true;
    for (const void* layout : {(void*)a, (void*)b, (void*)d})
      in_sixteens &= of(layout).get<uint64_t>(CUBLASLT_MATRIX_LAYOUT_ROWS) % 16 == 0;
    if (!transposed_a || !plain_b || !in_sixteens || capability < 89) return CUBLAS_STATUS_NOT_SUPPORTED;
    const int vector = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;  // only Hopper has it
    if (of(product).get<int>(CUBLASLT_MATMUL_DESC_A_SCALE_MODE) == vector && capability / 10 != 9)
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *found = {};
  return *num_found = 1, CUBLAS_STATUS_SUCCESS;
}
API Status cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                          cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                          const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                          cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*, void*, size_t,
                          cudaStream_t stream) {
  if (broken()) return CUBLAS_STATUS_EXECUTION_FAILED;
  for (const void* operand : {a, b, c, (const void*)d, of(product).get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER)})
    if (!touch(stream, operand)) return CUBLAS_STATUS_EXECUTION_FAILED;
  const Description& out = of(d_layout);
  const bool transposed_a = of(product).get<int>(CUBLASLT_MATMUL_DESC_TRANSA) != CUBLAS_OP_N;
  const bool transposed_b = of(product).get<int>(CUBLASLT_MATMUL_DESC_TRANSB) != CUBLAS_OP_N;
  const auto rows = CUBLASLT_MATRIX_LAYOUT_ROWS, columns = CUBLASLT_MATRIX_LAYOUT_COLS;
  multiply({transposed_a, transposed_b, (int64_t)out.get<uint64_t>(rows), (int64_t)out.get<uint64_t>(columns),
            (int64_t)of(a_layout).get<uint64_t>(transposed_a ? rows : columns), *(const float*)alpha, *(const float*)beta,
            matrix(a, of(a_layout)), matrix(b, of(b_layout)), matrix(c, of(c_layout)), matrix(d, out),
            out.get<int>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1),
            epilogue(of(product), out.get<int>(CUBLASLT_MATRIX_LAYOUT_TYPE))});
  return CUBLAS_STATUS_SUCCESS;
}

// ---- cuRAND: the numbers differ from NVIDIA's
using RandStatus = curandStatus_t;
namespace {
template <class Distribution>
RandStatus fill(curandGenerator_t generator, float* to, size_t n, Distribution distribution) {
  std::generate_n(to, n, [&] { return distribution(*(std::mt19937_64*)generator); });
  return CURAND_STATUS_SUCCESS;
}
}  // namespace
API RandStatus curandCreateGenerator(curandGenerator_t* made, curandRngType) {
  return *made = (curandGenerator_t) new std::mt19937_64, CURAND_STATUS_SUCCESS;
}
API RandStatus curandDestroyGenerator(curandGenerator_t generator) {
  if (broken()) return CURAND_STATUS_INTERNAL_ERROR;
  return delete (std::mt19937_64*)generator, CURAND_STATUS_SUCCESS;
}
API RandStatus curandSetStream(curandGenerator_t, cudaStream_t) { return CURAND_STATUS_SUCCESS; }
API RandStatus curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
  return ((std::mt19937_64*)generator)->seed(seed), CURAND_STATUS_SUCCESS;
}
API RandStatus curandSetGeneratorOffset(curandGenerator_t, unsigned long long) { return CURAND_STATUS_SUCCESS; }
API RandStatus curandGenerateUniform(curandGenerator_t generator, float* to, size_t n) {
  return fill(generator, to, n, std::uniform_real_distribution<float>());
}
API RandStatus curandGenerateNormal(curandGenerator_t generator, float* to, size_t n, float mean, float deviation) {
  return fill(generator, to, n, std::normal_distribution<float>(mean, deviation));
}
