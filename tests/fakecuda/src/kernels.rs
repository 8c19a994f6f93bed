//! The functions of `cuda.h` that load and launch kernels. None is compiled: what they do is known by their names.
// Found by name in the built library, not by path.
#![allow(unreachable_pub, non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_uint, c_void};

use crate::driver::{Handle, give, push, within};
use crate::machine::*;
use crate::streams::MOST_URGENT;

const INVALID_PTX: i32 = 218;
const NOT_FOUND: i32 = 500;
/// Kernels of a module have handles from its own on.
const KERNELS_MAX: usize = 64;
/// As many as fill any GPU.
const BLOCKS_MAX: usize = 1024;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut Handle, image: *const c_void) -> i32 {
    within("cuModuleLoadData", |machine| {
        // SAFETY: the program gives a text that ends with 0.
        let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) }.to_string_lossy();
        let name = |line: &str| Some(line.split_once(".entry ")?.1.split('(').next()?.trim().to_owned());
        let kernels: Vec<String> = text.lines().filter_map(name).collect();
        if !text.contains(".version") || kernels.is_empty() {
            return Err(INVALID_PTX);
        }
        let handle = machine.handle();
        machine.modules.insert(handle, kernels);
        // SAFETY: the program gives a valid place.
        unsafe { give(module, handle as Handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> i32 {
    within("cuModuleUnload", |machine| match machine.modules.remove(&(module as usize)) {
        Some(_) => Ok(()),
        None => machine.refuse(INVALID_HANDLE, "a module unloaded twice"),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) -> i32 {
    within("cuModuleGetFunction", |machine| {
        // SAFETY: the program gives a C string.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let kernels = machine.modules.get(&(module as usize)).ok_or(INVALID_HANDLE)?;
        let place = kernels.iter().take(KERNELS_MAX).position(|kernel| *kernel == name).ok_or(NOT_FOUND)?;
        // SAFETY: the program gives a valid place.
        unsafe { give(function, (module as usize + place) as Handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    _shared_bytes: c_uint,
    stream: Handle,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> i32 {
    within("cuLaunchKernel", |machine| {
        let function = function as usize;
        let module = machine.modules.range(..=function).next_back();
        let Some(kernel) = module.and_then(|(&module, kernels)| kernels.get(function - module).cloned()) else {
            return machine.refuse(INVALID_HANDLE, "a kernel of a module that is not loaded");
        };
        if grid_x == 0
            || grid_y * grid_z * block_y * block_z != 1
            || block_x == 0
            || block_x > 1024
            || !block_x.is_multiple_of(32)
        {
            return machine.refuse(INVALID_VALUE, "a grid that no GPU takes, or in which warps are not whole");
        }
        // SAFETY: the program gives the arguments of this kernel: two numbers behind the table, where it scales.
        let number = |place: usize| unsafe { *(*arguments.add(place)).cast::<f32>() };
        let cast = match Cast::of(&kernel, number) {
            None if kernel != "strait_gather" => {
                return machine.refuse(INVALID_VALUE, format!("the stand-in does not know the kernel {kernel}"));
            }
            cast => cast,
        };
        // SAFETY: the program gives the arguments of this kernel: a table's address, and how many rows it has.
        let (table, count) = unsafe { (*(*arguments).cast::<u64>(), *(*arguments.add(1)).cast::<u32>() as usize) };
        if machine.device_bytes(table, count * 24).is_none() {
            return machine.refuse(INVALID_VALUE, "a table that is not on the device");
        }
        let (warps, blocks) = (block_x as usize / 32, grid_x as usize);
        if blocks < count.div_ceil(warps).min(BLOCKS_MAX) || (blocks - 1) * warps >= count {
            // Allowed, and slow.
            machine.misuse.push(format!("{blocks} blocks of {warps} warps for {count} rows"));
        }
        if machine.streams.get(&(stream as usize)).is_some_and(|stream| stream.priority != MOST_URGENT) {
            // Allowed, and slow: the copies behind it wait with it until other kernels leave it room.
            machine.misuse.push("a kernel on a stream of copies that comes after all others".into());
        }
        let within = machine.within(stream as usize, table, count, cast).ok_or(INVALID_VALUE)?;
        push(machine, stream, Op::Gather { table, count, cast, within })
    })
}
