//! CUDA devices: memory, pinning and streams in the device's primary context.
//!
//! The context is the one that PyTorch and the CUDA runtime use. It is pushed for the length of each call and popped
//! again, so no thread's current context changes.

mod driver;
mod stream;

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use self::driver::{Driver, EVENT_DISABLE_TIMING, HOST_REGISTER_PORTABLE, Handle, STREAM_NON_BLOCKING};
use self::stream::CudaStream;
use super::{DeviceKind, DevicePtr, Fence, RawDevice, RawMemory, RawStream, Stream};
use crate::error::{Error, Result};

/// What [`RawMemory::base`] is a multiple of; the driver itself promises 256 bytes.
const ALIGN: usize = 4096;

/// One CUDA device.
pub(super) struct CudaDevice(Arc<Shared>);

/// What devices, streams and timelines need of the driver; released with the last of them.
struct Shared {
    driver: &'static Driver,
    device: i32,
    /// `"cuda:0"`.
    label: String,
    model: String,
    ordinal: u32,
    context: Handle,
    /// CUDA does not survive a fork; see [`Shared::enter`].
    pid: u32,
    /// For [`RawDevice::read_back`].
    read_stream: Handle,
    /// The events behind fences, by [`Fence`].
    fences: RwLock<Vec<Handle>>,
    /// Where an allocation began before it was aligned, by its aligned base.
    unaligned: Mutex<HashMap<DevicePtr, DevicePtr>>,
}

// SAFETY: the handles are names that the driver accepts from any thread, under the context that `enter` makes current;
// the driver locks what it shares.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl CudaDevice {
    pub(super) fn new(ordinal: u32) -> Result<CudaDevice> {
        let label = format!("cuda:{ordinal}");
        open(ordinal, label.clone()).map(|shared| CudaDevice(Arc::new(shared))).map_err(|failure| match failure {
            Failure::Absent(reason) => Error::NoDevice { device: label, reason },
            Failure::Broken(error) => error,
        })
    }
}

enum Failure {
    Absent(String),
    Broken(Error),
}

fn open(ordinal: u32, label: String) -> Result<Shared, Failure> {
    let driver = Driver::get().map_err(Failure::Absent)?;
    let found = |call, code| match code {
        driver::SUCCESS => Ok(()),
        code => Err(Failure::Absent(driver::absence(driver, call, code))),
    };
    static STARTED_IN: OnceLock<u32> = OnceLock::new();
    let pid = std::process::id();
    if let Some(first) = STARTED_IN.get().filter(|&&first| first != pid) {
        let reason = format!("this process was forked from process {first}, which had started CUDA; {FORKED}");
        return Err(Failure::Absent(reason));
    }
    let (mut count, mut device, mut context) = (0, 0, std::ptr::null_mut());
    let mut model = [0 as c_char; 128];
    // SAFETY: every pointer is to a local that outlives the call; `model` has room for the length given.
    unsafe {
        found(driver.init.0, (driver.init.1)(0))?;
        STARTED_IN.get_or_init(|| pid);
        found(driver.device_count.0, (driver.device_count.1)(&mut count))?;
        if ordinal >= count as u32 {
            let reason = format!("there are {count} CUDA devices, counted from 0; check CUDA_VISIBLE_DEVICES");
            return Err(Failure::Absent(reason));
        }
        found(driver.device.0, (driver.device.1)(&mut device, ordinal as i32))?;
        found(driver.device_name.0, (driver.device_name.1)(model.as_mut_ptr(), model.len() as i32 - 1, device))?;
        found(driver.context_retain.0, (driver.context_retain.1)(&mut context, device))?;
    }
    // SAFETY: the last byte of `model` was not given to the driver and is 0.
    let model = unsafe { CStr::from_ptr(model.as_ptr()) }.to_string_lossy().into_owned();
    let mut shared = Shared {
        driver,
        device,
        label,
        model,
        ordinal,
        context,
        pid,
        read_stream: std::ptr::null_mut(),
        fences: RwLock::default(),
        unaligned: Mutex::default(),
    };
    shared.read_stream = shared.create_stream().map_err(Failure::Broken)?;
    Ok(shared)
}

const FORKED: &str = "start it with `spawn` or `exec` instead of `fork`";

/// The context is current on this thread as long as this lives.
struct Entered<'a> {
    shared: &'a Shared,
    /// Stays on its thread.
    _not_send: PhantomData<*mut ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let Shared { driver, label, .. } = self.shared;
        let (mut popped, (call, pop)) = (std::ptr::null_mut(), driver.context_pop);
        // SAFETY: `popped` is writable. `enter` pushed on this thread, and the pairs nest like the locals that hold
        // them, so this pops what was pushed.
        driver.check_release(label, call, unsafe { pop(&mut popped) });
    }
}

impl Shared {
    fn check(&self, call: &'static str, code: i32) -> Result<()> {
        self.driver.check(&self.label, call, code)
    }

    /// Makes the context current on this thread for as long as the result lives.
    fn enter(&self) -> Result<Entered<'_>> {
        if std::process::id() != self.pid {
            let reason = format!("this process was forked from process {} that had opened it; {FORKED}", self.pid);
            return Err(Error::NoDevice { device: self.label.clone(), reason });
        }
        let (call, push) = self.driver.context_push;
        // SAFETY: the context is retained until `drop`.
        self.check(call, unsafe { push(self.context) })?;
        Ok(Entered { shared: self, _not_send: PhantomData })
    }

    fn create_stream(&self) -> Result<Handle> {
        let _entered = self.enter()?;
        let (mut stream, (call, create)) = (std::ptr::null_mut(), self.driver.stream_create);
        // SAFETY: `stream` is writable. Non-blocking: no implicit order with the legacy stream that others use.
        self.check(call, unsafe { create(&mut stream, STREAM_NON_BLOCKING) })?;
        Ok(stream)
    }

    fn create_event(&self) -> Result<Handle> {
        let _entered = self.enter()?;
        let (mut event, (call, create)) = (std::ptr::null_mut(), self.driver.event_create);
        // SAFETY: `event` is writable.
        self.check(call, unsafe { create(&mut event, EVENT_DISABLE_TIMING) })?;
        Ok(event)
    }

    /// Destroys streams and events. The driver keeps what unfinished work still needs.
    ///
    /// # Safety
    /// They came from this Shared and are not used again.
    unsafe fn destroy(&self, stream: Handle, events: &[Handle]) {
        let Ok(_entered) = self.enter() else { return };
        let Driver {
            event_destroy: (event_call, destroy_event), stream_destroy: (stream_call, destroy_stream), ..
        } = *self.driver;
        // SAFETY: the caller's promise.
        let codes = events.iter().map(|&event| unsafe { destroy_event(event) });
        // On a lost device all of them fail, alike: said once.
        let code = codes.fold(driver::SUCCESS, |first, code| if first == driver::SUCCESS { code } else { first });
        self.driver.check_release(&self.label, event_call, code);
        if !stream.is_null() {
            // SAFETY: the caller's promise.
            self.driver.check_release(&self.label, stream_call, unsafe { destroy_stream(stream) });
        }
    }

    fn fence_event(&self, fence: Fence) -> Result<Handle> {
        let fences = self.fences.read().unwrap_or_else(PoisonError::into_inner);
        fences.get(fence.0 as usize).copied().ok_or_else(|| Error::Device {
            device: self.label.clone(),
            call: self.driver.event_record.0,
            code: 400,
            name: format!("{fence:?} is not of this device"),
            remedy: String::new(),
        })
    }

    fn allocate_bytes(&self, bytes: usize) -> Result<DevicePtr> {
        let (mut base, (call, allocate)) = (0, self.driver.allocate);
        // SAFETY: `base` is writable, and the caller has entered the context.
        self.check(call, unsafe { allocate(&mut base, bytes) })?;
        Ok(base)
    }

    fn free_bytes(&self, base: DevicePtr) {
        let (call, free) = self.driver.free;
        // SAFETY: `base` came from `allocate_bytes` and is freed once, and the caller has entered the context.
        self.driver.check_release(&self.label, call, unsafe { free(base) });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            return; // The parent's, not ours.
        }
        let fences = std::mem::take(self.fences.get_mut().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the last owner is going, so nobody uses them again.
        unsafe { self.destroy(self.read_stream, &fences) };
        let (call, release) = self.driver.context_release;
        // SAFETY: retained once in `open`. Others that retained it keep it alive.
        self.driver.check_release(&self.label, call, unsafe { release(self.device) });
    }
}

// SAFETY: memory is the driver's, kept from `allocate` to `free`; the driver reads pinned memory until `unpin`; every
// stream, timeline and fence holds the Shared that holds the context.
unsafe impl RawDevice for CudaDevice {
    fn name(&self) -> String {
        format!("{} ({})", self.0.label, self.0.model)
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda(self.0.ordinal)
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        let shared = &*self.0;
        let _entered = shared.enter()?;
        let asked = bytes.max(1).next_multiple_of(ALIGN);
        let mut base = shared.allocate_bytes(asked)?;
        if base % ALIGN as u64 != 0 {
            // Small allocations only: large ones begin on the driver's own pages of 2 MiB.
            shared.free_bytes(base);
            let begin = shared.allocate_bytes(asked + ALIGN)?;
            base = begin.next_multiple_of(ALIGN as u64);
            shared.unaligned.lock().unwrap_or_else(PoisonError::into_inner).insert(base, begin);
        }
        Ok(RawMemory { base, bytes, host: None, pages: "device" })
    }

    unsafe fn free(&self, memory: RawMemory) {
        let shared = &*self.0;
        let Ok(_entered) = shared.enter() else { return };
        let begin = shared.unaligned.lock().unwrap_or_else(PoisonError::into_inner).remove(&memory.base);
        shared.free_bytes(begin.unwrap_or(memory.base));
    }

    unsafe fn pin(&self, base: NonNull<u8>, bytes: usize) -> Result<()> {
        let _entered = self.0.enter()?;
        let (call, register) = self.0.driver.host_register;
        // SAFETY: the caller promises that the memory stays mapped until `unpin`.
        self.0.check(call, unsafe { register(base.as_ptr().cast(), bytes, HOST_REGISTER_PORTABLE) })
    }

    unsafe fn unpin(&self, base: NonNull<u8>) {
        let Ok(_entered) = self.0.enter() else { return };
        let (call, unregister) = self.0.driver.host_unregister;
        // SAFETY: the caller promises that it was pinned and that no copy from it is in flight.
        self.0.driver.check_release(&self.0.label, call, unsafe { unregister(base.as_ptr().cast()) });
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CudaStream::new(self.0.clone())?))
    }

    fn fence(&self) -> Result<Fence> {
        let event = self.0.create_event()?;
        let mut fences = self.0.fences.write().unwrap_or_else(PoisonError::into_inner);
        fences.push(event);
        Ok(Fence(fences.len() as u64 - 1))
    }

    unsafe fn record(&self, fence: Fence, consumer: RawStream) -> Result<()> {
        let event = self.0.fence_event(fence)?;
        let _entered = self.0.enter()?;
        let (call, record) = self.0.driver.event_record;
        // SAFETY: the event lives as long as the Shared; the stream is the caller's promise.
        self.0.check(call, unsafe { record(event, consumer.0) })
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        let shared = &*self.0;
        if target.is_empty() {
            return Ok(());
        }
        let _entered = shared.enter()?;
        let Driver { copy_to_host: (copy_call, copy), stream_synchronize: (wait_call, wait), .. } = *shared.driver;
        // SAFETY: the caller promises a valid source that nothing writes to. `target` is ours until we return, which
        // is behind the synchronisation below: where that fails the device is lost and writes nothing more.
        let copied = unsafe { copy(target.as_mut_ptr().cast(), source, target.len(), shared.read_stream) };
        // SAFETY: the stream lives as long as the Shared. It holds nothing but reads like this one, so this does not
        // wait for anybody else; it has no deadline because the borrowed target could not be leaked.
        let waited = unsafe { wait(shared.read_stream) };
        shared.check(copy_call, copied)?;
        shared.check(wait_call, waited)
    }
}
