// Declarations shared by the emulated driver and the emulated libraries.
#pragma once
#include <cstdint>
#include <cstdio>

#define API extern "C" __attribute__((visibility("default")))

// The counters, in the order of the file that EMULATOR_COUNTS names, 64 bits each.
enum Count {
  Launches,
  Products,  // of cuBLAS or cuBLASLt; a batch counts as one
  CopiesToDevice,
  CopiesToHost,
  CopiesOnDevice,
  Fills,
  Allocations,
  Synchronisations,
  Events,  // created, recorded or waited for
  BytesToDevice,
  BytesToHost,
  BytesHeld,
  MostBytesHeld,
  Modules,
  NumCounts
};
extern volatile uint64_t* counts;
inline void count(Count what, uint64_t by = 1) { counts[what] = counts[what] + by; }

// The error with which the calling thread's context answers every call since a kernel broke it, or 0.
int broken();
// A library's call on a stream accesses this memory. Returns false, with a report, if that is not ordered with other
// streams.
bool touch(void* stream, const void* pointer);

extern const bool is_traced;
extern const int capability;  // major * 10 + minor
#define TRACE(...)                         \
  do {                                     \
    if (is_traced) {                       \
      fprintf(stderr, "emulator: " __VA_ARGS__); \
      fputc('\n', stderr);                 \
    }                                      \
  } while (0)
#define COMPLAIN(...)                          \
  do {                                         \
    fprintf(stderr, "emulator: " __VA_ARGS__); \
    fputc('\n', stderr);                       \
  } while (0)
