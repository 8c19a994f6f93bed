//! The functions of `cuda.h` that copy.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::ffi::c_void;

use crate::driver::{Handle, push, wait_for_all, within};
use crate::machine::*;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: *const c_void, bytes: usize, stream: Handle) -> i32 {
    within("cuMemcpyHtoDAsync_v2", |machine| {
        // SAFETY: the program promises a source of this length.
        unsafe { to_device(machine, target, source, bytes, stream) }
    })
}

/// `CUDA_MEMCPY2D` of `cuda.h`.
#[repr(C)]
pub struct Rows {
    source_at: [usize; 2],
    source_type: u32,
    source_host: *const c_void,
    source_device: u64,
    source_array: *mut c_void,
    source_stride: usize,
    target_at: [usize; 2],
    target_type: u32,
    target_host: *mut c_void,
    target_device: u64,
    target_array: *mut c_void,
    target_stride: usize,
    row_bytes: usize,
    rows: usize,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(rows: *const Rows, stream: Handle) -> i32 {
    // SAFETY: the program promises a description.
    let rows = unsafe { &*rows };
    within("cuMemcpy2DAsync_v2", |machine| {
        let short = rows.source_stride < rows.row_bytes || rows.target_stride < rows.row_bytes;
        if (rows.source_type, rows.target_type) != (1, 2)
            || (rows.source_at, rows.target_at) != ([0; 2], [0; 2])
            || short
        {
            return machine.refuse(INVALID_VALUE, "rows that are not from the host to the device, or overlap");
        }
        for row in 0..rows.rows {
            let source = rows.source_host.wrapping_byte_add(row * rows.source_stride);
            let target = rows.target_device + (row * rows.target_stride) as u64;
            // SAFETY: the program promises a source of this length for each row.
            unsafe { to_device(machine, target, source, rows.row_bytes, stream) }?;
        }
        Ok(())
    })
}

/// # Safety
/// The source is readable for so many bytes.
unsafe fn to_device(
    machine: &mut Machine,
    target: u64,
    source: *const c_void,
    bytes: usize,
    stream: Handle,
) -> Result<(), i32> {
    if machine.device_bytes(target, bytes).is_none() {
        return machine.refuse(INVALID_VALUE, "a copy to what is not allocated");
    }
    // SAFETY: the caller's promise.
    let started_with = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), bytes) }.to_vec();
    let source = if machine.is_registered(source as usize, bytes) {
        Source::Pinned { at: source as usize, started_with }
    } else {
        machine.misuse.push("an asynchronous copy from memory that is not registered".into());
        Source::Staged(started_with)
    };
    push(machine, stream, Op::ToDevice { source, target, bytes })
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
