// The threads of a CUDA block on the host: one fiber each, blocks one after another. The model is functional only: it
// has neither time nor a weak memory order. Detected undefined behaviour ends the kernel with a report: a barrier that
// some threads never reach, a warp primitive whose mask names a lane that has ended or waits elsewhere, a read of a
// lane outside the mask.
#pragma once
#include <vector_types.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace emu {

// A warp primitive in progress: its lanes, those that have arrived, those that have left, and the value of each.
struct Meeting {
  static constexpr size_t MOST = 32;  // bytes that a lane may bring
  uint32_t mask, came, gone;
  alignas(16) char values[32][MOST];
};

struct Warp {
  Meeting meetings[8];
  uint32_t live;
};

struct Thread {
  uint3 index;
  unsigned lane;
  Warp* warp;
};

// The values of threadIdx, blockIdx, blockDim and gridDim. One kernel runs at a time: the caller of `launch` holds a
// lock.
struct Running {
  Thread* thread;
  uint3 block;
  dim3 block_dim, grid_dim;
};
extern Running running __attribute__((visibility("hidden")));

void barrier();
// Lets the block's other threads run.
void yield();
// Tells the scheduler that waiting threads may go on.
void note_progress();
// Ends the kernel with a report that names the block and the thread.
[[noreturn]] void fail(const char* why, uint32_t mask = 0);

// Waits for all lanes of `mask`. Then each lane computes its result from the values of all.
template <class T, class Result>
inline auto meet(uint32_t mask, T brought, Result result) {
  static_assert(sizeof(T) <= Meeting::MOST);
  Thread& self = *running.thread;
  const uint32_t bit = 1u << self.lane;
  if (!(mask & bit)) fail("the calling lane is not in its own mask", mask);
  Meeting* meeting;
  // Finds this mask's meeting that is still filling, or a free one. Lanes that have left another need not wait for the
  // rest.
  for (;;) {
    meeting = nullptr;
    for (auto& known : self.warp->meetings)
      if (known.mask == mask && !known.gone && !(known.came & bit)) meeting = &known;
    for (auto& known : self.warp->meetings)
      if (!meeting && !known.mask) (meeting = &known)->mask = mask;
    if (meeting) break;
    yield();
  }
  std::memcpy(meeting->values[self.lane], &brought, sizeof brought);
  meeting->came |= bit;
  note_progress();
  while (meeting->came != mask) {
    if (mask & ~self.warp->live) fail("the mask names a lane that has ended or does not exist", mask & ~self.warp->live);
    yield();
  }
  auto made = result(*meeting, self.lane);
  meeting->gone |= bit;
  note_progress();
  if (meeting->gone == mask) meeting->mask = meeting->came = meeting->gone = 0;
  return made;
}

template <class T>
inline T value_of(const Meeting& meeting, unsigned lane) {
  if (!(meeting.mask >> lane & 1)) fail("a shuffle reads a lane outside the mask", meeting.mask);
  T value;
  std::memcpy(&value, meeting.values[lane], sizeof value);
  return value;
}

// Kernels by name, as a module finds them.
using Call = void (*)(void* kernel, void** parameters);
void add_kernel(const char* name, void* kernel, Call call, std::vector<size_t> sizes);
bool has_kernel(const char* name);
// The bytes of each parameter.
const std::vector<size_t>& parameter_sizes(const char* name);

template <class... A>
struct Registered {
  Registered(const char* name, void (*kernel)(A...)) {
    const Call call = [](void* kernel, void** parameters) {
      [&]<size_t... I>(std::index_sequence<I...>) {
        ((void (*)(A...))kernel)(*(A*)parameters[I]...);
      }(std::index_sequence_for<A...>{});
    };
    add_kernel(name, (void*)kernel, call, {sizeof(A)...});
  }
};

// Shared memory whose size a launch sets. It is filled with NaN before every block.
struct Poisoned {
  Poisoned(void (*fill)(unsigned bytes));
};

// Runs a kernel. Returns the report of a fault, or null.
const char* launch(const char* name, dim3 grid, dim3 block, unsigned shared_bytes, void** parameters);
// Describes the running block and thread, for the report of a fault.
void where(char* text, size_t size);

}  // namespace emu

#define EMU_KERNEL(name) static emu::Registered emu_kernel_##name(#name, name);
#define EMU_DYNAMIC_SHARED(name) \
  static emu::Poisoned emu_poisoned_##name([](unsigned bytes) { std::memset((void*)name, 0xff, bytes); });
