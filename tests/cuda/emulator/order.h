// Checks that a program's streams access the same memory in order. Every call here is complete when it returns, so a
// missing wait between two streams changes no result. This check finds it instead.
#pragma once
#include <cuda.h>

namespace order {

// The stream reads or writes the allocation that begins at `start`. Returns false, with a report, if another stream has
// copied into it and no wait ensures that the copy is complete.
bool touches(CUstream stream, CUdeviceptr start);
// The stream copies into it. Returns false if another stream has accessed it and may still do so.
bool copies_into(CUstream stream, CUdeviceptr start);
// The allocation is freed.
void forgets(CUdeviceptr start);

void records(CUevent event, CUstream stream);
void waits(CUstream stream, CUevent event);
// The calling thread has waited for the stream, the event, or everything.
void waited_for(CUstream stream);
void waited_for(CUevent event);
void waited_for_all();

}  // namespace order
