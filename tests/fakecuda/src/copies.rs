//! The functions of `cuda.h` that copy.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_void};

use crate::driver::{Handle, basic, current, give, push, wait_for_all, within};
use crate::machine::*;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: *const c_void, bytes: usize, stream: Handle) -> i32 {
    within("cuMemcpyHtoDAsync_v2", |machine| {
        // SAFETY: the program promises a source of this length.
        unsafe { to_device(machine, target, source, bytes, stream, false) }
    })
}

#[repr(C)]
pub struct CUmemcpyAttributes {
    order: i32,
    hints: [i32; 4],
    flags: u32,
}

/// # Safety
/// Every array has `count` entries, the attributes one.
unsafe fn batch(
    arrays: (*mut u64, *mut u64, *mut usize, usize),
    attributes: (*mut CUmemcpyAttributes, *mut usize, usize),
    stream: Handle,
) -> i32 {
    let (targets, sources, bytes, count) = arrays;
    within("cuMemcpyBatchAsync", |machine| {
        if stream.is_null() {
            return machine.refuse(INVALID_HANDLE, "a batch of copies on the legacy stream");
        }
        // SAFETY: the caller's promise.
        let (order, first) = unsafe { ((*attributes.0).order, *attributes.1) };
        if count == 0 || attributes.2 != 1 || first != 0 || order != 1 {
            return machine.refuse(INVALID_VALUE, "a batch of copies with attributes that are not for all of them");
        }
        let mut places: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = machine.below(last as u64 + 1) as usize;
            places.swap(last, other); // in any order
        }
        places.into_iter().try_for_each(|place| {
            // SAFETY: the caller's promise.
            let (target, source, bytes) =
                unsafe { (*targets.add(place), *sources.add(place) as *const c_void, *bytes.add(place)) };
            if bytes == 0 {
                return machine.refuse(INVALID_VALUE, "nothing to copy, in a batch of copies");
            }
            // SAFETY: the caller's promise.
            unsafe { to_device(machine, target, source, bytes, stream, false) }
        })
    })
}

/// Of CUDA 12.8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyBatchAsync(
    targets: *mut u64,
    sources: *mut u64,
    bytes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    firsts: *mut usize,
    sets: usize,
    failed: *mut usize,
    stream: Handle,
) -> i32 {
    // SAFETY: the program promises arrays of these lengths, and a place for the index.
    unsafe {
        failed.write(usize::MAX);
        batch((targets, sources, bytes, count), (attributes, firsts, sets), stream)
    }
}

/// Of CUDA 13.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyBatchAsync_v2(
    targets: *mut u64,
    sources: *mut u64,
    bytes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    firsts: *mut usize,
    sets: usize,
    stream: Handle,
) -> i32 {
    // SAFETY: as above.
    unsafe { batch((targets, sources, bytes, count), (attributes, firsts, sets), stream) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    name: *const c_char,
    function: *mut *mut c_void,
    version: i32,
    _flags: u64,
    status: *mut i32,
) -> i32 {
    const NOT_FOUND: i32 = 1;
    const NOT_YET: i32 = 2;
    basic("cuGetProcAddress_v2", |machine| {
        // SAFETY: the program gives a C string.
        let known = unsafe { CStr::from_ptr(name) } == c"cuMemcpyBatchAsync";
        let has = machine.knobs.version;
        if version > has && has >= 13_000 {
            return Err(INVALID_VALUE);
        }
        // For a version above its own an older driver has its newest function.
        let (address, found) = match version.min(has) {
            13_000.. if known => (cuMemcpyBatchAsync_v2 as *mut c_void, 0),
            12_080.. if known => (cuMemcpyBatchAsync as *mut c_void, 0),
            _ if known && has >= 12_080 => (std::ptr::null_mut(), NOT_YET),
            _ => (std::ptr::null_mut(), NOT_FOUND),
        };
        // SAFETY: the program gives valid places.
        unsafe {
            give(status, found)?;
            give(function, address)
        }
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
            unsafe { to_device(machine, target, source, rows.row_bytes, stream, row > 0) }?;
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
    row: bool,
) -> Result<(), i32> {
    if machine.device_bytes(target, bytes).is_none() {
        return machine.refuse(INVALID_VALUE, "a copy to what is not allocated");
    }
    // SAFETY: the caller's promise.
    let started_with = unsafe { std::slice::from_raw_parts(source.cast::<u8>(), bytes) }.to_vec();
    let source = if machine.is_registered_in(current(), source as usize, bytes) {
        Source::Pinned { at: source as usize, started_with }
    } else {
        machine.misuse.push("an asynchronous copy from memory that is not registered, or not for this context".into());
        Source::Staged(started_with)
    };
    push(machine, stream, Op::ToDevice { source, target, bytes, row })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(target: *mut c_void, source: u64, bytes: usize, stream: Handle) -> i32 {
    let mut pageable = false;
    let code = within("cuMemcpyDtoHAsync_v2", |machine| {
        if machine.device_bytes(source, bytes).is_none() {
            return machine.refuse(INVALID_VALUE, "a copy from what is not allocated");
        }
        pageable = !machine.is_registered_in(current(), target as usize, bytes);
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
