//! A consumer on a CUDA stream of its own, through the driver that this process has loaded: a real one, or ours.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::*;

type Handle = *mut c_void;

pub(crate) struct CudaConsumer {
    context: Handle,
    stream: Handle,
    /// Registered, so that reads into it are asynchronous; never given back.
    landing: &'static mut [u8],
}

/// The driver's function of this name.
///
/// # Safety
/// `F` is its type, a function pointer.
pub(crate) unsafe fn symbol<F: Copy>(name: &str) -> F {
    // SAFETY: tests get here behind a Device that has found the library; the type is the caller's promise.
    unsafe { *sys::culib().get::<F>(name.as_bytes()).unwrap() }
}

#[allow(dead_code)] // of one of the binaries that share this file
pub(crate) fn current_context() -> Handle {
    let mut context = std::ptr::null_mut();
    // SAFETY: the type is that of cuda.h; `context` is writable.
    let code = unsafe { symbol::<unsafe extern "C" fn(*mut Handle) -> i32>("cuCtxGetCurrent")(&mut context) };
    assert_eq!(code, 0);
    context
}

impl CudaConsumer {
    pub(crate) fn new() -> CudaConsumer {
        let landing = vec![0u8; 1 << 20].leak();
        let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the types are those of cuda.h; the places are writable; `landing` is never freed.
        unsafe {
            type Retain = unsafe extern "C" fn(*mut Handle, i32) -> i32;
            type Create = unsafe extern "C" fn(*mut Handle, u32) -> i32;
            type Register = unsafe extern "C" fn(*mut c_void, usize, u32) -> i32;
            assert_eq!(symbol::<Retain>("cuDevicePrimaryCtxRetain")(&mut context, 0), 0);
            within(context, || {
                assert_eq!(symbol::<Create>("cuStreamCreate")(&mut stream, 1), 0);
                assert_eq!(
                    symbol::<Register>("cuMemHostRegister_v2")(landing.as_mut_ptr().cast(), landing.len(), 0),
                    0
                );
            });
        }
        CudaConsumer { context, stream, landing }
    }
}

impl CudaConsumer {
    /// Puts a copy of so many bytes of `value` to device memory on the stream.
    #[allow(dead_code)] // of one of the binaries that share this file
    pub(crate) fn write(&self, target: DevicePtr, value: u8, bytes: usize) {
        type Copy = unsafe extern "C" fn(u64, *const c_void, usize, Handle) -> i32;
        assert!(bytes <= self.landing.len());
        let source = self.landing.as_ptr().cast_mut();
        // SAFETY: the type is that of cuda.h; the source is registered, that long, never freed, and no copy uses it now.
        within(self.context, || unsafe {
            source.write_bytes(value, bytes);
            assert_eq!(symbol::<Copy>("cuMemcpyHtoDAsync_v2")(target, source.cast(), bytes, self.stream), 0);
        });
    }
}

impl Consumer for CudaConsumer {
    fn stream(&self) -> RawStream {
        RawStream(self.stream)
    }

    fn read(&self, source: DevicePtr, bytes: usize, times: usize) -> Box<dyn FnOnce() -> Vec<u8> + '_> {
        type Copy = unsafe extern "C" fn(*mut c_void, u64, usize, Handle) -> i32;
        assert!(bytes <= self.landing.len());
        // SAFETY: the type is that of cuda.h; the landing place is as long and outlives the copies.
        within(self.context, || unsafe {
            for _ in 0..times {
                let target = self.landing.as_ptr().cast_mut().cast();
                assert_eq!(symbol::<Copy>("cuMemcpyDtoHAsync_v2")(target, source, bytes, self.stream), 0);
            }
        });
        Box::new(move || {
            type Synchronize = unsafe extern "C" fn(Handle) -> i32;
            within(self.context, || {
                // SAFETY: the type is that of cuda.h; the stream is ours.
                assert_eq!(unsafe { symbol::<Synchronize>("cuStreamSynchronize")(self.stream) }, 0);
            });
            // Read through the address that the copies were given: the compiler knows of no write to `landing`.
            let landed = std::hint::black_box(self.landing.as_ptr());
            // SAFETY: `bytes` is within `landing`, and the copies have ended.
            unsafe { std::slice::from_raw_parts(landed, bytes) }.to_vec()
        })
    }
}

impl Drop for CudaConsumer {
    fn drop(&mut self) {
        // SAFETY: the types are those of cuda.h; stream and registration are ours, and no copy is in flight.
        unsafe {
            type Destroy = unsafe extern "C" fn(Handle) -> i32;
            type Release = unsafe extern "C" fn(i32) -> i32;
            within(self.context, || {
                symbol::<Destroy>("cuMemHostUnregister")(self.landing.as_mut_ptr().cast());
                symbol::<Destroy>("cuStreamDestroy_v2")(self.stream);
            });
            symbol::<Release>("cuDevicePrimaryCtxRelease_v2")(0);
        }
    }
}

/// With `context` current on this thread.
pub(crate) fn within<R>(context: Handle, body: impl FnOnce() -> R) -> R {
    type Push = unsafe extern "C" fn(Handle) -> i32;
    type Pop = unsafe extern "C" fn(*mut Handle) -> i32;
    // SAFETY: the types are those of cuda.h; the context is retained by the caller.
    unsafe {
        assert_eq!(symbol::<Push>("cuCtxPushCurrent_v2")(context), 0);
        let result = body();
        assert_eq!(symbol::<Pop>("cuCtxPopCurrent_v2")(&mut std::ptr::null_mut()), 0);
        result
    }
}
