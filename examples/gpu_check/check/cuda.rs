//! A consumer's side of the CUDA driver: a stream, pinned memory to read into, device memory to copy to.
//!
//! The driver is the one that strait has loaded, and no other library of its name.

use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::time::{Duration, Instant};

use strait::Device;
use strait::device::{DeviceKind, DevicePtr, RawStream};

use super::Outcome;

pub(crate) type Handle = *mut c_void;

/// The driver's function of this name.
///
/// # Safety
/// `F` is its type in `cuda.h`, a function pointer, or a number for its address. A strait `Device` has been opened, so
/// that there is a driver.
pub(crate) unsafe fn symbol<F: Copy>(name: &str) -> Outcome<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let function = CString::new(name)?;
    for library in [c"libcuda.so.1", c"libcuda.so"] {
        // SAFETY: both names are texts that end; nothing is loaded that was not, and what is stays so.
        let found = unsafe {
            let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            if library.is_null() { library } else { libc::dlsym(library, function.as_ptr()) }
        };
        if !found.is_null() {
            // SAFETY: the caller's promise; the sizes are the same.
            return Ok(unsafe { std::mem::transmute_copy(&found) });
        }
    }
    Err(format!("the driver has no {name}").into())
}

/// Calls the driver: `cuda!(cuStreamCreate(*mut Handle = &mut stream, u32 = 1))?`, with the types of `cuda.h`.
macro_rules! cuda {
    ($name:ident($($type:ty = $value:expr),*)) => {
        {
            // Looked up once: a copy of 64 KiB takes hardly longer than that.
            static FOUND: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
            let found = match FOUND.get() {
                Some(&found) => Ok(found),
                None => $crate::check::cuda::symbol::<usize>(stringify!($name)).inspect(|&found| {
                    let _ = FOUND.set(found);
                }),
            };
            found.and_then(|found| {
                let function: unsafe extern "C" fn($($type),*) -> i32 = std::mem::transmute(found);
                match function($($value),*) {
                    0 => Ok(()),
                    code => Err(format!("{} failed with {code}", stringify!($name)).into()),
                }
            })
        }
    };
}
pub(crate) use cuda;

/// Whether the driver is strait's stand-in for tests, in which nothing takes the time that it takes on hardware.
pub(crate) fn is_stand_in() -> bool {
    // SAFETY: the type is that of the stand-in, and the function is not called.
    unsafe { symbol::<unsafe extern "C" fn()>("fakecuda_heal") }.is_ok()
}

/// Over the stand-in for the driver: copies begin up to so late from now on.
#[allow(dead_code, reason = "tests ask for it in their own way")]
pub(crate) fn copies_begin_late(by: Duration) -> Outcome {
    // SAFETY: the type is that of the stand-in's function.
    let pace = unsafe { symbol::<unsafe extern "C" fn(u64, u64, u64)>("fakecuda_pace") }?;
    // SAFETY: it notes three numbers.
    unsafe { pace(1, by.as_micros() as u64, 0) };
    Ok(())
}

/// A device's primary context, which strait uses too.
pub(crate) struct Gpu {
    pub(crate) ordinal: i32,
    context: Handle,
}

impl Gpu {
    /// The context of a device that strait has opened.
    pub(crate) fn of(device: &Device) -> Outcome<Rc<Gpu>> {
        let DeviceKind::Cuda(ordinal) = device.kind() else { return Err("not a CUDA device".into()) };
        let mut gpu = Gpu { ordinal: ordinal as i32, context: std::ptr::null_mut() };
        // SAFETY: the types are those of cuda.h; the place is writable.
        unsafe { cuda!(cuDevicePrimaryCtxRetain(*mut Handle = &mut gpu.context, i32 = gpu.ordinal)) }?;
        Ok(Rc::new(gpu))
    }

    /// With the context current on this thread.
    pub(crate) fn within<R>(&self, body: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
        // SAFETY: the types are those of cuda.h; the context is retained.
        unsafe { cuda!(cuCtxPushCurrent_v2(Handle = self.context)) }?;
        let result = body();
        // SAFETY: as above; pops what was pushed.
        unsafe { cuda!(cuCtxPopCurrent_v2(*mut Handle = &mut std::ptr::null_mut())) }?;
        result
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: the types are those of cuda.h; retained once.
        let _ = unsafe { cuda!(cuDevicePrimaryCtxRelease_v2(i32 = self.ordinal)) };
    }
}

/// A consumer's own stream.
pub(crate) struct ConsumerStream {
    gpu: Rc<Gpu>,
    stream: Handle,
}

impl ConsumerStream {
    pub(crate) fn new(gpu: &Rc<Gpu>) -> Outcome<ConsumerStream> {
        const NON_BLOCKING: u32 = 1;
        let mut stream = std::ptr::null_mut();
        // SAFETY: the types are those of cuda.h; the place is writable.
        gpu.within(|| unsafe { cuda!(cuStreamCreate(*mut Handle = &mut stream, u32 = NON_BLOCKING)) })?;
        Ok(ConsumerStream { gpu: gpu.clone(), stream })
    }

    pub(crate) fn raw(&self) -> RawStream {
        RawStream(self.stream)
    }

    /// Starts a copy from device memory to `bytes` at `at` of `target`.
    ///
    /// # Safety
    /// The source is device memory that lives until the copy has ended.
    pub(crate) unsafe fn to_host(&self, source: DevicePtr, target: &Pinned, at: usize, bytes: usize) -> Outcome {
        assert!(at + bytes <= target.bytes);
        self.gpu.within(|| {
            // SAFETY: the types are those of cuda.h. The target is inside memory that waits for the device before it
            // is unmapped; the source is the caller's promise.
            unsafe {
                let target = target.base.add(at).cast();
                cuda!(cuMemcpyDtoHAsync_v2(Handle = target, u64 = source, usize = bytes, Handle = self.stream))
            }
        })
    }

    /// Starts a copy from `bytes` at `at` of `source` to device memory.
    pub(crate) fn to_device(&self, source: &Pinned, at: usize, target: &Scratch, bytes: usize) -> Outcome {
        assert!(at + bytes <= source.bytes && bytes <= target.bytes);
        self.gpu.within(|| {
            // SAFETY: the types are those of cuda.h; both sides wait for the device before they are freed.
            unsafe {
                let (source, stream) = (source.base.add(at).cast_const().cast(), self.stream);
                cuda!(cuMemcpyHtoDAsync_v2(u64 = target.base, *const c_void = source, usize = bytes, Handle = stream))
            }
        })
    }

    /// Starts a copy within the device.
    ///
    /// # Safety
    /// As for [`to_host`](ConsumerStream::to_host).
    pub(crate) unsafe fn to_scratch(&self, source: DevicePtr, target: &Scratch, at: usize, bytes: usize) -> Outcome {
        assert!(at + bytes <= target.bytes);
        let target = target.base + at as u64;
        // SAFETY: the types are those of cuda.h; the target is live, the source is the caller's promise.
        self.gpu.within(|| unsafe {
            cuda!(cuMemcpyDtoDAsync_v2(u64 = target, u64 = source, usize = bytes, Handle = self.stream))
        })
    }

    /// Over the stand-in for the driver: each copy on this stream begins so late.
    #[allow(dead_code, reason = "tests ask for it in their own way")]
    pub(crate) fn begins_late(&self, by: Duration) -> Outcome {
        // SAFETY: the type is that of the stand-in's function.
        let late = unsafe { symbol::<unsafe extern "C" fn(usize, u64)>("fakecuda_late") }?;
        // SAFETY: it notes two numbers.
        unsafe { late(self.stream as usize, by.as_micros() as u64) };
        Ok(())
    }

    /// Waits for all that is on the stream.
    pub(crate) fn synchronize(&self) -> Outcome {
        // SAFETY: the types are those of cuda.h; the stream is ours.
        self.gpu.within(|| unsafe { cuda!(cuStreamSynchronize(Handle = self.stream)) })
    }
}

impl Drop for ConsumerStream {
    fn drop(&mut self) {
        let _ = self.synchronize();
        // SAFETY: the types are those of cuda.h; the stream is ours, and done.
        let _ = self.gpu.within(|| unsafe { cuda!(cuStreamDestroy_v2(Handle = self.stream)) });
    }
}

/// Host memory that the device reads and writes directly. Outlive the streams that use it.
pub(crate) struct Pinned {
    gpu: Rc<Gpu>,
    base: *mut u8,
    bytes: usize,
    /// How long the driver took to register it.
    pub(crate) registered_in: Duration,
}

impl Pinned {
    /// In huge pages if there are any.
    pub(crate) fn new(gpu: &Rc<Gpu>, bytes: usize) -> Outcome<Pinned> {
        Pinned::in_pages(gpu, bytes, libc::MADV_HUGEPAGE)
    }

    /// `advice`: `MADV_HUGEPAGE` or `MADV_NOHUGEPAGE`.
    pub(crate) fn in_pages(gpu: &Rc<Gpu>, bytes: usize, advice: i32) -> Outcome<Pinned> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of nobody else's addresses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: our own mapping. The advice may be refused; then the pages are plain ones. Writing makes them real.
        unsafe {
            libc::madvise(base, bytes, advice);
            base.cast::<u8>().write_bytes(1, bytes);
        }
        let start = Instant::now();
        // SAFETY: the types are those of cuda.h; the memory stays mapped until `drop`, which unregisters it first.
        gpu.within(|| unsafe { cuda!(cuMemHostRegister_v2(Handle = base, usize = bytes, u32 = 0)) })?;
        Ok(Pinned { gpu: gpu.clone(), base: base.cast(), bytes, registered_in: start.elapsed() })
    }

    /// What copies have left there. None of them may be under way.
    pub(crate) fn bytes(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(at + bytes <= self.bytes);
        // SAFETY: inside the mapping, which is readable; the device has done with it.
        unsafe { std::slice::from_raw_parts(self.base.add(at), bytes) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the types are those of cuda.h; registered in `new`.
        let unpinned = self.gpu.within(|| unsafe { cuda!(cuMemHostUnregister(Handle = self.base.cast())) });
        if unpinned.is_ok() {
            // SAFETY: our own mapping, which the device has let go.
            unsafe { libc::munmap(self.base.cast(), self.bytes) };
        }
    }
}

/// Device memory of the consumer's own. Outlive the streams that use it.
pub(crate) struct Scratch {
    gpu: Rc<Gpu>,
    pub(crate) base: DevicePtr,
    pub(crate) bytes: usize,
}

impl Scratch {
    pub(crate) fn new(gpu: &Rc<Gpu>, bytes: usize) -> Outcome<Scratch> {
        let mut base = 0;
        // SAFETY: the types are those of cuda.h; the place is writable.
        gpu.within(|| unsafe { cuda!(cuMemAlloc_v2(*mut u64 = &mut base, usize = bytes)) })?;
        Ok(Scratch { gpu: gpu.clone(), base, bytes })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the types are those of cuda.h; allocated in `new`.
        let _ = self.gpu.within(|| unsafe { cuda!(cuMemFree_v2(u64 = self.base)) });
    }
}
