// The scheduler behind fibers.h, and the table of kernels.
#include "fibers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#error "switch_stack is written for x86-64"
#endif
// Saves the callee-saved registers on this stack and its pointer in *save, and resumes the other stack.
__asm__(R"(
.text
.globl switch_stack
.hidden switch_stack
.type switch_stack, @function
switch_stack:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size switch_stack, .-switch_stack
)");
extern "C" void switch_stack(void** save, void* load);

namespace emu {
Running running;

namespace {
struct Kernel {
  void* function;
  Call call;
  std::vector<size_t> sizes;
};
// Nothing here is destroyed: threads may still run while the program ends.
std::map<std::string, Kernel>& kernels() {
  static auto& table = *new std::map<std::string, Kernel>;
  return table;
}
std::vector<void (*)(unsigned)>& fills() {
  static auto& list = *new std::vector<void (*)(unsigned)>;
  return list;
}

enum State : uint8_t { Ready, AtBarrier, Ended };
struct Fiber : Thread {
  char* stack;  // only while it runs or waits
  void* top;    // its stack pointer while it is suspended
  State state;
  bool begun;
};
constexpr size_t STACK = 128 << 10;
constexpr size_t PAGE = 4096;

// The running block.
struct Block {
  std::vector<char*> stacks;  // not in use by a fiber
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  void* scheduler;
  Fiber* current;
  // The running warp, from `first` to `end`, and the position in it.
  unsigned first, end, position;
  bool reversed;
  unsigned live, at_barrier;
  bool progressed;
  const char* fault;
  uint32_t fault_mask;
  const Kernel* kernel;
  void** parameters;
};
Block& now = *new Block{};
std::string& report = *new std::string;

void to_scheduler() { switch_stack(&now.current->top, now.scheduler); }

void open_barrier_if_full() {
  if (!now.at_barrier || now.at_barrier != now.live) return;
  for (auto& fiber : now.fibers)
    if (fiber.state == AtBarrier) fiber.state = Ready;
  now.at_barrier = 0;
  now.progressed = true;
}

Fiber& in_order(unsigned i) { return now.fibers[now.reversed ? now.first + now.end - 1 - i : i]; }

void enter(Fiber& fiber) {
  now.current = &fiber;
  running.thread = &fiber;
}

// Runs its thread. Then, on the same stack, it runs the following threads of the warp that have not begun. Most kernels
// never wait, so they need one switch per warp.
void fiber_main() {
  for (;;) {
    now.kernel->call(now.kernel->function, now.parameters);
    Fiber& ended = *now.current;
    ended.state = Ended;
    ended.warp->live &= ~(1u << ended.lane);
    now.live--;
    now.progressed = true;
    open_barrier_if_full();
    if (now.position + 1 == now.end || in_order(now.position + 1).begun) break;
    Fiber& next = in_order(++now.position);
    next.begun = true;
    next.stack = ended.stack;
    enter(next);
  }
  to_scheduler();
  __builtin_trap();
}

void make_fibers() {
  const dim3 dim = running.block_dim;
  const unsigned count = dim.x * dim.y * dim.z;
  now.fibers.assign(count, {});
  now.warps.resize((count + 31) / 32);
  for (Warp& warp : now.warps) {
    warp.live = 0;
    for (Meeting& meeting : warp.meetings) meeting.mask = meeting.came = meeting.gone = 0;
  }
  now.live = count;
  now.at_barrier = 0;
  now.fault = nullptr;
  for (unsigned i = 0; i < count; i++) {
    Fiber& fiber = now.fibers[i];
    fiber.index = {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)};
    fiber.lane = i % 32;
    fiber.warp = &now.warps[i / 32];
    fiber.warp->live |= 1u << fiber.lane;
  }
}

void begin(Fiber& fiber) {
  fiber.begun = true;
  static unsigned made = 0;
  if (now.stacks.empty()) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char* stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
    mprotect(stack, PAGE, PROT_NONE);
    // Staggered, because equal offsets would share the cache's sets.
    now.stacks.push_back(stack + STACK - made++ * 37 % 256 * 64);
  }
  fiber.stack = now.stacks.back();
  now.stacks.pop_back();
  // Six registers lie below the return address.
  void** top = (void**)fiber.stack - 2;
  *top = (void*)fiber_main;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.top = top;
}

// Runs a warp until all of its threads wait. Returns whether anything happened. A fault ends it early.
bool run_warp(unsigned warp) {
  now.first = warp * 32;
  now.end = std::min<unsigned>(now.first + 32, now.fibers.size());
  bool happened = false;
  do {
    now.progressed = false;
    for (now.position = now.first; now.position < now.end; now.position++) {
      Fiber& fiber = in_order(now.position);
      if (fiber.state != Ready) continue;
      if (!fiber.begun) begin(fiber);
      enter(fiber);
      switch_stack(&now.scheduler, fiber.top);
      if (now.fault) return true;
      if (now.current->state == Ended) now.stacks.push_back(now.current->stack);
    }
    happened |= now.progressed;
  } while (now.progressed);
  return happened;
}

bool run_block() {
  make_fibers();
  while (now.live) {
    bool happened = false;
    for (unsigned i = 0; i < now.warps.size(); i++) {
      happened |= run_warp(now.reversed ? now.warps.size() - 1 - i : i);
      if (now.fault) return false;
    }
    if (!happened) {
      now.fault = now.at_barrier ? "deadlock: some threads wait at a barrier, others in a warp primitive"
                                 : "deadlock in a warp primitive: lanes disagree about the mask";
      return false;
    }
  }
  return true;
}

bool is_possible(dim3 grid, dim3 block, unsigned shared_bytes) {
  const bool some = grid.x && grid.y && grid.z && block.x && block.y && block.z;
  return some && block.x * block.y * block.z <= 1024 && block.z <= 64 && grid.y < 65536 && grid.z < 65536 &&
         shared_bytes <= 227 << 10;
}
}  // namespace

void yield() { to_scheduler(); }
void note_progress() { now.progressed = true; }
void fail(const char* why, uint32_t mask) {
  now.fault = why;
  now.fault_mask = mask;
  to_scheduler();
  __builtin_unreachable();
}
void barrier() {
  now.current->state = AtBarrier;
  now.at_barrier++;
  now.progressed = true;
  open_barrier_if_full();
  if (now.current->state == AtBarrier) to_scheduler();
}
Poisoned::Poisoned(void (*fill)(unsigned)) { fills().push_back(fill); }
void add_kernel(const char* name, void* kernel, Call call, std::vector<size_t> sizes) {
  kernels()[name] = {kernel, call, std::move(sizes)};
}
const std::vector<size_t>& parameter_sizes(const char* name) { return kernels()[name].sizes; }
bool has_kernel(const char* name) { return kernels().count(name); }

void where(char* text, size_t size) {
  if (size) *text = 0;
  if (!running.thread) return;
  const uint3 b = running.block, t = running.thread->index;
  snprintf(text, size, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
}

const char* launch(const char* name, dim3 grid, dim3 block, unsigned shared_bytes, void** parameters) {
  const auto found = kernels().find(name);
  if (found == kernels().end() || !is_possible(grid, block, shared_bytes)) {
    report = std::string(name) + (found == kernels().end() ? ": no such kernel" : ": no such launch is possible");
    return report.c_str();
  }
  const char* order = getenv("EMULATOR_ORDER");
  now.reversed = order && !strcmp(order, "reverse");
  running.block_dim = block;
  running.grid_dim = grid;
  now.kernel = &found->second;
  now.parameters = parameters;
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  bool done = true;
  for (uint64_t i = 0; done && i < blocks; i++) {
    const uint64_t at = now.reversed ? blocks - 1 - i : i;
    running.block = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
    for (auto fill : fills()) fill(shared_bytes);
    done = run_block();
  }
  if (!done) {
    char place[100], text[400];
    where(place, sizeof place);
    snprintf(text, sizeof text, "%s: %s: %s (mask %08x)", name, place, now.fault, now.fault_mask);
    report = text;
  }
  running.thread = nullptr;
  return done ? nullptr : report.c_str();
}
}  // namespace emu
