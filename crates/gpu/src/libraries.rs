//! CUDA's libraries, each loaded at the first call of one of its functions.
//!
//! `build.rs` generates a function for every name that CUDA's headers declare. The function jumps through its slot. At
//! first the slot points to [`gpu_first_call`], which replaces it by the library's own function, or by one that returns
//! an error if there is none.

#![expect(unsafe_code, reason = "functions of other libraries")]

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

/// A library that this program links by name only.
pub(super) struct Library {
    pub(super) name: &'static str,
    soname: &'static CStr,
    /// The indices of its functions in `NAMES` and in the slots.
    functions: Range<usize>,
    /// The status that its functions return if it is missing.
    absent: c_int,
    handle: OnceLock<Result<Handle, String>>,
}

struct Handle(*mut c_void);

// SAFETY: any thread may call dlsym with the handle.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

unsafe extern "C" {
    /// The current target of each function.
    #[link_name = "gpu_slots"]
    static SLOTS: [AtomicPtr<c_void>; NAMES.len()];
}

/// An archive member is linked only if something refers to it. This reference makes the linker find the functions
/// before it searches the libraries, in every program that uses this crate.
#[used]
#[unsafe(no_mangle)]
static GPU_LIBRARIES: &[AtomicPtr<c_void>; NAMES.len()] =
    // SAFETY: the assembly defines this many slots.
    unsafe { &SLOTS };

impl Library {
    const fn new(name: &'static str, soname: &'static CStr, functions: Range<usize>, absent: c_int) -> Self {
        Library { name, soname, functions, absent, handle: OnceLock::new() }
    }

    /// Loads the library at the first call.
    ///
    /// # Errors
    /// The loader's message.
    pub(super) fn load(&self) -> Result<(), &str> {
        self.handle().map(|_| ())
    }

    fn handle(&self) -> Result<&Handle, &str> {
        let open = || {
            // SAFETY: the name ends with a zero byte. The library is responsible for its constructors.
            let handle = unsafe { libc::dlopen(self.soname.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            if handle.is_null() { Err(loader_error(self.soname)) } else { Ok(Handle(handle)) }
        };
        self.handle.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// The library's own function of that name, if it has one.
    fn function(&self, name: &CStr) -> Option<*mut c_void> {
        let handle = self.handle().ok()?;
        // SAFETY: the handle is never closed, and the name ends with a zero byte.
        let found = unsafe { libc::dlsym(handle.0, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    }

    /// The replacement of its functions if it is missing.
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

/// Redirects the function `name` to `front` and stores the library's own function in `own`. Returns whether the library
/// has the function.
pub(super) fn redirect(name: &CStr, front: *mut c_void, own: &AtomicPtr<c_void>) -> bool {
    let Some(place) = NAMES.iter().position(|known| *known == name) else { return false };
    let library = LIBRARIES.iter().find(|library| library.functions.contains(&place));
    let Some(function) = library.and_then(|library| library.function(name)) else { return false };
    own.store(function, Ordering::Release);
    GPU_LIBRARIES[place].store(front, Ordering::Release);
    true
}

/// The error message of this thread's last `dlopen`, of `soname`.
fn loader_error(soname: &CStr) -> String {
    // SAFETY: the text, if there is one, lasts until this thread's next call to the loader.
    let text = unsafe {
        let text = libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text))
    };
    text.unwrap_or(soname).to_string_lossy().into_owned()
}

/// Resolves the function at this index of `NAMES` and stores the target in its slot.
#[unsafe(no_mangle)]
extern "C" fn gpu_resolve(place: u32) -> *mut c_void {
    let place = place as usize;
    let library = LIBRARIES.iter().find(|library| library.functions.contains(&place));
    let library = library.expect("a place that the assembly knows");
    let target = library.function(NAMES[place]).unwrap_or_else(|| library.absent());
    GPU_LIBRARIES[place].store(target, Ordering::Relaxed);
    target
}

// A first call. It saves every register that may hold an argument, among them eight vector registers.
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
