//! Why no ring ever writes to memory that somebody else has: the whole argument, in one file.
//!
//! ```text
//!  open(lease)         begin()               start()                     poll(), next_end()
//!     '--> Landing ------------> Resting ------------> the ring has it --------------------> Resting
//!             |                     ^                                                           |
//!             |                     '-------- what is left of it, or the same once more --------+
//!             |                                                                                 |
//!  reap() <---+--- closed, and none of its reads left <-------------------- finish() <----------'
//! ```
//!
//! 1. A lease that has moved in has no name. It leaves its landing in [`reap`](Flight::reap) alone: when that is closed, and
//!    none of its reads is left.
//! 2. A read is left until [`finish`](Flight::finish), which takes a [`Resting`]: the right to a read that no ring has. There is
//!    one at most. `begin` makes it, `start` takes it, the read's completion gives it back, and nothing copies it. Who
//!    loses one loses memory; nobody frees it.
//! 3. A read writes inside its landing: `begin` compares, and a rest is a part of the whole. Only a ring that can writes to a
//!    device's memory.
//! 4. Its file stays open, and in its place in the ring's table, as long as the read is counted there: from `begin` to `finish`.
//! 5. What is dropped with reads left is leaked: closing a ring does not end its reads, and they land at any time.

use std::time::Duration;

use super::{Damage, Landed, Want};
use crate::error::Result;
use crate::stats::Fallback;
use crate::storage::attempt::Attempt;
use crate::storage::files::{Files, OpenFile, Opened, ShardFile};
use crate::storage::places::Places;
use crate::storage::{Completion, Memory, RawRead, Ring};

pub(super) struct Flight<L: Memory> {
    rings: Vec<Box<dyn Ring>>,
    files: Files,
    reads: Places<Reading>,
    landings: Places<Landing<L>>,
    /// Landings that are closed and have no read left, to be reaped.
    ended: Vec<u32>,
    completions: Vec<Completion>,
    /// So many of them have been taken out.
    taken: usize,
}

/// Where reads land. Valid until its [`Landed`] is reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LandingId(u32);

struct Landing<L> {
    lease: L,
    tag: u64,
    /// Reads between `begin` and `finish`.
    reads: u32,
    closed: bool,
    /// Allocates nothing as long as nothing fails.
    damages: Vec<Damage>,
}

pub(super) struct Reading {
    pub(super) want: Want,
    landing: LandingId,
    pub(super) slot: u32,
    pub(super) ring: usize,
    pub(super) attempt: Attempt,
}

/// A read that no ring has, and the right to start it or to finish it.
#[must_use = "a read that is lost keeps its memory for ever"]
pub(super) struct Resting(u32);

impl<L: Memory> Flight<L> {
    pub(super) fn new(ring: Box<dyn Ring>, files: Files, depth: usize, landings: usize) -> Flight<L> {
        Flight {
            rings: vec![ring],
            files,
            reads: Places::new(depth),
            landings: Places::new(landings),
            ended: Vec::with_capacity(landings),
            completions: Vec::with_capacity(2 * depth),
            taken: 0,
        }
    }

    /// Moves a lease in; gives it back if as many landings are open as were announced.
    pub(super) fn open(&mut self, lease: L, tag: u64) -> Result<LandingId, L> {
        if self.landings.is_full() {
            return Err(lease);
        }
        let landing = Landing { lease, tag, reads: 0, closed: false, damages: Vec::new() };
        Ok(LandingId(self.landings.put(landing).expect("checked")))
    }

    /// A read into a landing, of the file in that slot, by that ring. No ring has it yet.
    pub(super) fn begin(&mut self, id: LandingId, want: Want, slot: u32, ring: usize, now: Duration) -> Resting {
        let landing = self.landings.get_mut(id.0);
        let end = want.at.checked_add(want.len as usize);
        let inside = end.is_some_and(|end| end <= landing.lease.bytes()) && want.want <= want.len;
        assert!(inside && !landing.closed, "a read outside its landing, or into a closed one");
        let reading = Reading { want, landing: id, slot, ring, attempt: Attempt::first(now) };
        let read = self.reads.put(reading).expect("room for a read");
        landing.reads += 1;
        self.files.hold(slot);
        Resting(read)
    }

    /// Hands a read, or what is left of it, to its ring; it comes back if that has no room.
    pub(super) fn start(&mut self, read: Resting) -> Result<(), Resting> {
        let Reading { want, landing, slot, ring, ref attempt } = *self.reads.get(read.0);
        let (file, lease, ring) = (self.files.slot(slot), &self.landings.get(landing.0).lease, &mut self.rings[ring]);
        assert!(!lease.on_device() || ring.writes_to_device(), "a read into a device's memory by a ring that cannot");
        let Some(len) = want.len.checked_sub(attempt.from()) else { unreachable!("a rest is a part of the whole") };
        let at = want.at + attempt.from() as usize;
        let raw = RawRead {
            fd: file.fd(),
            // A ring that writes to device memory keeps a file of its own.
            file_slot: (file.registered() || ring.writes_to_device()).then_some(slot),
            offset: want.offset + u64::from(attempt.from()),
            len,
            // Inside the landing's memory, which may be a device's: an address, not to be followed here.
            target: lease.base().map_addr(|addr| addr.saturating_add(at)),
            rw_flags: file.mode.rw_flags,
            token: u64::from(read.0),
        };
        // SAFETY: the target lies inside a lease that its landing owns, and the file is held in its slot, both until
        // `finish`. That takes a `Resting`, and this read's is given up here: the next one is made of its completion.
        // Where that does not come, `drop` leaks them.
        unsafe { ring.submit(raw) }.map_err(|_| read)
    }

    /// Lets one ring work, and waits for it as [`Ring::poll`] does.
    pub(super) fn poll(&mut self, ring: usize, want: usize, timeout: Duration) -> Result<()> {
        self.rings[ring].poll(want, timeout, &mut self.completions)
    }

    /// Whether a ring has ended a read that [`next_end`](Self::next_end) has not told of.
    pub(super) fn has_ends(&self) -> bool {
        self.taken < self.completions.len()
    }

    /// A read that a ring has ended, and with what result.
    pub(super) fn next_end(&mut self) -> Option<(Resting, i32)> {
        let Some(&Completion { token, result }) = self.completions.get(self.taken) else {
            self.completions.clear();
            self.taken = 0;
            return None;
        };
        self.taken += 1;
        Some((Resting(token as u32), result))
    }

    /// The read is over.
    pub(super) fn finish(&mut self, read: Resting, damage: Option<Damage>) {
        let Reading { landing: id, slot, .. } = self.reads.take(read.0);
        self.files.let_go(slot);
        let landing = self.landings.get_mut(id.0);
        landing.reads -= 1;
        landing.damages.extend(damage);
        self.end_if_over(id);
    }

    /// No more reads will join this landing.
    pub(super) fn close(&mut self, id: LandingId) {
        let landing = self.landings.get_mut(id.0);
        assert!(!std::mem::replace(&mut landing.closed, true), "a landing closed twice");
        self.end_if_over(id);
    }

    fn end_if_over(&mut self, id: LandingId) {
        let landing = self.landings.get(id.0);
        if landing.closed && landing.reads == 0 {
            self.ended.push(id.0);
        }
    }

    /// The lease of a landing that is over.
    pub(super) fn reap(&mut self) -> Option<Landed<L>> {
        let Landing { lease, tag, damages, .. } = self.landings.take(self.ended.pop()?);
        let result = damages.first().map_or(Ok(()), |damage| Err(damage.error.clone()));
        Some(Landed { lease, tag, result, damages })
    }
}

impl<L: Memory> Drop for Flight<L> {
    fn drop(&mut self) {
        let (reads, landings) = (self.reads.used(), self.landings.used());
        if reads == 0 {
            return;
        }
        tracing::warn!("{reads} reads did not end in time: {landings} pieces of memory stay reserved for them");
        std::mem::forget(std::mem::replace(&mut self.landings, Places::new(0)));
        std::mem::forget(std::mem::take(&mut self.rings));
        self.files.leak();
    }
}

/// What the rest of the queue asks, and may change without touching the argument above.
impl<L: Memory> Flight<L> {
    pub(super) fn reads(&self) -> impl Iterator<Item = &Reading> {
        self.reads.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.reads.used()
    }

    pub(super) fn is_full(&self) -> bool {
        self.reads.is_full()
    }

    pub(super) fn has_landed(&self) -> bool {
        !self.ended.is_empty()
    }

    pub(super) fn reading(&self, read: &Resting) -> &Reading {
        self.reads.get(read.0)
    }

    pub(super) fn attempt(&mut self, read: &Resting) -> &mut Attempt {
        &mut self.reads.get_mut(read.0).attempt
    }

    /// The read goes on by another ring.
    pub(super) fn change_ring(&mut self, read: &Resting, ring: usize) {
        self.reads.get_mut(read.0).ring = ring;
    }

    pub(super) fn on_device(&self, landing: LandingId) -> bool {
        self.landings.get(landing.0).lease.on_device()
    }

    pub(super) fn rings(&self) -> &[Box<dyn Ring>] {
        &self.rings
    }

    pub(super) fn rings_mut(&mut self) -> impl Iterator<Item = &mut (dyn Ring + 'static)> {
        self.rings.iter_mut().map(|ring| &mut **ring)
    }

    pub(super) fn add_ring(&mut self, ring: Box<dyn Ring>) {
        self.rings.push(ring);
    }

    pub(super) fn open_file(&mut self, shard: u32) -> Result<Option<Opened>> {
        self.files.open(shard)
    }

    pub(super) fn demote_file(&mut self, slot: u32, errno: i32) -> Result<Fallback> {
        self.files.demote(slot, errno)
    }

    pub(super) fn file(&self, slot: u32) -> &OpenFile {
        self.files.slot(slot)
    }

    pub(super) fn shard(&self, shard: u32) -> &ShardFile {
        self.files.shard(shard)
    }

    pub(super) fn descriptors(&self) -> usize {
        self.files.descriptors()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;
    use std::sync::Arc;

    use super::*;
    use crate::storage::{Opening, Pread};

    /// Memory that tells whether it is still there.
    struct Lease(#[allow(dead_code, reason = "held, not used")] Arc<()>);

    // SAFETY: no byte of it is there to be read or written.
    unsafe impl Memory for Lease {
        fn base(&self) -> NonNull<u8> {
            NonNull::dangling()
        }

        fn bytes(&self) -> usize {
            0
        }
    }

    fn flight() -> (Flight<Lease>, u32) {
        let path = std::env::current_exe().unwrap();
        let shard = ShardFile { bytes: path.metadata().unwrap().len(), path: path.into() };
        let files = Files::new(Arc::new([shard]), Opening::Ring { direct: false }, 1);
        let mut flight = Flight::new(Box::new(Pread::new(2).unwrap()), files, 2, 1);
        let slot = flight.open_file(0).unwrap().unwrap().slot;
        (flight, slot)
    }

    const WANT: Want = Want { shard: 0, offset: 0, len: 0, want: 0, at: 0 };

    /// Mutants that this catches: a landing that is over with a read left; one that is over before it is closed.
    #[test]
    fn a_lease_comes_back_when_its_landing_is_closed_and_the_last_read_has_ended() {
        let ((mut flight, slot), memory) = (flight(), Arc::new(()));
        let id = flight.open(Lease(memory.clone()), 7).ok().unwrap();
        let reads = [(); 2].map(|()| flight.begin(id, WANT, slot, 0, Duration::ZERO));
        let [first, last] = reads;
        flight.finish(first, None);
        flight.close(id);
        assert!(flight.reap().is_none());
        flight.finish(last, None);
        let landed = flight.reap().unwrap();
        assert!(landed.tag == 7 && Arc::ptr_eq(&landed.lease.0, &memory));
    }

    /// Mutants that this catches: a drop without the leak; one that leaks where nothing is left.
    #[test]
    fn memory_is_dropped_with_its_queue_only_if_no_read_is_left() {
        for lost in [false, true] {
            let ((mut flight, slot), memory) = (flight(), Arc::new(()));
            let id = flight.open(Lease(memory.clone()), 0).ok().unwrap();
            let read = flight.begin(id, WANT, slot, 0, Duration::ZERO);
            if !lost {
                flight.finish(read, None);
            }
            drop(flight);
            assert_eq!(Arc::strong_count(&memory), if lost { 2 } else { 1 });
        }
    }
}
