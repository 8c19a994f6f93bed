//! Host memory as a device: rings write into it directly, and its copies are done when the call returns.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{DeviceKind, DevicePtr, Fence, RawDevice, RawMemory, RawStream, Seq, Stream, Timeline};
use crate::error::Result;
use crate::memory::Arena;
use crate::plan::{Cast, Move};

/// The host device.
#[derive(Debug, Default)]
pub struct HostDevice(());

// SAFETY: memory is an arena's mapping, kept from `allocate` to `free`. Copies end before `copy` returns, so there is
// never one in flight that pinning would have to protect.
unsafe impl RawDevice for HostDevice {
    fn name(&self) -> String {
        "host".into()
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Host
    }

    fn allocate(&self, bytes: usize) -> Result<RawMemory> {
        Ok(raw(Arena::map(bytes)?))
    }

    fn reserve(&self, bytes: usize) -> Result<RawMemory> {
        Ok(raw(Arena::reserve(bytes)?))
    }

    unsafe fn free(&self, memory: RawMemory) {
        let Some(base) = memory.host else { return };
        // SAFETY: `allocate` took both values out of an arena; the caller gives them back once, when nothing uses
        // the memory any more.
        drop(unsafe { Arena::from_raw(base, memory.bytes) });
    }

    unsafe fn inherit(&self, memory: &RawMemory) {
        let Some(base) = memory.host else { return };
        // SAFETY: `allocate` took both values out of an arena, and nothing writes to it: the caller's promise.
        if let Err(error) = unsafe { Arena::inherit(base, memory.bytes) } {
            tracing::warn!(%error, bytes = memory.bytes, "children of a fork will not have this memory");
        }
    }

    unsafe fn pin(&self, _base: NonNull<u8>, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn unpin(&self, _base: NonNull<u8>) -> Result<()> {
        Ok(())
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(HostStream(Arc::default())))
    }

    fn fence(&self) -> Result<Fence> {
        Ok(Fence(0))
    }

    fn free_fence(&self, _fence: Fence) {}

    /// The host's consumers are done with memory when they give it back: there is nothing to record.
    unsafe fn record(&self, _fence: Fence, _consumer: RawStream) -> Result<()> {
        Ok(())
    }

    unsafe fn read_back(&self, source: DevicePtr, target: &mut [u8]) -> Result<()> {
        // SAFETY: the caller promises that `source` is valid for the length of `target`, which as a mutable slice
        // overlaps nothing else.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, target.as_mut_ptr(), target.len()) };
        Ok(())
    }
}

fn raw(arena: Arena) -> RawMemory {
    let pages = arena.pages().as_str();
    let (base, bytes) = arena.into_raw();
    RawMemory { base: base.as_ptr() as DevicePtr, bytes, host: Some(base), pages }
}

/// Holds the last mark. Every mark is reached when it is set.
struct HostStream(Arc<AtomicU64>);

// SAFETY: `copy` and `copy_out` return after their last byte. The release store of `mark` and the acquire load of `reached` make those
// bytes visible to whoever sees the mark.
unsafe impl Stream for HostStream {
    unsafe fn copy(&mut self, source: NonNull<u8>, target: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller promises a valid source that does not change and a target of this device; slabs and
        // regions come from different mappings, so they do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn copy_out(&mut self, source: DevicePtr, target: NonNull<u8>, bytes: usize) -> Result<()> {
        // SAFETY: as for `copy`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(source as *const u8, target.as_ptr(), bytes) };
        Ok(())
    }

    fn mark(&mut self) -> Result<Seq> {
        Ok(Seq(self.0.fetch_add(1, Ordering::Release) + 1))
    }

    fn reached(&mut self) -> Result<Seq> {
        Ok(Seq(self.0.load(Ordering::Acquire)))
    }

    fn wait(&mut self, _seq: Seq, _timeout: Duration) -> Result<Seq> {
        self.reached()
    }

    fn wait_fence(&mut self, _fence: Fence) -> Result<()> {
        Ok(())
    }

    unsafe fn gather(&mut self, base: DevicePtr, moves: &[Move]) -> Result<()> {
        for Move { source, target, bytes } in moves {
            // SAFETY: the caller promises that both lie in memory of this device, apart from each other.
            unsafe {
                let (source, target) = ((base + source) as *const u8, (base + target) as *mut u8);
                std::ptr::copy_nonoverlapping(source, target, *bytes as usize);
            }
        }
        Ok(())
    }

    fn ready_to_cast(&mut self, _cast: Cast) -> Result<(), String> {
        Ok(())
    }

    unsafe fn cast(&mut self, base: DevicePtr, cast: Cast, moves: &[Move]) -> Result<usize> {
        let caster = cast.caster();
        for &Move { source, target, bytes } in moves {
            let (source, target) = ((base + source) as *const u8, (base + target) as *mut u8);
            // SAFETY: the caller promises that both lie in memory of this device, with these lengths and apart from each
            // other; nobody else uses the target until a later mark is reached.
            let (source, target) = unsafe {
                let target = std::slice::from_raw_parts_mut(target, cast.bytes_of(bytes) as usize);
                (std::slice::from_raw_parts(source, bytes as usize), target)
            };
            caster.cast(source, target);
        }
        Ok(moves.len())
    }

    fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::new(HostTimeline(self.0.clone()))
    }
}

struct HostTimeline(Arc<AtomicU64>);

// SAFETY: a mark is reached when it is set (see HostStream), so a consumer never runs ahead of one that exists.
unsafe impl Timeline for HostTimeline {
    fn wait(&self, seq: Seq, _timeout: Duration) -> Result<bool> {
        Ok(self.0.load(Ordering::Acquire) >= seq.0)
    }

    unsafe fn wait_on(&self, _seq: Seq, _consumer: RawStream) -> Result<()> {
        Ok(())
    }
}
