//! CUDA's libraries, each found when one of its functions is first called.
//!
//! `build.rs` writes a function of every name that CUDA's headers declare. It jumps through its slot; the slot leads to
//! [`gpu_first_call`], which puts the library's own function there, or one that returns an error where there is none.

#![expect(unsafe_code, reason = "functions of other libraries")]

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

/// A library that this program was linked with by name alone.
pub(super) struct Library {
    pub(super) name: &'static str,
    soname: &'static CStr,
    /// Its functions' places in `NAMES` and in the slots.
    functions: Range<usize>,
    /// What its functions return where it is missing.
    absent: c_int,
    handle: OnceLock<Result<Handle, String>>,
}

struct Handle(*mut c_void);

// SAFETY: dlsym may be called with it by any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

unsafe extern "C" {
    /// Where each function leads by now.
    #[link_name = "gpu_slots"]
    static SLOTS: [AtomicPtr<c_void>; NAMES.len()];
}

/// An archive's member is linked when something asks for it. The functions are to be found before the linker looks into the
/// libraries, and whoever names this crate gets them all with it.
#[used]
#[unsafe(no_mangle)]
static GPU_LIBRARIES: &[AtomicPtr<c_void>; NAMES.len()] =
    // SAFETY: the assembly defines as many.
    unsafe { &SLOTS };

impl Library {
    const fn new(name: &'static str, soname: &'static CStr, functions: Range<usize>, absent: c_int) -> Self {
        Library { name, soname, functions, absent, handle: OnceLock::new() }
    }

    /// Looks for it, the first time.
    ///
    /// # Errors
    /// What the loader says.
    pub(super) fn load(&self) -> Result<(), &str> {
        self.handle().map(|_| ())
    }

    fn handle(&self) -> Result<&Handle, &str> {
        let open = || {
            // SAFETY: the name ends with a zero byte; a library's constructors are its own affair.
            let handle = unsafe { libc::dlopen(self.soname.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            if handle.is_null() { Err(loader_error(self.soname)) } else { Ok(Handle(handle)) }
        };
        self.handle.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// The library's own function, if it has one of that name.
    fn function(&self, name: &CStr) -> Option<*mut c_void> {
        let handle = self.handle().ok()?;
        // SAFETY: the handle is open for good, the name ends with a zero byte.
        let found = unsafe { libc::dlsym(handle.0, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    }

    /// What takes the place of its functions where it is missing.
    fn absent(&self) -> *mut c_void {
        extern "C" fn returns<const CODE: c_int>() -> c_int {
            CODE
        }
        let function: extern "C" fn() -> c_int = match self.absent {
            1 => returns::<1>,
            7 => returns::<7>,
            34 => returns::<34>,
            _ => returns::<101>,
        };
        function as *mut c_void
    }
}

/// Has the function called `name` lead to `front` from now on, which finds the library's own in `own`. Whether there is
/// such a function.
pub(super) fn redirect(name: &CStr, front: *mut c_void, own: &AtomicPtr<c_void>) -> bool {
    let Some(place) = NAMES.iter().position(|known| *known == name) else { return false };
    let library = LIBRARIES.iter().find(|library| library.functions.contains(&place));
    let Some(function) = library.and_then(|library| library.function(name)) else { return false };
    own.store(function, Ordering::Release);
    GPU_LIBRARIES[place].store(front, Ordering::Release);
    true
}

/// What the last `dlopen` of this thread had against `soname`.
fn loader_error(soname: &CStr) -> String {
    // SAFETY: the text, if there is one, lasts until this thread's next call to the loader.
    let text = unsafe {
        let text = libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text))
    };
    text.unwrap_or(soname).to_string_lossy().into_owned()
}

/// Where the function of this place in `NAMES` leads from now on.
#[unsafe(no_mangle)]
extern "C" fn gpu_resolve(place: u32) -> *mut c_void {
    let place = place as usize;
    let library = LIBRARIES.iter().find(|library| library.functions.contains(&place));
    let library = library.expect("a place that the assembly knows");
    let target = library.function(NAMES[place]).unwrap_or_else(|| library.absent());
    GPU_LIBRARIES[place].store(target, Ordering::Relaxed);
    target
}

// A first call: every register that may hold an argument is kept, as are eight of the vector registers.
std::arch::global_asm!(
    r#"
.text
.hidden gpu_resolve
.globl gpu_first_call
.hidden gpu_first_call
.type gpu_first_call, @function
gpu_first_call:
    push rbp
    mov rbp, rsp
    push rdi
    push rsi
    push rdx
    push rcx
    push r8
    push r9
    push rax
    sub rsp, 136
    and rsp, -16
    movups [rsp], xmm0
    movups [rsp + 16], xmm1
    movups [rsp + 32], xmm2
    movups [rsp + 48], xmm3
    movups [rsp + 64], xmm4
    movups [rsp + 80], xmm5
    movups [rsp + 96], xmm6
    movups [rsp + 112], xmm7
    mov edi, r11d
    call gpu_resolve
    mov r11, rax
    movups xmm0, [rsp]
    movups xmm1, [rsp + 16]
    movups xmm2, [rsp + 32]
    movups xmm3, [rsp + 48]
    movups xmm4, [rsp + 64]
    movups xmm5, [rsp + 80]
    movups xmm6, [rsp + 96]
    movups xmm7, [rsp + 112]
    lea rsp, [rbp - 56]
    pop rax
    pop r9
    pop r8
    pop rcx
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    jmp r11
"#
);
