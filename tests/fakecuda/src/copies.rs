//! The functions of `cuda.h` that copy.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::ffi::c_void;

use crate::driver::{Handle, push, wait_for_all, within};
use crate::machine::*;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: *const c_void, bytes: usize, stream: Handle) -> i32 {
    within("cuMemcpyHtoDAsync_v2", |machine| {
        if machine.device_bytes(target, bytes).is_none() {
            return machine.refuse(INVALID_VALUE, "a copy to what is not allocated");
        }
        // SAFETY: the program promises a source of this length.
        let started_with = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), bytes) }.to_vec();
        let source = if machine.is_registered(source as usize, bytes) {
            Source::Pinned { at: source as usize, started_with }
        } else {
            machine.misuse.push("an asynchronous copy from memory that is not registered".into());
            Source::Staged(started_with)
        };
        push(machine, stream, Op::ToDevice { source, target, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: u64, bytes: usize, stream: Handle) -> i32 {
    let mut pageable = false;
    let code = within("cuMemcpyDtoHAsync_v2", |machine| {
        if machine.device_bytes(source, bytes).is_none() {
            return machine.refuse(INVALID_VALUE, "a copy from what is not allocated");
        }
        pageable = !machine.is_registered(target as usize, bytes);
        push(machine, stream, Op::ToHost { source, target: target as usize, bytes, pageable })
    });
    if code == 0 && pageable {
        wait_for_all(stream);
    }
    code
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: Handle) -> i32 {
    within("cuMemcpyDtoDAsync_v2", |machine| {
        if machine.device_bytes(source, bytes).is_none() || machine.device_bytes(target, bytes).is_none() {
            return machine.refuse(INVALID_VALUE, "a copy from or to what is not allocated");
        }
        push(machine, stream, Op::OnDevice { source, target, bytes, row: false })
    })
}
