//! The one safe owner of host memory that copies read or write.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::{DevicePtr, Fence, Seq, Stream, Timeline};
use crate::error::{Error, Result};
use crate::plan::{Cast, Move};
use crate::stats::Fallback;

/// The seq of a lease whose copies no mark covers yet; never reached.
const UNMARKED: Seq = Seq(u64::MAX);

/// How long dropping a queue waits for its copies at most. 256 MiB cross a PCIe Gen4 bus in 11 ms; what takes longer than
/// this is a consumer's stream that a fence waits for, or a broken device.
const DROP_WAIT_MAX: Duration = Duration::from_secs(10);

/// As many copies are handed to a stream at a time.
const COPIES_TOGETHER: usize = 64;

/// One host-to-device copy.
#[derive(Debug, Clone, Copy)]
pub struct RawCopy {
    /// First byte in pinned host memory.
    pub source: NonNull<u8>,
    /// Where it goes, in device memory.
    pub target: DevicePtr,
    /// Length.
    pub bytes: usize,
}

/// Host-to-device copies of equal length, whose sources lie at equal distances and whose targets one after another: the
/// rows of a part of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct RawRows {
    /// First byte of the first row in pinned host memory.
    pub source: NonNull<u8>,
    /// From the start of one row to that of the next, in host memory.
    pub source_stride: usize,
    /// Where the first row goes, in device memory.
    pub target: DevicePtr,
    /// Length of a row.
    pub row_bytes: usize,
    /// How many there are.
    pub rows: usize,
}

impl From<RawCopy> for RawRows {
    fn from(RawCopy { source, target, bytes }: RawCopy) -> RawRows {
        RawRows { source, source_stride: bytes, target, row_bytes: bytes, rows: 1 }
    }
}

/// One device-to-host copy.
#[derive(Debug, Clone, Copy)]
pub struct RawCopyOut {
    /// First byte in device memory.
    pub source: DevicePtr,
    /// Where it goes, in pinned host memory.
    pub target: NonNull<u8>,
    /// Length.
    pub bytes: usize,
}

/// A copy stream together with the leases of the host memory it reads or writes.
///
/// ```text
///   copy(lease) --> [ lease, seq 4 | lease, seq 5 | lease, seq 6 ] --> reap: those whose seq the stream has reached
/// ```
///
/// A lease moves in with its copies, whether they start or fail, and comes out only when the stream has reached a mark
/// behind them. While it is inside nobody can name its memory. An error is never taken for the end of a copy: what has
/// not come back when the queue is dropped is leaked.
pub struct CopyQueue<L> {
    stream: Box<dyn Stream>,
    /// Oldest first, seqs never decreasing, the unmarked ones last.
    in_flight: VecDeque<InFlight<L>>,
    /// The point behind the last fence.
    fence: Seq,
    reached: Seq,
    drop_wait: Duration,
}

struct InFlight<L> {
    /// Leaked unless it is taken out: an early return or a panic can lose memory, but never free it under a copy.
    lease: ManuallyDrop<L>,
    seq: Seq,
    /// The point behind the last fence before its copies.
    fence: Seq,
}

impl<L> CopyQueue<L> {
    /// A queue on `stream` with room for `capacity` leases, which should be all there are: beyond that it allocates.
    pub fn new(stream: Box<dyn Stream>, capacity: usize) -> CopyQueue<L> {
        let in_flight = VecDeque::with_capacity(capacity);
        CopyQueue { stream, in_flight, fence: Seq(0), reached: Seq(0), drop_wait: DROP_WAIT_MAX }
    }

    /// How long dropping the queue waits for its copies, if that is to be less than 10 s.
    pub fn drop_wait(mut self, at_most: Duration) -> CopyQueue<L> {
        self.drop_wait = at_most.min(DROP_WAIT_MAX);
        self
    }

    /// Starts one copy out of the memory of `lease`; see [`copy_all`](CopyQueue::copy_all).
    ///
    /// # Safety
    /// As for [`copy_all`](CopyQueue::copy_all).
    pub unsafe fn copy(&mut self, lease: L, copy: RawCopy) -> Result<Seq> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.copy_all(lease, [copy]) }
    }

    /// Starts copies out of the memory of `lease`, in any order. The seq is reached when all of them have ended.
    ///
    /// On error the targets hold anything, and the lease stays inside all the same: a call that failed may have
    /// started its copy. It comes back through [`reap`](CopyQueue::reap) if the stream still works.
    ///
    /// # Safety
    /// Every source is pinned, and stays valid and unchanged until `lease` is dropped; if it never is, for ever. Every
    /// target is device memory that is not freed and that nothing else writes to, until the returned seq is reached;
    /// on error, until [`in_flight`](CopyQueue::in_flight) is 0; if that never happens, for ever.
    pub unsafe fn copy_all(&mut self, lease: L, copies: impl IntoIterator<Item = impl Into<RawRows>>) -> Result<Seq> {
        self.hold(lease);
        let mut some = [RawCopy { source: NonNull::dangling(), target: 0, bytes: 0 }; COPIES_TOGETHER];
        let mut count = 0;
        for copy in copies {
            let copy: RawRows = copy.into();
            if copy.rows != 1 {
                // SAFETY: as below.
                unsafe { self.stream.copy_rows(copy) }?;
                continue;
            }
            some[count] = RawCopy { source: copy.source, target: copy.target, bytes: copy.row_bytes };
            count += 1;
            if count == COPIES_TOGETHER {
                // SAFETY: as below.
                unsafe { self.stream.copy_many(&some) }?;
                count = 0;
            }
        }
        // SAFETY: the lease is in `in_flight` now and leaves it only behind a reached mark (or is leaked), so by the
        // caller's promise the sources stay as they are until then; the targets are the caller's promise.
        unsafe { self.stream.copy_many(&some[..count]) }?;
        self.mark()
    }

    /// What copies that were started could not have, once; see [`Stream::fallback`].
    pub fn fallback(&mut self) -> Option<Fallback> {
        self.stream.fallback()
    }

    /// Gets what gathers are quicker with; see [`Stream::ready_to_gather`].
    pub fn ready_to_gather(&mut self) -> Option<Fallback> {
        self.stream.ready_to_gather()
    }

    /// Starts moves within device memory behind all copies so far; see [`Stream::gather`]. `lease` comes back as that of
    /// a copy does.
    ///
    /// # Safety
    /// Every source and target lies in the memory that starts at `base`, which is not freed until `lease` is dropped; if
    /// it never is, for ever. No target overlaps a source or another target, and nothing else writes to either, until
    /// the returned seq is reached; on error, until [`in_flight`](CopyQueue::in_flight) is 0.
    pub unsafe fn gather(&mut self, lease: L, base: DevicePtr, moves: &[Move]) -> Result<Seq> {
        self.hold(lease);
        // SAFETY: the lease is in `in_flight` now and leaves it only behind a reached mark (or is leaked), and with it
        // the caller's promise holds until then.
        unsafe { self.stream.gather(base, moves) }?;
        self.mark()
    }

    /// Gets what a cast needs, or says why it cannot be had; see [`Stream::ready_to_cast`].
    pub fn ready_to_cast(&mut self, cast: Cast) -> Result<(), String> {
        self.stream.ready_to_cast(cast)
    }

    /// Starts moves that change elements, behind all copies so far, and says how many of them; see [`Stream::cast`].
    /// `lease` comes back as that of a copy does, behind those that were started. None if there was no room for any: then
    /// `lease` is dropped.
    ///
    /// # Safety
    /// As for [`gather`](CopyQueue::gather), of sources as long as the moves say, and targets as [`Cast::bytes_of`] says, which
    /// begin at multiples of their elements' size.
    pub unsafe fn cast(
        &mut self,
        lease: L,
        base: DevicePtr,
        cast: Cast,
        moves: &[Move],
    ) -> Result<Option<(Seq, usize)>> {
        self.hold(lease);
        // SAFETY: as for a gather.
        let started = unsafe { self.stream.cast(base, cast, moves) }?;
        if started == 0 {
            let unused = self.in_flight.pop_back().expect("pushed above");
            drop(ManuallyDrop::into_inner(unused.lease));
            return Ok(None);
        }
        Ok(Some((self.mark()?, started)))
    }

    /// Starts copies into the memory of `lease`, in order. The seq is reached when all of them have ended. With no copy
    /// at all the lease comes back behind those before it.
    ///
    /// On error the targets hold anything, and the lease stays inside as with [`copy_all`](CopyQueue::copy_all).
    ///
    /// # Safety
    /// Every target is pinned, and nobody else reads or writes it until `lease` has come back; if it never does, for
    /// ever. Every source is device memory that is not freed and that nothing writes to, until the returned seq is
    /// reached; on error, until [`in_flight`](CopyQueue::in_flight) is 0; if that never happens, for ever.
    pub unsafe fn copy_out_all(&mut self, lease: L, copies: impl IntoIterator<Item = RawCopyOut>) -> Result<Seq> {
        self.hold(lease);
        copies.into_iter().try_for_each(|copy| {
            // SAFETY: the lease is in `in_flight` now and leaves it only behind a reached mark (or is leaked), so by
            // the caller's promise the target is the copy's alone until then; the source is the caller's promise.
            unsafe { self.stream.copy_out(copy.source, copy.target, copy.bytes) }
        })?;
        self.mark()
    }

    /// Gives back every lease whose copies have ended, oldest first; says how many. Does not wait.
    pub fn reap(&mut self, mut give_back: impl FnMut(L)) -> Result<usize> {
        if self.in_flight.is_empty() {
            return Ok(0);
        }
        let reached = self.stream.reached()?;
        let count = self.release(reached, &mut give_back);
        self.mark_the_rest()?;
        Ok(count)
    }

    /// Waits until the oldest lease can be reaped or `timeout` has passed; true if it can (or if there is none).
    pub fn wait_oldest(&mut self, timeout: Duration) -> Result<bool> {
        self.mark_the_rest()?;
        match self.in_flight.front() {
            Some(oldest) => Ok(self.stream.wait(oldest.seq, timeout)? >= oldest.seq),
            None => Ok(true),
        }
    }

    /// Waits until every lease has come back or `timeout` has passed. After an error, which says why not all did,
    /// the others are still inside.
    pub fn drain(&mut self, timeout: Duration, mut give_back: impl FnMut(L)) -> Result<()> {
        let marked = self.mark_the_rest();
        // Even where no mark can be set any more, the marked ones come back.
        let Some(last) = self.in_flight.iter().rev().map(|entry| entry.seq).find(|&seq| seq != UNMARKED) else {
            return marked;
        };
        let inside = self.in_flight.len();
        let waited = self.stream.wait(last, timeout);
        // An error at the last one says nothing about the ones before it.
        let reached = if waited.is_ok() { waited.clone() } else { self.stream.reached() };
        reached.map(|reached| self.release(reached, &mut give_back)).ok();
        waited.and(marked)?;
        match self.in_flight.len() {
            0 => Ok(()),
            left => {
                let what =
                    format!("{left} of {inside} copies to or from the device; the stream may wait for a consumer's");
                Err(Error::Timeout { what, waited: timeout })
            }
        }
    }

    /// How many leases are inside.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Orders all later copies behind `fence` as last recorded.
    pub fn wait_fence(&mut self, fence: Fence) -> Result<()> {
        self.stream.wait_fence(fence)?;
        self.fence = self.mark()?;
        Ok(())
    }

    /// Whether the oldest copies, when they were last looked at, waited for a fence: for what a consumer has put on a stream, and
    /// not for the device.
    pub fn is_held_up(&self) -> bool {
        self.in_flight.front().is_some_and(|oldest| oldest.fence > self.reached)
    }

    /// The consumers' view of the stream.
    pub fn timeline(&self) -> Arc<dyn Timeline> {
        self.stream.timeline()
    }

    fn hold(&mut self, lease: L) {
        let lease = ManuallyDrop::new(lease);
        self.in_flight.push_back(InFlight { lease, seq: UNMARKED, fence: self.fence });
    }

    fn mark(&mut self) -> Result<Seq> {
        let seq = self.stream.mark()?;
        for entry in self.in_flight.iter_mut().rev().take_while(|entry| entry.seq == UNMARKED) {
            entry.seq = seq;
        }
        Ok(seq)
    }

    /// Sets the mark that a failed call left out: it stands behind failed copies too ([`Stream::mark`]).
    fn mark_the_rest(&mut self) -> Result<()> {
        match self.in_flight.back() {
            Some(newest) if newest.seq == UNMARKED => self.mark().map(drop),
            _ => Ok(()),
        }
    }

    fn release(&mut self, reached: Seq, give_back: &mut impl FnMut(L)) -> usize {
        let before = self.in_flight.len();
        self.reached = self.reached.max(reached);
        while self.in_flight.front().is_some_and(|oldest| oldest.seq <= reached)
            && let Some(entry) = self.in_flight.pop_front()
        {
            give_back(ManuallyDrop::into_inner(entry.lease));
        }
        before - self.in_flight.len()
    }
}

impl<L> Drop for CopyQueue<L> {
    fn drop(&mut self) {
        if let Err(error) = self.drain(self.drop_wait, drop) {
            let leaked = self.in_flight.len();
            tracing::warn!(%error, leaked, "copies to or from the device did not end; their host memory is leaked, not freed");
        }
    }
}
