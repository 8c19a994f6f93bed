//! From the plan to reads, shard by shard in turn.

use super::{Engine, State};
use crate::error::Result;
use crate::memory::SlabPool;
use crate::storage::{Accepted, Want};
use crate::weights::memory::Hold;
use crate::weights::window::{Landing, Window};

impl Engine {
    pub(super) fn refill(&mut self) -> Result<()> {
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
        self.ahead.come_to(index, span.ptr() + read.len);
        let item = &self.plan.items[read.items.start];
        let own = &self.shared.targets[item.targets.start].memory;
        // Layout and cursor walk the same blocks; if they did not, bytes would be in the wrong place.
        assert_eq!(span.ptr() + item.extents.begin(), own.ptr + read.offset, "a block that is not where it belongs");
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
}
