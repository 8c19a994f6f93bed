//! Tests the beds: what a correct program never does, the stand-ins for the CUDA driver and for cuFile report, each thing by
//! itself. strait is not in here.

#[path = "../stand_in/mod.rs"]
mod cuda;
#[path = "../stand_in/cufile.rs"]
mod cufile;
mod files;
mod kernels;
mod memory;
mod streams;

use std::ffi::c_void;
use std::sync::MutexGuard;

use cuda::Fake;

pub(crate) type Handle = *mut c_void;

/// Calls a function of the stand-in for the driver, by its name: `call!(cuMemFree_v2(u64 = address))` is its result.
macro_rules! call {
    ($name:ident($($type:ty = $value:expr),*)) => {{
        let name = std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()).unwrap();
        // SAFETY: the types are those of cuda.h; what the stand-in is given is as long as it is told, or refused unread.
        unsafe { crate::cuda::function::<unsafe extern "C" fn($($type),*) -> i32>(name)($($value),*) }
    }};
}
pub(crate) use call;

/// A program that uses the driver, alone: both devices' contexts, of which the first is current; a stream; memory. It ends as a
/// correct one does, and nothing is reported of that.
pub(crate) struct Program {
    pub(crate) fake: Fake,
    _alone: MutexGuard<'static, ()>,
    pub(crate) contexts: [Handle; 2],
    pub(crate) stream: Handle,
    pub(crate) device: u64,
    /// Registered, and never freed.
    pub(crate) host: Handle,
}

pub(crate) const BYTES: usize = 64 << 10;
pub(crate) const NONE: Handle = std::ptr::null_mut();
/// No handle of anything.
pub(crate) const STRAY: Handle = std::ptr::without_provenance_mut(0x5000);

impl Program {
    pub(crate) fn new() -> Program {
        let (fake, _alone) = cuda::take();
        let (mut stream, mut device, host) = (NONE, 0, vec![1u8; BYTES].leak().as_mut_ptr().cast());
        assert_eq!(call!(cuInit(u32 = 0)), 0);
        let contexts = [0, 1].map(|ordinal| {
            let mut context = NONE;
            assert_eq!(call!(cuDevicePrimaryCtxRetain(*mut Handle = &mut context, i32 = ordinal)), 0);
            context
        });
        call!(cuCtxPushCurrent_v2(Handle = contexts[0]));
        assert_eq!(call!(cuStreamCreateWithPriority(*mut Handle = &mut stream, u32 = 1, i32 = -9)), 0);
        assert_eq!(call!(cuMemAlloc_v2(*mut u64 = &mut device, usize = BYTES)), 0);
        assert_eq!(call!(cuMemHostRegister_v2(Handle = host, usize = BYTES, u32 = 1)), 0);
        Program { fake, _alone, contexts, stream, device, host }
    }

    /// Puts a copy to the device on the stream.
    pub(crate) fn copy(&self, bytes: usize) -> i32 {
        call!(cuMemcpyHtoDAsync_v2(u64 = self.device, Handle = self.host, usize = bytes, Handle = self.stream))
    }

    pub(crate) fn wait(&self) {
        assert_eq!(call!(cuStreamSynchronize(Handle = self.stream)), 0);
    }

    pub(crate) fn event(&self) -> Handle {
        let mut event = NONE;
        assert_eq!(call!(cuEventCreate(*mut Handle = &mut event, u32 = 2)), 0);
        event
    }

    /// The stand-in reports exactly this.
    pub(crate) fn reports(&self, what: &str, wrong: impl FnOnce()) {
        reports(|| self.fake.misuse(), what, wrong);
    }

    /// With the other device's context current.
    pub(crate) fn elsewhere<R>(&self, body: impl FnOnce() -> R) -> R {
        call!(cuCtxPushCurrent_v2(Handle = self.contexts[1]));
        let result = body();
        call!(cuCtxPopCurrent_v2(*mut Handle = &mut { NONE }));
        result
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.wait();
        call!(cuStreamDestroy_v2(Handle = self.stream));
        call!(cuMemFree_v2(u64 = self.device));
        call!(cuMemHostUnregister(Handle = self.host));
        call!(cuCtxPopCurrent_v2(*mut Handle = &mut { NONE }));
        (0..2).for_each(|ordinal| assert_eq!(call!(cuDevicePrimaryCtxRelease_v2(i32 = ordinal)), 0));
        assert_eq!(self.fake.misuse(), "");
    }
}

/// Nothing was reported so far, and now exactly this.
pub(crate) fn reports(misuse: impl Fn() -> String, what: &str, wrong: impl FnOnce()) {
    assert_eq!(misuse(), "", "before: {what}");
    wrong();
    let told = misuse();
    assert!(told.lines().count() == 1 && told.contains(what), "for `{what}` it reports: `{told}`");
}
