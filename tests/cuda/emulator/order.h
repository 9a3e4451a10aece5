// Whether what the streams of a program do to the same memory is in an order. Every call here is done when it returns, so a
// wait that is missing between two streams shows in no result: it is looked for instead.
#pragma once
#include <cuda.h>

namespace order {

// The stream reads, or writes, the allocation that begins at `start`. False, with a report, if another stream has copied into
// it and nothing says that this is done by then.
bool touches(CUstream stream, CUdeviceptr start);
// The stream copies into it. False if another stream has done anything with it that may go on by then.
bool copies_into(CUstream stream, CUdeviceptr start);
// It is let go.
void forgets(CUdeviceptr start);

void records(CUevent event, CUstream stream);
void waits(CUstream stream, CUevent event);
// The calling thread has waited for the stream, the event, or all that there is.
void waited_for(CUstream stream);
void waited_for(CUevent event);
void waited_for_all();

}  // namespace order
