//! How long a GPU is at work: an event on either side of every call that gives it some.
//!
//! Those calls go through this crate's slots (`libraries.rs`), which lead here once someone has looked. What a library launches
//! by ways of its own is within its call's events; what no call here is known of counts as time without work.

#![expect(unsafe_code, reason = "stands between a caller and a library")]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

use crate::{Busy, libraries};

/// Pairs of events without anything between, from which it is known what a pair costs.
const EMPTY_PAIRS: usize = 32;

/// Whether calls are to be looked at; asked ahead of the lock, at every call.
static WATCHING: AtomicBool = AtomicBool::new(false);
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// What was seen of the calls on one stream.
struct Watch {
    stream: sys::CUstream,
    /// Two a call: before it and behind it.
    events: Vec<sys::CUevent>,
    failed: Option<DriverError>,
}

// SAFETY: handles of the driver, which any thread may use; whoever holds the lock does.
unsafe impl Send for Watch {}

/// A function of a library, and what stands in front of it.
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
                    // SAFETY: it was put there, before this function could be called, as what the library has under the
                    // name whose arguments these are.
                    unsafe { std::mem::transmute(OWN.load(Ordering::Acquire)) };
                // SAFETY: as the caller called it.
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

/// Runs `work`, which is to do all of its work on `device`'s stream, and says how long the GPU was at it.
///
/// The GPU first does nothing for `ahead`, so that it is behind the calls: an event that waited for the next call would count
/// the caller's time as the GPU's.
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

/// Has the slots lead here, the first time; whether the driver's own do.
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

/// A call that gives the GPU work, between two events if someone looks.
fn around(call: impl FnOnce() -> c_int) -> c_int {
    if !WATCHING.load(Ordering::Acquire) {
        return call();
    }
    // A library's call that makes another call here is within its own events.
    let Ok(mut watch) = WATCH.try_lock() else { return call() };
    let Some(watch) = watch.as_mut() else { return call() };
    watch.mark();
    let status = call();
    watch.mark();
    status
}

/// Has the stream wait for so long.
fn pause(stream: sys::CUstream, time: Duration) -> Result<(), DriverError> {
    unsafe extern "C" fn sleep(time: *mut c_void) {
        // SAFETY: it is the box that was let go of below, and this is called once.
        std::thread::sleep(*unsafe { Box::from_raw(time.cast::<Duration>()) });
    }
    let time = Box::into_raw(Box::new(time));
    // SAFETY: the stream is open, and the function asks nothing of the driver.
    let asked = unsafe { sys::cuLaunchHostFunc(stream, Some(sleep), time.cast()).result() };
    if asked.is_err() {
        // SAFETY: nobody calls the function.
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

    /// Waits for the stream and adds up.
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
            // SAFETY: it was made here, and is forgotten. One that is not let go of lasts as long as the process.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}
