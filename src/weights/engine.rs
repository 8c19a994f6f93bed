//! The loop of a load: one thread, one ring, a copy stream for each device.
//!
//! ```text
//!  turn:  reap copies -> reap reads -> check them, in the order of each file -> start their copies -> hand over what is
//!         whole -> refill from the plan, shard by shard in turn -> wait
//! ```
//!
//! As in the [engine of batches](crate::engine), it waits in one place, those who check end that wait, and what holds it
//! back is the lack of a slab or of room in the ring. Nobody holds it back by not taking tensors: their memory is all there
//! from the start, and there is room in the queue for every one of them.

mod place;
mod refill;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Sender;

use super::check::{Job, Piece};
use super::cursor::{Cursor, Limits};
use super::load::{Output, Shared};
use super::memory::{Copying, Hold, Owner, Span};
use super::pages::Ahead;
use super::plan::Plan;
use super::window::{Landing, Window};
use crate::device::{CopyQueue, RawRows, Seq};
use crate::engine::ranges::range;
use crate::engine::{Pinned, SLICE, reads_together};
use crate::error::{Error, Result};
use crate::memory::{Slab, SlabPool};
use crate::sim::Clock;
use crate::stall::Stall;
use crate::storage::{Damage, Landed, LandingId, ReadQueue};
use crate::workers::Workers;

/// As [`SLICE`], where copies and checks are waited for at once, and only one of them wakes.
const SHORT_SLICE: Duration = Duration::from_millis(1);

/// The engine. Fields drop in order: reads, checks and copies drain before their memory is let go.
pub(super) struct Engine {
    pub(super) ahead: Ahead,
    pub(super) queue: ReadQueue<Hold>,
    /// Those who sum up what is checked.
    pub(super) checkers: Option<Workers<Job>>,
    /// One for each device; none where nothing goes through slabs.
    pub(super) copies: Vec<Copies>,
    pub(super) slabs: Option<SlabPool>,
    pub(super) plan: Plan,
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    /// All memory that a copy may write to.
    pub(super) owners: Arc<Vec<Owner>>,
    pub(super) output: Sender<Output>,
    pub(super) clock: Clock,
    pub(super) state: State,
    /// Behind all that has slabs: windows that wait for their turn have some.
    pub(super) _pinned: Option<Pinned>,
}

/// The copies to one device.
pub(super) struct Copies {
    pub(super) queue: CopyQueue<Copying>,
    pub(super) stall: Stall,
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
        drop(std::mem::take(&mut self.ahead)); // nothing is read any more
        if !self.has_handed_over_all() && self.queue.drained() {
            // SAFETY: every read has ended; copies write to memory that a child may have are those of a host, and end at once.
            unsafe { inherit(&self.owners) };
        }
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
        {
            let _range = range(c"strait: copies that ended");
            self.reap_copies()?;
        }
        {
            let _range = range(c"strait: reads that ended");
            self.reap_reads()?;
            self.reap_checks()?;
        }
        {
            let _range = range(c"strait: plan, read");
            self.refill()?;
        }
        let state = &self.state;
        // A window that waits for its turn waits for one that is on its way.
        let landed = state.windows.is_empty() && self.checking() == 0;
        if landed && state.active.is_empty() && state.waiting.is_empty() {
            return Ok(true); // of copies under way the consumer's seqs tell
        }
        let _range = range(c"strait: wait");
        self.wait()?;
        Ok(false)
    }

    // ---- what has ended ---------------------------------------------------------------------------------------------

    fn reap_copies(&mut self) -> Result<()> {
        let now = self.clock.now();
        for (device, Copies { queue, stall }) in self.copies.iter_mut().enumerate() {
            let slabs = self.slabs.as_mut().expect("copies are made from slabs");
            let ended = queue.reap(|copying| give_back(slabs, copying.slab))?;
            let (left, deadline) = ((queue.in_flight(), false), self.shared.deadline); // no fence is ever waited for
            stall.look_at_copies(ended, left, now, deadline, || self.shared.device_name(device))?;
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
                let checkers = self.checkers.as_mut().expect("a shard is checked");
                checkers.put(index, Job { window, hold, pieces, ended: Vec::new() })?;
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
        let place = items.filter(|item| item.extents.meet(range.clone())).find_map(|item| item.place);
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
                // What is checked is read as a whole.
                let rows = item.extents.rows().expect("one extent");
                for piece in rows.within(read.offset..read.offset + read.want) {
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

    /// Windows whose bytes are being summed up.
    fn checking(&self) -> usize {
        self.checkers.as_ref().map_or(0, Workers::out)
    }

    fn reap_checks(&mut self) -> Result<()> {
        while let Some(checkers) = &mut self.checkers
            && let Some(Job { window, hold, ended, .. }) = checkers.reap()?
        {
            for (check, digest) in ended {
                let check = &self.plan.checks[check];
                if digest != check.digest {
                    return Err(self.shared.corrupt(check, &digest));
                }
                for target in check.targets.clone() {
                    self.come(target, 1, Seq(0));
                }
            }
            self.settle(window, hold)?;
        }
        Ok(())
    }

    // ---- wait -------------------------------------------------------------------------------------------------------

    fn wait(&mut self) -> Result<()> {
        let in_flight = self.queue.in_flight();
        if in_flight > 0 {
            let filling = self.state.filling.map(|(_, tag, _)| &self.state.windows[&tag]);
            let read_bytes = filling.and_then(|window| Some(window.reads.first()?.read.len));
            return self.queue.wait(reads_together(in_flight, read_bytes), SLICE);
        }
        if self.queue.has_ended() {
            return Ok(());
        }
        let copying = self.copies.iter_mut().find(|copies| copies.queue.in_flight() > 0);
        if self.checkers.as_ref().is_some_and(|checkers| checkers.out() > 0) {
            return self.queue.wait(1, if copying.is_some() { SHORT_SLICE } else { SLICE });
        }
        copying.map_or(Ok(()), |copies| copies.queue.wait_oldest(SLICE).map(drop))
    }
}

/// Children of a fork have a copy of what was loaded into memory of the load's own.
///
/// # Safety
/// No read and no copy writes to it any more.
unsafe fn inherit(owners: &[Owner]) {
    for owner in owners {
        if let Owner::Load(memory) = owner {
            // SAFETY: the caller's promise is the same.
            unsafe { memory.inherit() };
        }
    }
}

/// Gives a slab back, if this is the last share of it.
fn give_back(slabs: &mut SlabPool, slab: Arc<Slab>) {
    if let Some(slab) = Arc::into_inner(slab) {
        slabs.give_back(slab);
    }
}
