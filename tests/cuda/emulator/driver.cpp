// A libcuda.so.1 with the host as its device: device memory is host memory, kernels are those of fibers.h, and every
// call is complete when it returns. See README.md for the variables.
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
#include "order.h"

namespace {
uint64_t number(const char* variable, uint64_t otherwise) {
  const char* text = getenv(variable);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}
const uint64_t memory_size = number("EMULATOR_MEMORY", 4ull << 30);
const int num_gpus = number("EMULATOR_GPUS", 1);
// When this file exists, the next launch on a GPU breaks its context: `0 700` is GPU 0 and CUDA_ERROR_ILLEGAL_ADDRESS.
const char* const fail_file = getenv("EMULATOR_FAIL_FILE");
const bool stays_broken = number("EMULATOR_FAIL_STAYS", 0);
const bool has_pinned = number("EMULATOR_PINNED", 1);

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
  const char* ptx;  // null for machine code, whose names are not checked
};
struct Function {
  std::string name;
};
struct Context {
  int gpu;
  int holders;
  uint64_t bytes_held;
  CUresult broken;  // its answer to every call once a kernel has broken it
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
  Context* context;
};
auto& allocations = *new std::map<CUdeviceptr, Allocation>;  // for threads that outlive main

// An allocation ends at a guard page, and starts out as NaN in every float type.
CUresult allocate(CUdeviceptr* pointer, size_t size, CUstream stream) {
  std::lock_guard guard(driver);
  if (broken()) return (CUresult)broken();
  Context* context = current ? current : &contexts[0];
  if (context->bytes_held + size > memory_size) return CUDA_ERROR_OUT_OF_MEMORY;
  const size_t page = 4096, aligned = std::max<size_t>((size + 15) / 16 * 16, 16), body = (aligned + page - 1) / page * page;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* mapped = (char*)mmap(nullptr, body + 2 * page, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  mprotect(mapped + page, body, PROT_READ | PROT_WRITE);
  memset(mapped + page, 0xff, body);
  *pointer = (CUdeviceptr)(mapped + page + body - aligned);
  allocations[*pointer] = {mapped, body + 2 * page, size, context};
  order::touches(stream, *pointer);
  context->bytes_held += size;
  count(Allocations);
  count(BytesHeld, size);
  if (counts[BytesHeld] > counts[MostBytesHeld]) counts[MostBytesHeld] = counts[BytesHeld];
  TRACE("allocate %zu", size);
  return CUDA_SUCCESS;
}

void unmap(std::map<CUdeviceptr, Allocation>::iterator found) {
  const Allocation& allocation = found->second;
  count(BytesHeld, -(uint64_t)allocation.size);
  allocation.context->bytes_held -= allocation.size;
  order::forgets(found->first);
  munmap(allocation.mapped, allocation.mapped_size);
  allocations.erase(found);
}

CUresult release(CUdeviceptr pointer, CUstream stream) {
  std::lock_guard guard(driver);
  if (broken()) return (CUresult)broken();
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) {
    COMPLAIN("an address is freed that was not allocated");
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!order::copies_into(stream, pointer)) return CUDA_ERROR_ILLEGAL_STATE;
  unmap(found);
  return CUDA_SUCCESS;
}

// The allocation that holds all of these bytes, or the end iterator.
auto holder(CUdeviceptr pointer, size_t size) {
  auto after = allocations.upper_bound(pointer);
  if (after == allocations.begin()) return allocations.end();
  --after;
  return pointer + size <= after->first + after->second.size ? after : allocations.end();
}

// Frees everything of a context.
void end(Context& context) {
  for (auto at = allocations.begin(); at != allocations.end();) {
    const auto next = std::next(at);
    if (at->second.context == &context) unmap(at);
    at = next;
  }
  if (!stays_broken) context.broken = CUDA_SUCCESS;
}

CUresult copy(CUdeviceptr to, CUdeviceptr from, size_t size, bool to_device, bool from_device, CUstream stream) {
  std::lock_guard guard(driver);
  if (broken()) return (CUresult)broken();
  const auto target = holder(to, size), source = holder(from, size);
  if ((to_device && target == allocations.end()) || (from_device && source == allocations.end())) {
    COMPLAIN("a copy of %zu bytes leaves its allocation", size);
    return CUDA_ERROR_INVALID_VALUE;
  }
  const bool reads = !from_device || order::touches(stream, source->first);
  if (!reads || (to_device && !order::copies_into(stream, target->first))) return CUDA_ERROR_ILLEGAL_STATE;
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
  return (CUresult)broken();
}
CUresult event() {
  count(Events);
  return (CUresult)broken();
}
}  // namespace
int broken() { return current ? current->broken : CUDA_SUCCESS; }
bool touch(void* stream, const void* pointer) {
  std::lock_guard guard(driver);
  const auto found = holder((CUdeviceptr)pointer, 0);
  return found == allocations.end() || order::touches((CUstream)stream, found->first);
}

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
  std::lock_guard guard(driver);
  contexts[gpu].gpu = gpu;
  contexts[gpu].holders++;
  return *context = (CUcontext)&contexts[gpu], CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice gpu) {
  std::lock_guard guard(driver);
  if (--contexts[gpu].holders == 0) end(contexts[gpu]);
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxReset_v2(CUdevice gpu) {
  std::lock_guard guard(driver);
  TRACE("reset of GPU %d", gpu);
  end(contexts[gpu]);
  return CUDA_SUCCESS;
}
API CUresult cuDevicePrimaryCtxGetState(CUdevice gpu, unsigned* flags, int* is_active) {
  *flags = 0;
  *is_active = contexts[gpu].holders > 0;
  return CUDA_SUCCESS;
}
API CUresult cuCtxSetCurrent(CUcontext context) { return current = (Context*)context, CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* context) { return *context = (CUcontext)current, CUDA_SUCCESS; }
API CUresult cuCtxSynchronize() {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return synchronise();
}
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
  *free = memory_size - (current ? current->bytes_held : counts[BytesHeld]);
  return (CUresult)broken();
}

// ---- streams and events: every call is complete when it returns, and their order is checked
API CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  TRACE("stream with flags %u", flags);
  return *stream = (CUstream) new char, (CUresult)broken();
}
API CUresult cuStreamDestroy_v2(CUstream stream) { return delete (char*)stream, CUDA_SUCCESS; }
API CUresult cuStreamSynchronize(CUstream stream) {
  std::lock_guard guard(driver);
  order::waited_for(stream);
  return synchronise();
}
API CUresult cuStreamWaitEvent(CUstream stream, CUevent waited, unsigned) {
  std::lock_guard guard(driver);
  order::waits(stream, waited);
  return event();
}
API CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
// An event is the time at which it was recorded, when all earlier calls are complete.
using Clock = std::chrono::steady_clock;
API CUresult cuEventCreate(CUevent* created, unsigned) { return *created = (CUevent) new Clock::time_point, event(); }
API CUresult cuEventDestroy_v2(CUevent destroyed) { return delete (Clock::time_point*)destroyed, CUDA_SUCCESS; }
API CUresult cuEventRecord(CUevent recorded, CUstream stream) {
  std::lock_guard guard(driver);
  order::records(recorded, stream);
  return *(Clock::time_point*)recorded = Clock::now(), event();
}
API CUresult cuLaunchHostFunc(CUstream, CUhostFn function, void* data) { return function(data), CUDA_SUCCESS; }
API CUresult cuEventSynchronize(CUevent waited) {
  std::lock_guard guard(driver);
  order::waited_for(waited);
  return synchronise();
}
API CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }
API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  const auto between = *(Clock::time_point*)end - *(Clock::time_point*)start;
  return *milliseconds = std::chrono::duration<float, std::milli>(between).count(), CUDA_SUCCESS;
}

// ---- memory
API CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t size) { return allocate(pointer, size, nullptr); }
API CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream stream) { return allocate(pointer, size, stream); }
API CUresult cuMemFree_v2(CUdeviceptr pointer) {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return release(pointer, nullptr);
}
API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) { return release(pointer, stream); }
API CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned) {
  if (broken()) return (CUresult)broken();
  return *pointer = has_pinned ? malloc(size) : nullptr, *pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
API CUresult cuMemFreeHost(void* pointer) { return free(pointer), CUDA_SUCCESS; }
API CUresult cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, size_t size, CUstream stream) {
  std::lock_guard guard(driver);
  if (broken()) return (CUresult)broken();
  const auto target = holder(pointer, size);
  if (target == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  if (!order::copies_into(stream, target->first)) return CUDA_ERROR_ILLEGAL_STATE;
  count(Fills);
  memset((void*)pointer, value, size);
  return CUDA_SUCCESS;
}
API CUresult cuMemsetD8_v2(CUdeviceptr pointer, unsigned char value, size_t size) {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return cuMemsetD8Async(pointer, value, size, nullptr);
}
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
  return copy(to, (CUdeviceptr)from, size, true, false, stream);
}
API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return cuMemcpyHtoDAsync_v2(to, from, size, nullptr);
}
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy((CUdeviceptr)to, from, size, false, true, stream);
}
API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return cuMemcpyDtoHAsync_v2(to, from, size, nullptr);
}
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy(to, from, size, true, true, stream);
}
API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
  std::lock_guard guard(driver);
  order::waited_for_all();
  return cuMemcpyDtoDAsync_v2(to, from, size, nullptr);
}

// ---- modules and launches
API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (broken()) return (CUresult)broken();
  count(Modules);
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
// Counts one more launch against the fail file; returns the current context's answer.
static CUresult launched() {
  if (!current || current->broken || !fail_file) return (CUresult)broken();
  if (FILE* file = fopen(fail_file, "r")) {
    int gpu = 0, code = 0;
    const bool is_asked = fscanf(file, "%d %d", &gpu, &code) == 2 && gpu == current->gpu;
    fclose(file);
    if (is_asked && !unlink(fail_file)) {
      current->broken = (CUresult)code;
      COMPLAIN("a launch breaks the context of GPU %d", gpu);
    }
  }
  return current->broken;
}
API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared_bytes, CUstream stream, void** parameters, void**) {
  std::lock_guard guard(driver);
  const char* name = ((Function*)function)->name.c_str();
  if (CUresult answer = launched()) return answer;
  // Every value that could be an address counts as one.
  const auto& sizes = emu::parameter_sizes(name);
  for (size_t i = 0; i < sizes.size(); i++)
    for (size_t at = 0; at + 8 <= sizes[i]; at += 8) {
      CUdeviceptr pointer;
      memcpy(&pointer, (char*)parameters[i] + at, sizeof pointer);
      const auto found = holder(pointer, 0);
      if (found != allocations.end() && !order::touches(stream, found->first)) return CUDA_ERROR_ILLEGAL_STATE;
    }
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
