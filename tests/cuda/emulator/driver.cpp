// A libcuda.so.1 whose device is the host: its memory is host memory, kernels are those of fibers.h, and every call is
// done when it returns. See README.md for the variables.
#include "driver.h"

#include <cuda.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "fibers.h"

namespace {
uint64_t number(const char* variable, uint64_t otherwise) {
  const char* text = getenv(variable);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}
const uint64_t memory_size = number("EMULATOR_MEMORY", 4ull << 30);
const int num_gpus = number("EMULATOR_GPUS", 1);

volatile uint64_t* map_counts() {
  static uint64_t local[NumCounts];
  const char* path = getenv("EMULATOR_COUNTS");
  const int file = path ? open(path, O_RDWR | O_CREAT, 0644) : -1;
  if (file < 0 || ftruncate(file, sizeof local)) return local;
  void* shared = mmap(nullptr, sizeof local, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return shared == MAP_FAILED ? local : (uint64_t*)shared;
}
}  // namespace
volatile uint64_t* counts = map_counts();
const bool is_traced = getenv("EMULATOR_TRACE");
const int capability = number("EMULATOR_CAPABILITY", 90);

namespace {
std::recursive_mutex driver;
struct Module {
  const char* ptx;  // null for machine code, whose names are not looked at
};
struct Function {
  std::string name;
};
struct Context {
  int gpu;
} contexts[16];
char pools[16];
thread_local Context* current;
const char* kernel_running;

// ---- faults
void on_fault(int signal_number, siginfo_t* info, void*) {
  char place[100], text[300];
  emu::where(place, sizeof place);
  const char* what = signal_number == SIGILL ? "misaligned access" : "access outside an allocation";
  const int n = snprintf(text, sizeof text, "emulator: %s at %p, kernel %s %s\n", what, info->si_addr,
                         kernel_running ? kernel_running : "(none: the host's code)", kernel_running ? place : "");
  if (write(2, text, n)) {
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}
__attribute__((constructor)) void catch_faults() {
  if (number("EMULATOR_CATCH", 1) == 0) return;
  static char stack[65536];
  stack_t alternative{};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGILL, &action, nullptr);
}

// ---- memory
struct Allocation {
  char* mapped;
  size_t mapped_size, size;
};
auto& allocations = *new std::map<CUdeviceptr, Allocation>;  // for threads that outlive main

// An allocation ends at a page that must not be touched, and begins as NaN in every float type.
CUresult allocate(CUdeviceptr* pointer, size_t size) {
  std::lock_guard guard(driver);
  if (counts[BytesHeld] + size > memory_size) return CUDA_ERROR_OUT_OF_MEMORY;
  const size_t page = 4096, aligned = std::max<size_t>((size + 15) / 16 * 16, 16), body = (aligned + page - 1) / page * page;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* mapped = (char*)mmap(nullptr, body + 2 * page, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  mprotect(mapped + page, body, PROT_READ | PROT_WRITE);
  memset(mapped + page, 0xff, body);
  *pointer = (CUdeviceptr)(mapped + page + body - aligned);
  allocations[*pointer] = {mapped, body + 2 * page, size};
  count(Allocations);
  count(BytesHeld, size);
  if (counts[BytesHeld] > counts[MostBytesHeld]) counts[MostBytesHeld] = counts[BytesHeld];
  TRACE("allocate %zu", size);
  return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer) {
  std::lock_guard guard(driver);
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) {
    COMPLAIN("an address is freed that was not allocated");
    return CUDA_ERROR_INVALID_VALUE;
  }
  count(BytesHeld, -(uint64_t)found->second.size);
  munmap(found->second.mapped, found->second.mapped_size);
  allocations.erase(found);
  return CUDA_SUCCESS;
}

bool is_held(CUdeviceptr pointer, size_t size) {
  std::lock_guard guard(driver);
  auto after = allocations.upper_bound(pointer);
  if (after == allocations.begin()) return false;
  const auto& [start, allocation] = *--after;
  return pointer + size <= start + allocation.size;
}

CUresult copy(CUdeviceptr to, CUdeviceptr from, size_t size, bool to_device, bool from_device) {
  if ((to_device && !is_held(to, size)) || (from_device && !is_held(from, size))) {
    COMPLAIN("a copy of %zu bytes leaves its allocation", size);
    return CUDA_ERROR_INVALID_VALUE;
  }
  count(!to_device ? CopiesToHost : from_device ? CopiesOnDevice : CopiesToDevice);
  if (!from_device) count(BytesToDevice, size);
  if (!to_device) count(BytesToHost, size);
  TRACE("copy %zu bytes %s", size, !to_device ? "to the host" : from_device ? "on the device" : "to the device");
  memmove((void*)to, (void*)from, size);
  return CUDA_SUCCESS;
}

CUresult synchronise() {
  count(Synchronisations);
  TRACE("synchronise");
  return CUDA_SUCCESS;
}
CUresult event() {
  count(Events);
  return CUDA_SUCCESS;
}
}  // namespace

// ---- the device
API CUresult cuInit(unsigned) { return num_gpus ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
API CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int* n) { return *n = num_gpus, CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* gpu, int i) {
  if (i < 0 || i >= num_gpus) return CUDA_ERROR_INVALID_DEVICE;
  return *gpu = i, CUDA_SUCCESS;
}
API CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  snprintf(name, size, "The emulated GPU");
  return CUDA_SUCCESS;
}
API CUresult cuDeviceTotalMem_v2(size_t* size, CUdevice) { return *size = memory_size, CUDA_SUCCESS; }
API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  static const std::map<int, int> known{{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, capability / 10},
                                        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, capability % 10},
                                        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
                                        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
                                        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
                                        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
                                        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10}};
  const auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice gpu) {
  contexts[gpu].gpu = gpu;
  return *context = (CUcontext)&contexts[gpu], CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext context) { return current = (Context*)context, CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* context) { return *context = (CUcontext)current, CUDA_SUCCESS; }
API CUresult cuCtxSynchronize() { return synchronise(); }
API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice gpu) {
  return *pool = (CUmemoryPool)&pools[gpu], CUDA_SUCCESS;
}
API CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice gpu) { return cuDeviceGetDefaultMemPool(pool, gpu); }
API CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void* value) {
  if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) counts[MostBytesHeld] = counts[BytesHeld];
  TRACE("pool %d: attribute %d is %llu", int((char*)pool - pools), attribute, *(unsigned long long*)value);
  return CUDA_SUCCESS;
}
API CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
  const bool is_most = attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH;
  const bool is_known = is_most || attribute == CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
  return *(uint64_t*)value = is_known ? counts[is_most ? MostBytesHeld : BytesHeld] : 0, CUDA_SUCCESS;
}
API CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = memory_size;
  *free = memory_size - counts[BytesHeld];
  return CUDA_SUCCESS;
}

// ---- streams and events, which order nothing here
API CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  TRACE("stream with flags %u", flags);
  return *stream = (CUstream) new char, CUDA_SUCCESS;
}
API CUresult cuStreamDestroy_v2(CUstream stream) { return delete (char*)stream, CUDA_SUCCESS; }
API CUresult cuStreamSynchronize(CUstream) { return synchronise(); }
API CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return event(); }
API CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
// An event is the time at which it was recorded: whatever was asked for before it is done by then.
using Clock = std::chrono::steady_clock;
API CUresult cuEventCreate(CUevent* created, unsigned) { return *created = (CUevent) new Clock::time_point, event(); }
API CUresult cuEventDestroy_v2(CUevent destroyed) { return delete (Clock::time_point*)destroyed, CUDA_SUCCESS; }
API CUresult cuEventRecord(CUevent recorded, CUstream) {
  return *(Clock::time_point*)recorded = Clock::now(), event();
}
API CUresult cuLaunchHostFunc(CUstream, CUhostFn function, void* data) { return function(data), CUDA_SUCCESS; }
API CUresult cuEventSynchronize(CUevent) { return synchronise(); }
API CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }
API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  const auto between = *(Clock::time_point*)end - *(Clock::time_point*)start;
  return *milliseconds = std::chrono::duration<float, std::milli>(between).count(), CUDA_SUCCESS;
}

// ---- memory
API CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t size) { return allocate(pointer, size); }
API CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream) { return allocate(pointer, size); }
API CUresult cuMemFree_v2(CUdeviceptr pointer) { return release(pointer); }
API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return release(pointer); }
API CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned) { return *pointer = malloc(size), CUDA_SUCCESS; }
API CUresult cuMemFreeHost(void* pointer) { return free(pointer), CUDA_SUCCESS; }
API CUresult cuMemsetD8_v2(CUdeviceptr pointer, unsigned char value, size_t size) {
  if (!is_held(pointer, size)) return CUDA_ERROR_INVALID_VALUE;
  count(Fills);
  memset((void*)pointer, value, size);
  return CUDA_SUCCESS;
}
API CUresult cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, size_t size, CUstream) {
  return cuMemsetD8_v2(pointer, value, size);
}
API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
  return copy(to, (CUdeviceptr)from, size, true, false);
}
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream) {
  return cuMemcpyHtoD_v2(to, from, size);
}
API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
  return copy((CUdeviceptr)to, from, size, false, true);
}
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream) {
  return cuMemcpyDtoH_v2(to, from, size);
}
API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) { return copy(to, from, size, true, true); }
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream) {
  return cuMemcpyDtoD_v2(to, from, size);
}

// ---- modules and launches
API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  unsigned magic;
  memcpy(&magic, image, sizeof magic);
  const bool is_machine_code = magic == 0xBA55ED50 || magic == 0x464C457F;  // a fatbin, an ELF file
  TRACE("module: %s", is_machine_code ? "machine code" : "PTX");
  return *module = (CUmodule) new Module{is_machine_code ? nullptr : strdup((const char*)image)}, CUDA_SUCCESS;
}
API CUresult cuModuleUnload(CUmodule module) {
  free((void*)((Module*)module)->ptx);
  return delete (Module*)module, CUDA_SUCCESS;
}
API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const char* ptx = ((Module*)module)->ptx;
  const bool is_in_module = !ptx || strstr(ptx, (std::string(".entry ") + name + "(").c_str());
  if (!is_in_module || !emu::has_kernel(name)) {
    COMPLAIN("kernel %s is not %s", name, is_in_module ? "compiled for the host" : "in its module");
    return CUDA_ERROR_NOT_FOUND;
  }
  return *function = (CUfunction) new Function{name}, CUDA_SUCCESS;
}
API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared_bytes, CUstream, void** parameters, void**) {
  std::lock_guard guard(driver);
  const char* name = ((Function*)function)->name.c_str();
  count(Launches);
  TRACE("launch %s <<<(%u,%u,%u), (%u,%u,%u), %u>>>", name, gx, gy, gz, bx, by, bz, shared_bytes);
  kernel_running = name;
  const char* fault = emu::launch(name, dim3{gx, gy, gz}, dim3{bx, by, bz}, shared_bytes, parameters);
  kernel_running = nullptr;
  if (fault) COMPLAIN("%s", fault);
  return fault ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}

// ---- errors
API CUresult cuGetErrorName(CUresult, const char** name) { return *name = "CUDA_ERROR", CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult error, const char** text) {
  return *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "of the emulator", CUDA_SUCCESS;
}
