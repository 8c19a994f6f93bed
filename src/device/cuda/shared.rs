//! A device's primary context, and what lives and dies with it.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::marker::PhantomData;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUstream};

use super::super::{DevicePtr, Fence};
use super::batch::BatchCopy;
use super::code;
use super::driver::{CAPTURE_RELAXED, Driver, EVENT_DISABLE_TIMING, STREAM_NON_BLOCKING};
use super::gather::Kernels;
use crate::error::{Error, Result};
use crate::memory;
use crate::stats::Fallback;

/// What devices, streams and timelines need of the driver; released with the last of them.
pub(super) struct Shared {
    pub(super) driver: &'static Driver,
    device: CUdevice,
    /// `"cuda:0"`.
    pub(super) label: String,
    pub(super) model: String,
    pub(super) ordinal: u32,
    context: CUcontext,
    /// CUDA does not survive a fork; see [`Shared::enter`].
    pid: u32,
    /// For [`read_back`](crate::device::RawDevice::read_back).
    pub(super) read_stream: CUstream,
    /// The events behind fences, by [`Fence`]; null where one was given back.
    pub(super) fences: RwLock<Vec<CUevent>>,
    pub(super) batch_copy: Option<BatchCopy>,
    /// Why none is tried any more, where the driver did not take one.
    pub(super) batch_refused: OnceLock<Fallback>,
    /// Loaded by the first stream that gathers.
    pub(super) kernels: OnceLock<Result<Kernels>>,
    /// Where an allocation began before it was aligned, by its aligned base.
    pub(super) unaligned: Mutex<HashMap<DevicePtr, DevicePtr>>,
}

// SAFETY: the handles are names that the driver accepts from any thread, under the context that `enter` makes current;
// the driver locks what it shares.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Why a device could not be opened.
pub(super) enum Failure {
    Absent(String),
    Broken(Error),
}

thread_local! {
    /// The context that is current for as long as this thread lives; see [`Shared::stay`].
    static STAYS: Cell<CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

const FORKED: &str = "start it with `spawn` or `exec` instead of `fork`";

/// The context is current on this thread as long as this lives, and captures are left alone: in CUDA's default mode a
/// query of an event, an allocation or a wait on one thread ends the capture of a graph on any other.
pub(super) struct Entered<'a> {
    shared: &'a Shared,
    /// Whether it was current before, on a thread where it [stays](Shared::stay).
    was_there: bool,
    /// The thread's own way with captures; none where it could not be changed.
    capture_mode: Option<c_int>,
    /// Stays on its thread.
    _not_send: PhantomData<*mut ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let Shared { driver, label, .. } = self.shared;
        if self.was_there {
            return;
        }
        if let Some(mut mode) = self.capture_mode {
            let (call, exchange) = driver.capture_mode;
            // SAFETY: `mode` is writable.
            driver.check_release(label, call, unsafe { exchange(&mut mode) });
        }
        let (mut popped, (call, pop)) = (std::ptr::null_mut(), driver.context_pop);
        // SAFETY: `popped` is writable. `enter` pushed on this thread, and the pairs nest like the locals that hold
        // them, so this pops what was pushed.
        driver.check_release(label, call, unsafe { pop(&mut popped) });
    }
}

impl Shared {
    /// Finds the device, and retains its primary context.
    pub(super) fn open(ordinal: u32, label: String) -> Result<Shared, Failure> {
        let driver = Driver::get().map_err(Failure::Absent)?;
        let found = |call, result| match result {
            code::SUCCESS => Ok(()),
            failed => Err(Failure::Absent(code::absence(driver, call, failed))),
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
            // From here on the device is there: what fails is no reason to look for another.
            let (call, retain) = driver.context_retain;
            driver.check(&label, call, retain(&mut context, device)).map_err(Failure::Broken)?;
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
            batch_copy: BatchCopy::find(driver),
            batch_refused: OnceLock::new(),
            kernels: OnceLock::new(),
            unaligned: Mutex::default(),
        };
        shared.read_stream = shared.create_stream().map_err(Failure::Broken)?;
        Ok(shared)
    }

    /// By the device's place on the PCI bus.
    pub(super) fn numa_node(&self) -> Option<u32> {
        let mut pci = [0 as c_char; 32];
        // SAFETY: there is room for the length given, and a 0 behind it.
        let code = unsafe { (self.driver.device_pci.1)(pci.as_mut_ptr(), pci.len() as i32 - 1, self.device) };
        if code != code::SUCCESS {
            return None;
        }
        // SAFETY: the last byte was not given to the driver and is 0.
        memory::node_of(&unsafe { CStr::from_ptr(pci.as_ptr()) }.to_string_lossy())
    }

    pub(super) fn check(&self, call: &'static str, code: i32) -> Result<()> {
        self.driver.check(&self.label, call, code)
    }

    /// Makes the context current on this thread for as long as the result lives.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        if std::process::id() != self.pid {
            let reason = format!("this process was forked from process {} that had opened it; {FORKED}", self.pid);
            return Err(Error::NoDevice { device: self.label.clone(), reason });
        }
        let mut entered = Entered { shared: self, was_there: self.stays(), capture_mode: None, _not_send: PhantomData };
        if entered.was_there {
            return Ok(entered);
        }
        let (call, push) = self.driver.context_push;
        // SAFETY: the context is retained until `drop`.
        if let Err(error) = self.check(call, unsafe { push(self.context) }) {
            std::mem::forget(entered); // there is nothing to pop
            return Err(error);
        }
        let (mut mode, (call, exchange)) = (CAPTURE_RELAXED, self.driver.capture_mode);
        // SAFETY: `mode` is writable.
        self.check(call, unsafe { exchange(&mut mode) })?;
        entered.capture_mode = Some(mode);
        Ok(entered)
    }

    /// Makes the context current on this thread for as long as the thread lives, and with it the way with captures: an
    /// engine's thread would change both back and forth for every slab. For threads of strait's own.
    pub(super) fn stay(&self) -> Result<()> {
        let entered = self.enter()?;
        STAYS.set(self.context);
        std::mem::forget(entered);
        Ok(())
    }

    /// Whether it stays on this thread, and what else runs there (a logger, a library) has left it current.
    fn stays(&self) -> bool {
        let (mut current, (_, get)) = (std::ptr::null_mut(), self.driver.context_current);
        // SAFETY: `current` is writable.
        STAYS.get() == self.context && unsafe { get(&mut current) } == code::SUCCESS && current == self.context
    }

    pub(super) fn create_stream(&self) -> Result<CUstream> {
        let _entered = self.enter()?;
        let (mut least, mut greatest, (call, ask)) = (0, 0, self.driver.stream_priorities);
        // SAFETY: both places are writable.
        self.check(call, unsafe { ask(&mut least, &mut greatest) })?;
        let (mut stream, (call, create)) = (std::ptr::null_mut(), self.driver.stream_create);
        // A gather takes tens of microseconds, and the copies behind it wait with it: it goes before a training step's kernels.
        // SAFETY: `stream` is writable. Non-blocking: no implicit order with the legacy stream that others use.
        self.check(call, unsafe { create(&mut stream, STREAM_NON_BLOCKING, greatest) })?;
        Ok(stream)
    }

    pub(super) fn create_event(&self) -> Result<CUevent> {
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
    pub(super) unsafe fn destroy(&self, stream: CUstream, events: &[CUevent]) {
        let Ok(_entered) = self.enter() else { return };
        let Driver {
            event_destroy: (event_call, destroy_event), stream_destroy: (stream_call, destroy_stream), ..
        } = *self.driver;
        // SAFETY: the caller's promise.
        let codes = events.iter().map(|&event| unsafe { destroy_event(event) });
        // On a lost device all of them fail, alike: said once.
        let code = codes.fold(code::SUCCESS, |first, code| if first == code::SUCCESS { code } else { first });
        self.driver.check_release(&self.label, event_call, code);
        if !stream.is_null() {
            // SAFETY: the caller's promise.
            self.driver.check_release(&self.label, stream_call, unsafe { destroy_stream(stream) });
        }
    }

    pub(super) fn fence_event(&self, fence: Fence) -> Result<CUevent> {
        let fences = self.fences.read().unwrap_or_else(PoisonError::into_inner);
        fences.get(fence.0 as usize).copied().filter(|event| !event.is_null()).ok_or_else(|| Error::Device {
            device: self.label.clone(),
            call: self.driver.event_record.0,
            code: code::INVALID_HANDLE,
            name: format!("{fence:?} is not of this device"),
            remedy: String::new(),
        })
    }

    pub(super) fn allocate_bytes(&self, bytes: usize) -> Result<DevicePtr> {
        let (mut base, (call, allocate)) = (0, self.driver.allocate);
        // SAFETY: `base` is writable, and the caller has entered the context.
        self.check(call, unsafe { allocate(&mut base, bytes) })?;
        Ok(base)
    }

    pub(super) fn free_bytes(&self, base: DevicePtr) {
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
        if let (Some(Ok(kernels)), Ok(_entered)) = (self.kernels.get(), self.enter()) {
            kernels.unload(self);
        }
        let mut fences = std::mem::take(self.fences.get_mut().unwrap_or_else(PoisonError::into_inner));
        fences.retain(|event| !event.is_null());
        // SAFETY: the last owner is going, so nobody uses them again.
        unsafe { self.destroy(self.read_stream, &fences) };
        let (call, release) = self.driver.context_release;
        // SAFETY: retained once in `open`. Others that retained it keep it alive.
        self.driver.check_release(&self.label, call, unsafe { release(self.device) });
    }
}
