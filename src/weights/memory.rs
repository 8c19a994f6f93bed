//! Where tensors lie, and what reads land in on the way there.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::device::{Device, DevicePtr};
use crate::error::{Error, Result, TENSORS};
use crate::memory::Slab;
use crate::region::{DeviceMemory, address};
use crate::storage::Memory;

/// What keeps memory alive. A share of it is held by each tensor, each read, and each copy.
#[derive(Clone)]
#[allow(dead_code, reason = "the caller's is there to be held")]
pub(super) enum Owner {
    Load(Arc<DeviceMemory>),
    Caller(Arc<dyn Any + Send + Sync>),
}

/// An address, and what keeps it valid.
#[derive(Clone)]
pub(super) struct Spot {
    pub(super) ptr: DevicePtr,
    /// The same as the host sees it, where it can.
    pub(super) host: Option<NonNull<u8>>,
    pub(super) owner: Owner,
}

// SAFETY: an address and a share in its memory; who may touch the bytes is ruled by the engine, not by threads.
unsafe impl Send for Spot {}
// SAFETY: as above: a shared spot only gives out the address.
unsafe impl Sync for Spot {}

impl Spot {
    /// Memory of the device, with pages that come when they are written to, if the host can.
    pub(super) fn allocate(device: &Device, bytes: u64, deadline: std::time::Duration) -> Result<Spot> {
        let memory = DeviceMemory::reserve(device, bytes as usize, deadline).map_err(|error| match error {
            Error::Memory { bytes, errno, .. } => Error::Memory { what: TENSORS, bytes, errno },
            error => error,
        });
        let memory = Arc::new(memory?);
        Ok(Spot { ptr: memory.base(), host: memory.host(), owner: Owner::Load(memory) })
    }

    /// Memory of the caller's, which the host can address or not.
    pub(super) fn of_caller(ptr: DevicePtr, host: bool, owner: Arc<dyn Any + Send + Sync>) -> Spot {
        let address = std::ptr::with_exposed_provenance_mut(ptr as usize);
        let host = if host { NonNull::new(address) } else { None };
        Spot { ptr, host, owner: Owner::Caller(owner) }
    }

    /// The place of something without bytes.
    pub(super) fn nowhere() -> Spot {
        let host = NonNull::<u128>::dangling().cast();
        Spot { ptr: host.as_ptr() as DevicePtr, host: Some(host), owner: Owner::Caller(Arc::new(())) }
    }

    /// The spot so many bytes further on.
    pub(super) fn at(&self, offset: u64) -> Spot {
        // Wrapping: whether it is inside is checked where the memory is laid out, and used only there.
        let host = self.host.map(|host| host.as_ptr().wrapping_add(offset as usize));
        Spot { ptr: self.ptr + offset, host: host.and_then(NonNull::new), owner: self.owner.clone() }
    }

    /// What the memory is made of.
    pub(super) fn pages(&self) -> &'static str {
        match &self.owner {
            Owner::Load(memory) => memory.pages(),
            Owner::Caller(_) => "the caller's",
        }
    }
}

/// The right to write to a stretch of memory, of the host's or, where a ring writes to it, a device's. It moves, and is
/// divided; it cannot be copied.
pub(super) struct Span {
    spot: Spot,
    bytes: u64,
}

impl Span {
    /// # Safety
    /// The spot's memory has so many bytes behind it, the host or the ring that they are for can write to them, and no other
    /// span, copy or reader has them before this one is gone.
    pub(super) unsafe fn new(spot: Spot, bytes: u64) -> Span {
        Span { spot, bytes }
    }

    /// Divides off the first `bytes`.
    ///
    /// # Panics
    /// If there are fewer.
    pub(super) fn take(&mut self, bytes: u64) -> Span {
        assert!(bytes <= self.bytes, "a span is divided behind its end");
        let first = Span { spot: self.spot.clone(), bytes };
        (self.spot, self.bytes) = (self.spot.at(bytes), self.bytes - bytes);
        first
    }

    pub(super) fn ptr(&self) -> DevicePtr {
        self.spot.ptr
    }
}

/// What a read lands in: the tensors' own memory, or a slab on the way there.
pub(super) enum Hold {
    Span(Span),
    Slab(Slab),
}

// SAFETY: both kinds own their range, keep it when moved, and keep it valid when forgotten: a share of the memory or of
// the arena is forgotten with them.
unsafe impl Memory for Hold {
    fn base(&self) -> NonNull<u8> {
        match self {
            Hold::Span(Span { spot, .. }) => spot.host.unwrap_or_else(|| address(spot.ptr)),
            Hold::Slab(slab) => slab.base(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Hold::Span(span) => span.bytes as usize,
            Hold::Slab(slab) => slab.bytes(),
        }
    }

    fn on_device(&self) -> bool {
        matches!(self, Hold::Span(span) if span.spot.host.is_none())
    }
}

impl Hold {
    /// Bytes that have landed.
    ///
    /// # Safety
    /// They are the host's. No read is under way into them, and each of them was written by one.
    pub(super) unsafe fn landed(&self, at: usize, bytes: usize) -> &[u8] {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes()), "bytes outside their memory");
        // SAFETY: inside the memory, checked above, which is this value's alone and lives as long as it. By the caller's
        // promise it was written, and nobody writes to it while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.base().as_ptr().add(at), bytes) }
    }
}

/// What a copy holds: the slab that it reads, and a share in all memory that it may write to. A copy whose end is never
/// seen keeps both for ever. Copies to several devices share the slab; the last to end gives it back.
pub(super) struct Copying {
    pub(super) slab: Arc<Slab>,
    pub(super) _targets: Arc<Vec<Owner>>,
}
