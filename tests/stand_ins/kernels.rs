//! Modules, and kernels that work through a table in device memory.

use crate::{BYTES, Handle, NONE, Program, STRAY, call};

const IMAGE: &str = ".version 8.0\n.entry strait_gather(\n.entry strait_widen_u16_i64(\n.entry another(\n\0";

/// Source, target, bytes.
type Row = [u64; 3];

fn kernel(module: Handle, name: &std::ffi::CStr) -> Handle {
    let mut kernel = NONE;
    let name = name.as_ptr();
    assert_eq!(call!(cuModuleGetFunction(*mut Handle = &mut kernel, Handle = module, *const i8 = name)), 0);
    kernel
}

/// With so many rows, in so many blocks of so many threads.
fn launch(kernel: Handle, table: u64, rows: u32, blocks: u32, threads: u32, stream: Handle) -> i32 {
    let (mut table, mut rows) = (table, rows);
    let mut arguments: [Handle; 2] = [(&raw mut table).cast(), (&raw mut rows).cast()];
    call!(cuLaunchKernel(
        Handle = kernel,
        u32 = blocks,
        u32 = 1,
        u32 = 1,
        u32 = threads,
        u32 = 1,
        u32 = 1,
        u32 = 0,
        Handle = stream,
        *mut Handle = arguments.as_mut_ptr(),
        *mut Handle = std::ptr::null_mut()
    ))
}

#[test]
fn kernels() {
    let program = Program::new();
    let (device, stream) = (program.device, program.stream);
    let mut module = NONE;
    assert_eq!(call!(cuModuleLoadData(*mut Handle = &mut module, *const u8 = IMAGE.as_ptr())), 0);
    let [gather, widen, another] =
        [c"strait_gather", c"strait_widen_u16_i64", c"another"].map(|name| kernel(module, name));
    // A table at the start of the device's memory.
    let table = |rows: &[Row]| {
        // SAFETY: this test's memory, longer than the table, and no copy reads it now.
        unsafe { std::ptr::copy_nonoverlapping(rows.as_ptr(), program.host.cast(), rows.len()) };
        program.copy(size_of_val(rows));
        program.wait();
    };
    let half = device + BYTES as u64 / 2;
    table(&[[half, half + 4096, 16]; 20]);
    program.reports("a kernel of a module that is not loaded", || {
        assert_eq!(launch(STRAY, device, 1, 1, 32, stream), 400)
    });
    for (blocks, threads) in [(0, 32), (1, 0), (1, 48), (1, 2048)] {
        program.reports("a grid that no GPU takes", || {
            assert_eq!(launch(gather, device, 1, blocks, threads, stream), 1);
        });
    }
    program.reports("does not know the kernel another", || assert_eq!(launch(another, device, 1, 1, 32, stream), 1));
    program.reports("a table that is not on the device", || {
        assert_eq!(launch(gather, device + BYTES as u64, 1, 1, 32, stream), 1);
    });
    for blocks in [1, 2, 4] {
        program.reports("of 8 warps for 20 rows", || {
            assert_eq!(launch(gather, device, 20, blocks, 256, stream), 0);
            program.wait();
        });
    }
    let runs = |kernel, row| {
        table(&[row]);
        assert_eq!(launch(kernel, device, 1, 1, 32, stream), 0);
        program.wait();
    };
    runs(gather, [half, half + 4096, 16]);
    let mut patient = NONE;
    assert_eq!(call!(cuStreamCreate(*mut Handle = &mut patient, u32 = 1)), 0);
    program.reports("a kernel on a stream of copies that comes after all others", || {
        assert_eq!(launch(gather, device, 1, 1, 32, patient), 0);
        assert_eq!(call!(cuStreamSynchronize(Handle = patient)), 0);
    });
    assert_eq!(call!(cuStreamDestroy_v2(Handle = patient)), 0);
    program.reports("more than 16 KiB for one warp", || runs(gather, [half, device + 8192, (16 << 10) + 1]));
    program.reports("memory was freed while a copy used it", || runs(gather, [half, device + BYTES as u64, 16]));
    runs(widen, [half, half + 4096, 16]);
    program.reports("elements are not aligned", || runs(widen, [half, half + 4100, 16]));
    program.reports("not whole", || runs(widen, [half, half + 4096, 15]));
    program.reports("memory was freed while a kernel used it", || runs(widen, [half, device + BYTES as u64, 16]));
    assert_eq!(call!(cuModuleUnload(Handle = module)), 0);
    program.reports("a module unloaded twice", || assert_eq!(call!(cuModuleUnload(Handle = module)), 400));
}
