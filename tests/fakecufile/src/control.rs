//! What tests see and set. The real library has none of these.
// Found by name in the built library, not by path.
#![allow(unreachable_pub)]

use std::ffi::{CStr, c_char};

use crate::state::state;

/// Sets a knob.
///
/// - `direct`: 0 compatibility mode, 1 nvidia-fs, 2 PCI peer-to-peer DMA; `batch_max`: entries of a batch
/// - `open_hangs`; `open_error`, `register_error`, `batch_error`, `submit_error`, `status_error`: codes
/// - `register_bytes_max`: longer memory is refused
/// - `chance`: decides what is left to chance from now on
/// - `short_bytes`: a batch's read gives no more; `late_us_max`; `slow_us_max`: between the two pieces that it is written
///   in; `hold`: no read of a batch ends
/// - `short_once_in`, `again_once_in`, `error_once_in`: so often an entry of a batch reads less, ends with EAGAIN, with EIO
/// - `read_error`, `event_status`: the next entry of a batch ends with it; one that is given up goes on, and writes later
/// - `late_once_us`: the next entry of a batch ends as late as that
/// - `read_hangs`, of `cuFileRead`; `told_less`: it says that it has read so much less; `wrong_byte`: it changes that one, if
///   it reads no more than `wrong_bytes_max`, where that is set
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecufile_set(name: *const c_char, value: i64) {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let mut state = state();
    match &*name {
        "chance" => state.chance = value as u64 | 1,
        _ => drop(state.knobs.insert(name, value)),
    }
}

/// Takes every knob back.
#[unsafe(no_mangle)]
pub extern "C" fn fakecufile_heal() {
    state().knobs.clear();
}

/// Whether the driver has been opened.
#[unsafe(no_mangle)]
pub extern "C" fn fakecufile_is_open() -> bool {
    state().opened
}

/// Makes it as if the memory at `base` had never been registered; false if it was not.
#[unsafe(no_mangle)]
pub extern "C" fn fakecufile_forget(base: usize) -> bool {
    state().buffers.remove(&base).is_some()
}

/// How many objects are alive: files, buffers, batches; and how many reads there were.
///
/// # Safety
/// `counts` has room for 4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecufile_live(counts: *mut u64) {
    let state = state();
    let live = [state.files.len() as u64, state.buffers.len() as u64, state.batches.len() as u64, state.reads];
    // SAFETY: the caller's promise.
    unsafe { counts.cast::<[u64; 4]>().write_unaligned(live) };
}

/// Copies what the program did wrong since the last call, a line each, into `text`; says how many bytes there are.
///
/// # Safety
/// `text` has room for `bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakecufile_misuse(text: *mut u8, bytes: usize) -> usize {
    let lines = std::mem::take(&mut state().misuse).join("\n");
    let fits = lines.len().min(bytes);
    // SAFETY: `fits` is within both.
    unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), text, fits) };
    fits
}
