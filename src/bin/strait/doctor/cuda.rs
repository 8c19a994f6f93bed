//! Is there a CUDA driver, and what does it say? Asked without linking against it.
//!
//! To be swapped for the library's own probe once `strait::Device::cuda` can answer.

use std::ffi::{CStr, c_int, c_void};

type Init = unsafe extern "C" fn(flags: u32) -> c_int;
type Ask = unsafe extern "C" fn(answer: *mut c_int) -> c_int;

/// What the driver says, or why there is none.
pub(super) fn cuda_answer() -> Result<String, String> {
    // SAFETY: dlopen runs the driver library's initialisers, as every CUDA program does; the handle is never closed,
    // because drivers do not survive that. The three symbols have had these signatures since CUDA 2.0.
    let (init, version, count) = unsafe {
        let library = libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if library.is_null() {
            return Err(last_dl_error());
        }
        (
            std::mem::transmute::<*mut c_void, Init>(symbol(library, c"cuInit")?),
            std::mem::transmute::<*mut c_void, Ask>(symbol(library, c"cuDriverGetVersion")?),
            std::mem::transmute::<*mut c_void, Ask>(symbol(library, c"cuDeviceGetCount")?),
        )
    };
    // SAFETY: cuInit takes no pointer.
    let code = unsafe { init(0) };
    if code != 0 {
        return Err(format!("cuInit failed: {}", meaning(code)));
    }
    let version = ask("cuDriverGetVersion", version)?;
    match ask("cuDeviceGetCount", count)? {
        0 => Err("the CUDA driver is there and sees no device (CUDA_VISIBLE_DEVICES?)".into()),
        devices => Ok(format!("driver for CUDA {}.{}, devices: {devices}", version / 1000, version % 1000 / 10)),
    }
}

fn ask(name: &str, function: Ask) -> Result<c_int, String> {
    let mut answer = 0;
    // SAFETY: the driver writes one int to a live address.
    match unsafe { function(&mut answer) } {
        0 => Ok(answer),
        code => Err(format!("{name} failed: {}", meaning(code))),
    }
}

/// # Safety
/// `library` is an open handle.
unsafe fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the handle is open (contract above) and the name ends in a NUL.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() { Err(last_dl_error()) } else { Ok(address) }
}

fn last_dl_error() -> String {
    // SAFETY: dlerror gives null or a string that stays valid until this thread's next dl call; it is copied here.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() { "unknown dlopen error".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

fn meaning(code: c_int) -> String {
    let text = match code {
        3 => "not initialised",
        34 => "this is the toolkit's stub library: take its stubs directory out of LD_LIBRARY_PATH",
        100 => "no device",
        101 => "no such device",
        802 => "the system is not ready yet (start nvidia-fabricmanager)",
        803 => "kernel driver and libcuda have different versions: reboot, or make the container's driver match",
        804 => "forward compatibility is not supported on this GPU",
        999 => "unknown error; often missing /dev/nvidia* (container without --gpus) or nvidia-uvm",
        _ => "see CUresult in cuda.h",
    };
    format!("{text} (CUresult {code})")
}
