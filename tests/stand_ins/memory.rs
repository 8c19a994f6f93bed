//! Contexts, memory and copies.

use crate::{BYTES, Handle, NONE, Program, STRAY, call};

#[test]
fn contexts() {
    let program = Program::new();
    let nowhere = |body: fn()| std::thread::spawn(body).join().unwrap();
    program.reports("cuMemAlloc_v2 without a live current context", || {
        nowhere(|| assert_eq!(call!(cuMemAlloc_v2(*mut u64 = &mut 0, usize = 1)), 201));
    });
    program.reports("a pop from an empty stack", || {
        nowhere(|| assert_eq!(call!(cuCtxPopCurrent_v2(*mut Handle = &mut { NONE })), 201));
    });
    program.reports("released more often than retained", || {
        assert_eq!(call!(cuDevicePrimaryCtxRelease_v2(i32 = 1)), 0);
        assert_eq!(call!(cuDevicePrimaryCtxRelease_v2(i32 = 1)), 201);
    });
    assert_eq!(call!(cuDevicePrimaryCtxRetain(*mut Handle = &mut { NONE }, i32 = 1)), 0);
}

#[test]
fn memory() {
    let program = Program::new();
    let Program { device, host, .. } = program;
    program.reports("a free of what is not allocated", || {
        assert_eq!(call!(cuMemFree_v2(u64 = device + 512)), 1);
    });
    program.reports("registered for less than copies both ways", || {
        assert_eq!(call!(cuMemHostRegister_v2(Handle = STRAY, usize = 4096, u32 = 2)), 1);
    });
    program.reports("an unregistration of what is not registered", || {
        assert_eq!(call!(cuMemHostUnregister(Handle = host.wrapping_byte_add(4096))), 713);
    });
    program.fake.stall();
    program.copy(BYTES);
    program.reports("memory freed while a copy is pending", || assert_eq!(call!(cuMemFree_v2(u64 = device)), 1));
    program.reports("memory unregistered while a copy is pending", || {
        assert_eq!(call!(cuMemHostUnregister(Handle = host)), 1);
    });
    program.fake.heal();
    program.wait();
    program.reports("a copy's source changed while it was in flight", || {
        program.fake.stall();
        program.copy(BYTES);
        // SAFETY: the memory is this test's. That a copy reads it is what is tested, and done by the byte.
        unsafe { host.cast::<u8>().add(BYTES - 1).write_volatile(2) };
        program.fake.heal();
        program.wait();
    });
}

#[test]
fn copies() {
    let program = Program::new();
    let Program { device, host, stream, .. } = program;
    let past = device + BYTES as u64 - 16;
    program.reports("a copy to what is not allocated", || {
        assert_eq!(call!(cuMemcpyHtoDAsync_v2(u64 = past, Handle = host, usize = 32, Handle = stream)), 1);
    });
    program.reports("a copy from what is not allocated", || {
        assert_eq!(call!(cuMemcpyDtoHAsync_v2(Handle = host, u64 = past, usize = 32, Handle = stream)), 1);
    });
    for (target, source) in [(past, device), (device, past)] {
        program.reports("a copy from or to what is not allocated", || {
            assert_eq!(call!(cuMemcpyDtoDAsync_v2(u64 = target, u64 = source, usize = 32, Handle = stream)), 1);
        });
    }
    let mut pageable = [0u8; 16];
    program.reports("from memory that is not registered", || {
        let source: Handle = pageable.as_mut_ptr().cast();
        assert_eq!(call!(cuMemcpyHtoDAsync_v2(u64 = device, Handle = source, usize = 16, Handle = stream)), 0);
    });
    type Rows = [usize; 16];
    // x, y, type, host, device, array, stride of the source, and of the target; bytes of a row, and rows.
    let rows: Rows = [0, 0, 1, host as usize, 0, 0, 64, 0, 0, 2, 0, device as usize, 0, 32, 32, 4];
    for (at, value) in [(0, 1), (2, 2), (6, 16), (8, 1), (9, 1), (13, 16)] {
        let mut wrong = rows;
        wrong[at] = value;
        program.reports("rows that are not from the host to the device", || {
            assert_eq!(call!(cuMemcpy2DAsync_v2(*const Rows = &wrong, Handle = stream)), 1, "{at}");
        });
    }
    assert_eq!(call!(cuMemcpy2DAsync_v2(*const Rows = &rows, Handle = stream)), 0);
}

#[test]
fn copies_in_batches() {
    let program = Program::new();
    let (mut targets, mut sources) = ([program.device, program.device + 64], [program.host as u64; 2]);
    let mut batch = |bytes: [usize; 2], order: i32, stream: Handle| {
        let (mut bytes, mut attributes, mut first) = (bytes, [order, 0, 0, 0, 0, 0], 0);
        call!(cuMemcpyBatchAsync_v2(
            *mut u64 = targets.as_mut_ptr(),
            *mut u64 = sources.as_mut_ptr(),
            *mut usize = bytes.as_mut_ptr(),
            usize = 2,
            *mut [i32; 6] = &mut attributes,
            *mut usize = &mut first,
            usize = 1,
            Handle = stream
        ))
    };
    program.reports("on the legacy stream", || assert_eq!(batch([64, 64], 1, NONE), 400));
    program.reports("attributes that are not for all", || assert_eq!(batch([64, 64], 3, program.stream), 1));
    program.reports("nothing to copy", || assert_eq!(batch([64, 0], 1, program.stream), 1));
    assert_eq!(batch([64, 64], 1, program.stream), 0);
}

#[test]
fn storage_that_writes_by_itself() {
    let program = Program::new();
    type Write = unsafe extern "C" fn(u64, *const u8, usize) -> bool;
    // SAFETY: the type is that of control.rs; the source is as long.
    let write = |target| unsafe { crate::cuda::function::<Write>(c"fakecuda_write")(target, [7; 16].as_ptr(), 16) };
    program.reports("a storage wrote to memory that is not allocated", || assert!(!write(program.device - 8)));
    assert!(write(program.device));
    program.fake.stall();
    program.copy(BYTES);
    program.reports("two streams use the same device memory in no order", || assert!(write(program.device)));
    program.fake.heal();
}
