//! Busy time of a GPU, measured by events before and after every call that gives it work.
//!
//! These calls go through this crate's slots (`libraries.rs`), which point here after the first measurement. Launches
//! by a library fall between the events of its own call. Work of calls that are not listed here counts as idle time.

#![expect(unsafe_code, reason = "stands between a caller and a library")]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

use crate::{Busy, libraries};

/// Pairs of events with nothing in between, which measure the cost of a pair.
const EMPTY_PAIRS: usize = 32;

/// Whether a measurement is running; checked before the lock at every call.
static WATCHING: AtomicBool = AtomicBool::new(false);
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// A measurement of the calls on one stream.
struct Watch {
    stream: sys::CUstream,
    /// Two per call: before and after it.
    events: Vec<sys::CUevent>,
    failed: Option<DriverError>,
}

// SAFETY: any thread may use the handles of the driver, and only the holder of the lock does.
unsafe impl Send for Watch {}

/// A function of a library, and the function in front of it.
struct Watched {
    name: &'static CStr,
    front: fn() -> *mut c_void,
    own: &'static AtomicPtr<c_void>,
}

macro_rules! watched {
    ($($symbol:literal $name:ident($($argument:ident: $type:ty),*);)*) => {
        $(mod $name {
            use super::*;

            pub(super) static OWN: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

            pub(super) unsafe extern "C" fn front($($argument: $type),*) -> c_int {
                let own: unsafe extern "C" fn($($type),*) -> c_int =
                    // SAFETY: the library's function of this name, with these arguments, was stored before this
                    // function could be called.
                    unsafe { std::mem::transmute(OWN.load(Ordering::Acquire)) };
                // SAFETY: the arguments are those of the caller.
                around(|| unsafe { own($($argument),*) })
            }
        })*

        static CALLS: &[Watched] = &[
            $(Watched { name: $symbol, front: || $name::front as *mut c_void, own: &$name::OWN },)*
        ];
    };
}

type Address = u64;
type Handle = *mut c_void;

watched! {
    c"cuLaunchKernel" launch(f: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
        shared: c_uint, stream: Handle, arguments: Handle, extra: Handle);
    c"cuLaunchKernelEx" launch_ex(config: Handle, f: Handle, arguments: Handle, extra: Handle);
    c"cuMemcpyDtoDAsync_v2" copy(to: Address, from: Address, bytes: usize, stream: Handle);
    c"cuMemsetD8Async" fill(to: Address, byte: u8, bytes: usize, stream: Handle);
    c"cublasLtMatmul" lt_product(handle: Handle, desc: Handle, alpha: Handle, a: Handle, a_desc: Handle, b: Handle,
        b_desc: Handle, beta: Handle, c: Handle, c_desc: Handle, d: Handle, d_desc: Handle, algo: Handle,
        workspace: Handle, workspace_bytes: usize, stream: Handle);
    c"cublasGemmStridedBatchedEx" product(handle: Handle, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int,
        alpha: Handle, a: Handle, a_type: c_int, lda: c_int, a_stride: i64, b: Handle, b_type: c_int, ldb: c_int,
        b_stride: i64, beta: Handle, c: Handle, c_type: c_int, ldc: c_int, c_stride: i64, batch: c_int,
        compute: c_int, algo: c_int);
    c"cudnnBackendExecute" graph(handle: Handle, plan: Handle, variants: Handle);
    c"cudnnConvolutionForward" convolution(handle: Handle, alpha: Handle, x_desc: Handle, x: Handle, w_desc: Handle,
        w: Handle, convolution: Handle, algo: c_int, workspace: Handle, workspace_bytes: usize, beta: Handle,
        y_desc: Handle, y: Handle);
}

/// Runs `work`, which must do all of its work on `device`'s stream, and measures how long the GPU was busy.
///
/// The GPU first pauses for `ahead`, so that it runs behind the calls. An event that waited for the next call would
/// count the caller's time as the GPU's.
pub(crate) fn busy<R>(
    device: &CudaDevice,
    ahead: Duration,
    work: impl FnOnce() -> R,
) -> (R, Result<Option<Busy>, DriverError>) {
    if !is_in_place() {
        return (work(), Ok(None));
    }
    let stream = device.cuda_stream().cu_stream();
    let paused = pause(stream, ahead);
    *watch() = Some(Watch { stream, events: Vec::new(), failed: None });
    WATCHING.store(true, Ordering::Release);
    let made = work();
    WATCHING.store(false, Ordering::Release);
    let seen = watch().take().expect("nobody else takes it. This is a bug.");
    (made, paused.and_then(|()| seen.told()).map(Some))
}

/// Redirects the slots here at the first call. Returns whether that worked for the driver's functions.
fn is_in_place() -> bool {
    static IN_PLACE: OnceLock<bool> = OnceLock::new();
    *IN_PLACE.get_or_init(|| {
        let found: Vec<_> = CALLS.iter().map(|call| libraries::redirect(call.name, (call.front)(), call.own)).collect();
        found.first() == Some(&true)
    })
}

fn watch() -> std::sync::MutexGuard<'static, Option<Watch>> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a call that gives the GPU work, between two events if a measurement is running.
fn around(call: impl FnOnce() -> c_int) -> c_int {
    if !WATCHING.load(Ordering::Acquire) {
        return call();
    }
    // If a library's call makes another call here, the events of the outer call cover it.
    let Ok(mut watch) = WATCH.try_lock() else { return call() };
    let Some(watch) = watch.as_mut() else { return call() };
    watch.mark();
    let status = call();
    watch.mark();
    status
}

/// Makes the stream wait for `time`.
fn pause(stream: sys::CUstream, time: Duration) -> Result<(), DriverError> {
    unsafe extern "C" fn sleep(time: *mut c_void) {
        // SAFETY: this is the box leaked below, and the function is called once.
        std::thread::sleep(*unsafe { Box::from_raw(time.cast::<Duration>()) });
    }
    let time = Box::into_raw(Box::new(time));
    // SAFETY: the stream is open, and the function does not call the driver.
    let asked = unsafe { sys::cuLaunchHostFunc(stream, Some(sleep), time.cast()).result() };
    if asked.is_err() {
        // SAFETY: the driver will not call the function.
        drop(unsafe { Box::from_raw(time) });
    }
    asked
}

impl Watch {
    fn mark(&mut self) {
        match self.event() {
            Ok(event) => self.events.push(event),
            Err(err) => _ = self.failed.get_or_insert(err),
        }
    }

    fn event(&self) -> Result<sys::CUevent, DriverError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        // SAFETY: both are open.
        unsafe { result::event::record(event, self.stream) }?;
        Ok(event)
    }

    /// Waits for the stream and adds up the times.
    fn told(mut self) -> Result<Busy, DriverError> {
        let calls = self.events.len() / 2;
        (0..2 * EMPTY_PAIRS).for_each(|_| self.mark());
        if let Some(err) = self.failed.take() {
            return Err(err);
        }
        // SAFETY: the stream is open.
        unsafe { result::stream::synchronize(self.stream) }?;
        // SAFETY: both events have happened.
        let seconds = |pair: &[sys::CUevent]| unsafe { result::event::elapsed(pair[0], pair[1]) }.map(|ms| ms / 1e3);
        let seconds = self.events.chunks_exact(2).map(seconds).collect::<Result<Vec<f32>, _>>()?;
        let sum = |seconds: &[f32]| seconds.iter().copied().map(f64::from).sum::<f64>();
        let (work, empty) = seconds.split_at(calls);
        Ok(Busy {
            calls,
            time: Duration::from_secs_f64(sum(work)),
            empty_pair: Duration::from_secs_f64(sum(empty) / EMPTY_PAIRS as f64),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for event in self.events.drain(..) {
            // SAFETY: the event was made here and is not used again. If it cannot be destroyed, it lives until the
            // process ends.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}
