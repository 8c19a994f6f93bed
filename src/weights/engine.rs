//! The loop of a load: one thread, one ring, a copy stream for each device.
//!
//! ```text
//!  turn:  reap copies -> reap reads -> check them, in the order of each file -> start their copies -> hand over what is
//!         whole -> refill from the plan, shard by shard in turn -> wait
//! ```
//!
//! As in the [engine of batches](crate::engine), it waits in one place, and what holds it back is the lack of a slab or of
//! room in the ring. Nobody holds it back by not taking tensors: their memory is all there from the start, and there is
//! room in the queue for every one of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::check::{Checked, Checker, Job, Piece};
use super::cursor::{Cursor, Limits};
use super::load::{Output, Shared};
use super::memory::{Copying, Hold, Owner, Span};
use super::plan::{Plan, Target, Where};
use super::window::{Landing, Window};
use crate::device::{CopyQueue, DevicePtr, RawCopy, RawRows, Seq};
use crate::engine::Pinned;
use crate::error::{Error, Result};
use crate::memory::{Slab, SlabPool};
use crate::sim::Clock;
use crate::storage::{Accepted, Damage, Landed, LandingId, ReadQueue, Want};

/// A wait without news is never longer than this, so that a consumer that has gone and deadlines are seen.
const SLICE: Duration = Duration::from_millis(20);
/// The same where copies and checks are waited for at once, and only one of them wakes.
const SHORT_SLICE: Duration = Duration::from_millis(1);
/// Reads shorter than this are waited for several at a time.
const SHORT_READ: u64 = 64 << 10;

/// The engine. Fields drop in order: reads, checks and copies drain before their memory is let go.
pub(super) struct Engine {
    pub(super) queue: ReadQueue<Hold>,
    pub(super) checker: Checker,
    /// One for each device; none where nothing goes through slabs.
    pub(super) copies: Vec<Copies>,
    pub(super) slabs: Option<SlabPool>,
    pub(super) _pinned: Vec<Pinned>,
    pub(super) plan: Plan,
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    /// All memory that a copy may write to.
    pub(super) owners: Arc<Vec<Owner>>,
    pub(super) output: Sender<Output>,
    pub(super) clock: Clock,
    pub(super) state: State,
}

/// The copies to one device.
pub(super) struct Copies {
    pub(super) queue: CopyQueue<Copying>,
    /// When a copy last ended, or there was none.
    pub(super) moved: Duration,
}

/// Where the engine stands.
pub(super) struct State {
    /// Of each shard of the checkpoint.
    pub(super) shards: Vec<Shard>,
    /// Shards that are read now, in turn; the first is next.
    pub(super) active: VecDeque<usize>,
    /// Those that come after.
    pub(super) waiting: VecDeque<usize>,
    /// The window whose reads are being started, and how many have been.
    pub(super) filling: Option<(LandingId, u64, usize)>,
    /// Windows on their way, by tag.
    pub(super) windows: HashMap<u64, Window>,
    pub(super) next_tag: u64,
    /// Of each target: bytes that have not come and checks that have not ended, and the seq of the bytes that have come.
    pub(super) left: Vec<(u64, Seq)>,
    /// Of each check: bytes that have not been given to it.
    pub(super) unchecked: Vec<u64>,
    /// Reused for each window's copies.
    pub(super) list: Vec<RawRows>,
}

/// The reading of one shard.
pub(super) struct Shard {
    pub(super) cursor: Cursor,
    /// What of its tensors' own memory no read has been given yet.
    pub(super) span: Option<Span>,
    pub(super) windows: u64,
    /// Whether its windows are checked, and have to be in order for that.
    pub(super) checked: bool,
    /// The next window to be checked.
    pub(super) turn: u64,
    /// Windows that landed before their turn.
    pub(super) early: BTreeMap<u64, (Window, Hold)>,
}

impl Engine {
    /// Turns until everything is handed over, or fails, or nobody wants it any more.
    pub(super) fn run(mut self) {
        while self.turn() && !self.shared.stop.load(Ordering::Relaxed) {}
    }

    /// One turn; false once there is nothing more to do.
    pub(super) fn turn(&mut self) -> bool {
        match self.advance() {
            Ok(over) => !over,
            Err(error) => {
                let _ = self.output.try_send(Output::Failed(error));
                false
            }
        }
    }

    fn advance(&mut self) -> Result<bool> {
        self.reap_copies()?;
        self.reap_reads()?;
        while let Some(checked) = self.checker.take(Duration::ZERO) {
            self.end_checks(checked)?;
        }
        self.refill()?;
        let state = &self.state;
        // A window that waits for its turn waits for one that is on its way.
        let landed = state.windows.is_empty() && self.checker.inside == 0;
        if landed && state.active.is_empty() && state.waiting.is_empty() {
            return Ok(true); // of copies under way the consumer's seqs tell
        }
        self.wait()?;
        Ok(false)
    }

    // ---- what has ended ---------------------------------------------------------------------------------------------

    fn reap_copies(&mut self) -> Result<()> {
        let now = self.clock.now();
        for (device, Copies { queue, moved }) in self.copies.iter_mut().enumerate() {
            let slabs = self.slabs.as_mut().expect("copies are made from slabs");
            let ended = queue.reap(|copying| give_back(slabs, copying.slab))?;
            if ended > 0 || queue.in_flight() == 0 {
                *moved = now;
            }
            let waited = now.saturating_sub(*moved);
            if waited >= self.shared.deadline {
                let (left, device) = (queue.in_flight(), self.shared.device_name(device));
                let what =
                    format!("{left} copies to {device}: it does not answer, or a consumer's stream holds them up");
                return Err(Error::Timeout { what, waited });
            }
        }
        Ok(())
    }

    fn reap_reads(&mut self) -> Result<()> {
        while let Some(Landed { lease, tag, result, damages }) = self.queue.reap() {
            let window = self.state.windows.remove(&tag).expect("a landing has its window");
            if let Err(error) = result {
                return Err(self.named(&window, damages, error));
            }
            let shard = &mut self.state.shards[window.shard];
            if !shard.checked {
                self.settle(window, lease)?;
                continue;
            }
            let index = window.shard;
            shard.early.insert(window.number, (window, lease));
            while let Some((window, hold)) = self.next_in_turn(index) {
                let pieces = self.pieces(&window);
                self.checker.put(Job { window, hold, pieces });
            }
        }
        Ok(())
    }

    fn next_in_turn(&mut self, shard: usize) -> Option<(Window, Hold)> {
        let shard = &mut self.state.shards[shard];
        let next = shard.early.remove(&shard.turn)?;
        shard.turn += 1;
        Some(next)
    }

    /// The tensor that a failed read was for goes into the error.
    fn named(&self, window: &Window, damages: Vec<Damage>, error: Error) -> Error {
        let Some(Damage { extent, error: cause }) = damages.into_iter().next() else { return error };
        let range = extent.offset..extent.offset + extent.len;
        let items =
            window.reads.iter().flat_map(|landing| landing.read.items.clone()).map(|item| &self.plan.items[item]);
        let place = items.filter(|item| item.rows.bytes_within(range.clone()) > 0).find_map(|item| item.place);
        match place {
            Some(place) => {
                let tensor = self.shared.tensors[place].name.to_string();
                Error::Tensor { tensor, cause: Box::new(cause) }
            }
            None => cause,
        }
    }

    // ---- checks -----------------------------------------------------------------------------------------------------

    /// What in a window is to be summed up, in the order of the file.
    fn pieces(&mut self, window: &Window) -> Vec<Piece> {
        let (plan, unchecked) = (&self.plan, &mut self.state.unchecked);
        let file = plan.file_checks[window.shard];
        let mut pieces = Vec::new();
        for Landing { read, at } in &window.reads {
            for item in &plan.items[read.items.clone()] {
                for piece in item.rows.within(read.offset..read.offset + read.want) {
                    for check in file.into_iter().chain(item.check) {
                        let left = &mut unchecked[check];
                        *left -= piece.bytes;
                        let (at, bytes) = (at + (piece.offset - read.offset) as usize, piece.bytes as usize);
                        pieces.push(Piece { check, at, bytes, last: *left == 0 });
                    }
                }
            }
        }
        pieces
    }

    fn end_checks(&mut self, Checked { window, hold, ended }: Checked) -> Result<()> {
        for (check, digest) in ended {
            let check = &self.plan.checks[check];
            if digest != check.digest {
                return Err(self.shared.corrupt(check, &digest));
            }
            for target in check.targets.clone() {
                self.come(target, 1, Seq(0));
            }
        }
        self.settle(window, hold)
    }

    // ---- placing and handing over -----------------------------------------------------------------------------------

    /// The bytes of a window are there, and are what they should be: sees to it that they come to their targets.
    fn settle(&mut self, window: Window, hold: Hold) -> Result<()> {
        match hold {
            Hold::Span(_) => self.arrive(&window, 0, Seq(0)), // They are where they belong.
            Hold::Slab(slab) => {
                let slab = Arc::new(slab);
                for device in 0..self.copies.len() {
                    let seq = self.copy(&window, &slab, device)?;
                    self.arrive(&window, device, seq);
                }
                give_back(self.slabs.as_mut().expect("it is one of these"), slab);
            }
        }
        Ok(())
    }

    /// Starts the copies of a window's bytes to one device; gives the point behind them.
    fn copy(&mut self, window: &Window, slab: &Arc<Slab>, device: usize) -> Result<Seq> {
        let list = &mut self.state.list;
        list.clear();
        let (mut bytes, mut before) = (0, None);
        for Landing { read, at } in &window.reads {
            for target in targets(&self.plan, read.items.clone(), device) {
                let memory = &self.shared.targets[target].memory;
                // Neighbours in a block are one allocation; the caller's need not be, wherever they lie.
                let block = matches!(self.plan.targets[target].memory, Where::Block(_));
                let key = if block { None } else { Some(target) };
                let mut same = before.replace(key) == Some(key);
                let stride = self.plan.targets[target].rows.stride as usize;
                for piece in self.plan.targets[target].rows.within(read.offset..read.offset + read.want) {
                    let source = at + (piece.offset - read.offset) as usize;
                    assert!(source as u64 + piece.bytes <= slab.bytes() as u64, "a copy from outside its slab");
                    bytes += piece.bytes;
                    // SAFETY: inside the slab, checked above.
                    let source = unsafe { slab.base().add(source) };
                    let target = memory.ptr + piece.at;
                    let bytes = piece.bytes as usize;
                    let last = list.last_mut().filter(|_| same);
                    if !last.is_some_and(|last| join(last, source, target, bytes, stride)) {
                        list.push(RawCopy { source, target, bytes }.into());
                    }
                    same = true;
                }
            }
        }
        if list.is_empty() {
            return Ok(Seq(0));
        }
        let copying = Copying { slab: slab.clone(), _targets: self.owners.clone() };
        // SAFETY: the slab is pinned for as long as its arena lives (`Pinned`), and a share of it moves into the queue:
        // it is given back when the last share comes out. The targets lie in memory that `owners` keeps, of which a share
        // moves into the queue too; each byte of it is one target's, which nobody reads before its seq.
        let seq = unsafe { self.copies[device].queue.copy_all(copying, list.drain(..)) }?;
        self.shared.counters.bytes_copied.add(bytes);
        Ok(seq)
    }

    /// Counts what has come of each target of a device, and hands over those that are whole.
    fn arrive(&mut self, window: &Window, device: usize, seq: Seq) {
        for Landing { read, .. } in &window.reads {
            let Some(last) = read.items.clone().next_back() else { continue };
            // The targets of neighbouring items are neighbours.
            for target in self.plan.items[read.items.start].targets.start..self.plan.items[last].targets.end {
                let Target { rows, device: own, .. } = &self.plan.targets[target];
                let bytes = rows.bytes_within(read.offset..read.offset + read.want);
                if bytes == 0 || *own != device {
                    continue;
                }
                self.shared.counters.bytes_wanted.add(bytes);
                self.come(target, bytes, seq);
            }
        }
    }

    /// So many bytes of a target have come, or so many of its checks have ended: hands it over if that was all.
    fn come(&mut self, target: usize, count: u64, seq: Seq) {
        let (left, behind) = &mut self.state.left[target];
        *left -= count;
        *behind = seq.max(*behind);
        if *left == 0 {
            self.hand_over(target as u32);
        }
    }

    /// There is room in the queue for every target.
    fn hand_over(&mut self, target: u32) {
        self.shared.counters.tensors.add(1);
        let _ = self.output.try_send(Output::Ready(target, self.state.left[target as usize].1));
    }

    /// Of tensors without bytes there is nothing to wait for.
    pub(super) fn hand_over_empty(&mut self) {
        for target in 0..self.plan.targets.len() {
            if self.state.left[target].0 == 0 {
                self.hand_over(target as u32);
            }
        }
    }

    // ---- refill -----------------------------------------------------------------------------------------------------

    fn refill(&mut self) -> Result<()> {
        while self.start_reads()? && self.open_window() {}
        Ok(())
    }

    /// Starts what is left of the open window's reads; false if the ring has no room for all of them.
    fn start_reads(&mut self) -> Result<bool> {
        let State { filling, windows, .. } = &mut self.state;
        let Some((landing, tag, started)) = filling else { return Ok(true) };
        let window = &windows[tag];
        while let Some(Landing { read, at }) = window.reads.get(*started) {
            let (offset, len, want) = (read.offset, read.len as u32, read.want as u32);
            match self.queue.read(*landing, Want { shard: window.shard as u32, offset, len, want, at: *at })? {
                Accepted::Yes => *started += 1,
                Accepted::Full => return Ok(false),
            }
        }
        self.queue.close(*landing);
        *filling = None;
        Ok(true)
    }

    /// Takes the next window of the shard whose turn it is; false if there is none, or no slab for it.
    fn open_window(&mut self) -> bool {
        while let Some(&index) = self.state.active.front() {
            let shard = &mut self.state.shards[index];
            let Some((direct, _)) = shard.cursor.peek(&self.plan.items, &self.limits) else {
                self.state.active.pop_front();
                self.state.active.extend(self.state.waiting.pop_front());
                continue;
            };
            let (reads, hold) = match direct {
                true => self.direct_read(index),
                false => match self.slabs.as_mut().and_then(SlabPool::lease) {
                    Some(slab) => (self.slab_reads(index, slab.bytes() as u64), Hold::Slab(slab)),
                    None => {
                        self.shared.counters.waits_for_slab.add(1);
                        return false;
                    }
                },
            };
            let State { shards, active, windows, next_tag, filling, .. } = &mut self.state;
            let (number, tag) = (shards[index].windows, *next_tag);
            let landing = match self.queue.open(hold, tag) {
                Ok(landing) => landing,
                Err(_) => unreachable!("as many landings as slabs and reads in flight"),
            };
            shards[index].windows += 1;
            *next_tag += 1;
            windows.insert(tag, Window { shard: index, number, reads });
            *filling = Some((landing, tag, 0));
            active.rotate_left(1);
            return true;
        }
        false
    }

    /// The next read of a shard, into the tensors' own memory.
    fn direct_read(&mut self, index: usize) -> (Vec<Landing>, Hold) {
        let shard = &mut self.state.shards[index];
        let read = shard.cursor.next(&self.plan.items, &self.limits, self.limits.block_bytes).expect("there is one");
        let span = shard.span.as_mut().expect("direct items have their blocks").take(read.len);
        let item = &self.plan.items[read.items.start];
        let own = &self.shared.targets[item.targets.start].memory;
        // Layout and cursor walk the same blocks; if they did not, bytes would be in the wrong place.
        assert_eq!(span.ptr() + item.rows.begin, own.ptr + read.offset, "a block that is not where it belongs");
        (vec![Landing { read, at: 0 }], Hold::Span(span))
    }

    /// The next reads of a shard, as many as fit a slab.
    fn slab_reads(&mut self, index: usize, slab_bytes: u64) -> Vec<Landing> {
        let cursor = &mut self.state.shards[index].cursor;
        let mut reads = Vec::new();
        let mut at = 0;
        while let Some((false, len)) = cursor.peek(&self.plan.items, &self.limits) {
            if len > slab_bytes - at {
                break;
            }
            let read = cursor.next(&self.plan.items, &self.limits, len).expect("there is one");
            let landing = Landing { read, at: at as usize };
            at += landing.read.len;
            reads.push(landing);
        }
        reads
    }

    // ---- wait -------------------------------------------------------------------------------------------------------

    fn wait(&mut self) -> Result<()> {
        let in_flight = self.queue.in_flight();
        if in_flight > 0 {
            let short = |window: &Window| window.reads.first().is_some_and(|landing| landing.read.len < SHORT_READ);
            let short = self.state.filling.is_some_and(|(_, tag, _)| short(&self.state.windows[&tag]));
            let want = if short { (in_flight / 4).clamp(1, 16) } else { 1 };
            return self.queue.wait(want, SLICE);
        }
        if self.queue.has_ended() {
            return Ok(());
        }
        let copying = self.copies.iter_mut().find(|copies| copies.queue.in_flight() > 0);
        if self.checker.inside > 0 {
            if self.checker.is_broken() {
                return Err(Error::Stopped { reason: "a thread that sums up bytes is gone".into() });
            }
            let slice = if copying.is_some() { SHORT_SLICE } else { SLICE };
            if let Some(checked) = self.checker.take(slice) {
                self.end_checks(checked)?;
            }
            return Ok(());
        }
        copying.map_or(Ok(()), |copies| copies.queue.wait_oldest(SLICE).map(drop))
    }
}

/// The targets of a device among those of some items.
fn targets(plan: &Plan, items: Range<usize>, device: usize) -> impl Iterator<Item = usize> + use<'_> {
    let all = plan.items[items].iter().flat_map(|item| item.targets.clone());
    all.filter(move |&target| plan.targets[target].device == device)
}

/// Adds a copy to the one before: where both sides go on from it (neighbours of a file are neighbours in a block), or as
/// the next of its rows, which lie `stride` bytes apart. False if it is neither.
fn join(last: &mut RawRows, source: NonNull<u8>, target: DevicePtr, bytes: usize, stride: usize) -> bool {
    let ahead = (source.as_ptr() as usize).wrapping_sub(last.source.as_ptr() as usize);
    if target != last.target + (last.rows * last.row_bytes) as u64 {
        return false;
    }
    if last.rows == 1 && ahead == last.row_bytes {
        (last.row_bytes, last.source_stride) = (last.row_bytes + bytes, last.row_bytes + bytes);
        return true;
    }
    let known = last.rows == 1 || stride == last.source_stride;
    if bytes != last.row_bytes || stride < bytes || ahead != last.rows * stride || !known {
        return false;
    }
    (last.rows, last.source_stride) = (last.rows + 1, stride);
    true
}

/// Gives a slab back, if this is the last share of it.
fn give_back(slabs: &mut SlabPool, slab: Arc<Slab>) {
    if let Some(slab) = Arc::into_inner(slab) {
        slabs.give_back(slab);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joined or not, the same bytes go to the same places.
    #[test]
    fn joined_copies_are_the_copies() {
        let address = |at: usize| NonNull::new(std::ptr::without_provenance_mut::<u8>(1 << 20 | at)).unwrap();
        let mut rng = crate::sim::Rng::new(1);
        let mut joined = 0;
        for _ in 0..20_000 {
            let (mut list, mut want) = (Vec::<RawRows>::new(), Vec::new());
            let (mut source, mut target) = (0, 0);
            for _ in 0..5 {
                let (bytes, stride) = (1 + rng.below(2) as usize, 1 + rng.below(4) as usize);
                want.extend((0..bytes).map(|i| (source + i, target + i)));
                let copy = RawCopy { source: address(source), target: target as DevicePtr, bytes };
                let last = list.last_mut();
                match last.is_some_and(|last| join(last, copy.source, copy.target, bytes, stride.max(bytes))) {
                    true => joined += 1,
                    false => list.push(copy.into()),
                }
                source += bytes + rng.below(3) as usize;
                target += bytes + rng.below(8) as usize / 7;
            }
            let mut got = Vec::new();
            for rows in list {
                for row in 0..rows.rows {
                    let from = (rows.source.as_ptr() as usize & 0xFFFFF) + row * rows.source_stride;
                    let to = rows.target as usize + row * rows.row_bytes;
                    got.extend((0..rows.row_bytes).map(|i| (from + i, to + i)));
                }
            }
            assert_eq!(got, want);
        }
        assert!(joined > 1000, "{joined}");
    }
}
