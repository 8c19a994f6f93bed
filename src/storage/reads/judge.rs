//! What the end of a read means.

use super::flight::{Reading, Resting};
use super::{Damage, Memory, ReadQueue, Want};
use crate::dataset::Extent;
use crate::error::{Error, Result};
use crate::storage::attempt::Progress;

enum Verdict {
    Whole,
    /// By the ring that the read has now.
    Continue,
    Failed(Error),
}

impl<L: Memory> ReadQueue<L> {
    pub(super) fn end(&mut self, read: Resting, result: i32) {
        let verdict =
            if result < 0 { self.judge_error(&read, -result) } else { self.judge_count(&read, result as u32) };
        let failure = match verdict {
            Verdict::Continue => return self.start(read),
            Verdict::Whole => None,
            Verdict::Failed(error) => Some(error),
        };
        let Want { shard, offset, len, want, .. } = self.flight.reading(&read).want;
        self.bytes_in_flight -= u64::from(len);
        self.counters.reads_ended.add(1);
        let extent = Extent { shard, offset, len: want.into() };
        self.flight.finish(read, failure.map(|error| Damage { extent, error }));
    }

    /// Short reads are continued, at the last aligned byte; none at all is the end of the file.
    fn judge_count(&mut self, read: &Resting, count: u32) -> Verdict {
        let Reading { want: Want { shard, offset, want, .. }, slot, .. } = *self.flight.reading(read);
        let align = self.flight.file(slot).mode.align as u32;
        match self.flight.attempt(read).advance(count, want, align) {
            Progress::Whole => Verdict::Whole,
            Progress::More if count > 0 => {
                self.counters.reads_continued.add(1);
                Verdict::Continue
            }
            _ => {
                let (path, got) = (self.flight.shard(shard).path.clone(), self.flight.attempt(read).done().into());
                Verdict::Failed(Error::Truncated { path, offset, want: want.into(), got })
            }
        }
    }

    fn judge_error(&mut self, read: &Resting, errno: i32) -> Verdict {
        match errno {
            libc::EAGAIN | libc::EINTR if self.flight.attempt(read).may_retry() => {
                self.counters.reads_retried.add(1);
                return Verdict::Continue;
            }
            libc::EINVAL | libc::EOPNOTSUPP if self.has_another_way(read) => match self.read_by_threads(read, errno) {
                Ok(()) => return Verdict::Continue,
                Err(cause) => tracing::warn!(%cause, "reading through the page cache instead failed too"),
            },
            _ => {}
        }
        let Want { shard, offset, len, .. } = self.flight.reading(read).want;
        let (path, from) = (self.flight.shard(shard).path.clone(), self.flight.attempt(read).from());
        Verdict::Failed(Error::Io { path, offset: offset + u64::from(from), bytes: (len - from).into(), errno })
    }

    /// Whether it is not by threads through the page cache yet; into a device's memory those cannot read.
    fn has_another_way(&self, read: &Resting) -> bool {
        let Reading { slot, ring, .. } = *self.flight.reading(read);
        let ring = &self.flight.rings()[ring];
        !ring.writes_to_device() && (self.flight.file(slot).mode.direct || ring.name() != "pread")
    }

    /// [`Error::Timeout`] names the read that was started first, if that has been in flight for too long.
    pub(super) fn check_deadline(&self) -> Result<()> {
        let Some(oldest) = self.flight.reads().min_by_key(|reading| reading.attempt.started()) else { return Ok(()) };
        let Want { shard, offset, len, .. } = oldest.want;
        let what = || format!("a read of {len} bytes at byte {offset} of {}", self.flight.shard(shard).path.display());
        oldest.attempt.check(self.clock.now(), self.deadline, what)
    }
}
