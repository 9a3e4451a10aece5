// Vector clocks: each stream counts its operations, and knows of every other stream how many are complete.
#include "order.h"

#include <map>

#include "driver.h"

namespace {
using Clock = std::map<CUstream, uint64_t>;
// Never destroyed, like all tables here, for threads that outlive main.
auto& streams = *new std::map<CUstream, Clock>;
auto& events = *new std::map<CUevent, Clock>;
// What the calling thread has waited for. Everything that it queues comes after that.
thread_local Clock& waited = *new Clock;

struct Memory {
  Clock touched, copied;  // when each stream did it last
};
auto& memory = *new std::map<CUdeviceptr, Memory>;

void merge(Clock& into, const Clock& other) {
  for (auto [stream, time] : other)
    if (into[stream] < time) into[stream] = time;
}
// The stream's clock at its next operation.
Clock& next(CUstream stream) {
  Clock& clock = streams[stream];
  merge(clock, waited);
  clock[stream]++;
  return clock;
}
bool comes_after(CUstream stream, Clock& clock, const Clock& others, const char* what) {
  for (auto [other, time] : others)
    if (other != stream && clock[other] < time) {
      COMPLAIN("a stream %s memory that another stream may still access: no event is waited for", what);
      return false;
    }
  return true;
}
}  // namespace

namespace order {
bool touches(CUstream stream, CUdeviceptr start) {
  Clock& clock = next(stream);
  Memory& at = memory[start];
  at.touched[stream] = clock[stream];
  return comes_after(stream, clock, at.copied, "uses");
}
bool copies_into(CUstream stream, CUdeviceptr start) {
  Clock& clock = next(stream);
  Memory& at = memory[start];
  // A stream that has copied into it has also touched it.
  const bool in_order = comes_after(stream, clock, at.touched, "overwrites");
  at.copied[stream] = at.touched[stream] = clock[stream];
  return in_order;
}
void forgets(CUdeviceptr start) { memory.erase(start); }

void records(CUevent event, CUstream stream) { events[event] = next(stream); }
void waits(CUstream stream, CUevent event) { merge(next(stream), events[event]); }
void waited_for(CUstream stream) { merge(waited, streams[stream]); }
void waited_for(CUevent event) { merge(waited, events[event]); }
void waited_for_all() {
  for (auto& [stream, clock] : streams) merge(waited, clock);
}
}  // namespace order
