//! What the CPU does with bytes that have landed: on a thread of its own, so that the ring is kept busy meanwhile.
//!
//! ```text
//!   engine --- Job { lease, plan } ---> worker: checks, gathers ---> the same job ---> engine
//! ```
//!
//! A lease moves to the worker and comes back, so nothing reads or writes its memory at the same time. Where time is
//! simulated the engine does the work itself, some turns later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::Hold;
use crate::error::{Error, Result};
use crate::plan::{Limits, Move, Part, Plan};
use crate::storage::Memory;

/// Work on one landing.
pub(super) struct Job {
    pub(super) slot: u32,
    /// Where the landing starts among what is read.
    pub(super) at: u64,
    pub(super) limits: Limits,
    pub(super) hold: Hold,
    /// What the work is; nobody changes it meanwhile.
    pub(super) plan: Arc<Plan>,
}

/// The one who does it.
pub(crate) struct Worker {
    hands: Hands,
    ended: VecDeque<Job>,
    out: usize,
}

enum Hands {
    Thread {
        jobs: Option<Sender<Job>>,
        ended: Receiver<Job>,
        thread: Option<JoinHandle<()>>,
    },
    /// What is to be done, and whether the next one is late.
    Simulated(VecDeque<Job>, bool),
}

/// The first wait on a channel allocates: it is had at once, and not in the loop.
const FIRST_WAIT: Duration = Duration::from_millis(1);

impl Worker {
    /// A worker that has at most `jobs` jobs at once.
    pub(crate) fn new(jobs: usize, simulated: bool) -> Result<Worker> {
        let ended = VecDeque::with_capacity(jobs);
        if simulated {
            return Ok(Worker { hands: Hands::Simulated(VecDeque::with_capacity(jobs), false), ended, out: 0 });
        }
        let (give, take) = channel::bounded::<Job>(jobs);
        let (give_back, take_back) = channel::bounded(jobs);
        let life = move || take.iter().try_for_each(|job| give_back.send(job.done())).unwrap_or(());
        let thread = thread::Builder::new()
            .name("strait-worker".into())
            .spawn(life)
            .map_err(|e| Error::thread("the worker's thread", &e))?;
        let _ = take_back.recv_timeout(FIRST_WAIT);
        Ok(Worker { hands: Hands::Thread { jobs: Some(give), ended: take_back, thread: Some(thread) }, ended, out: 0 })
    }

    /// Jobs that have not come back.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    pub(super) fn start(&mut self, job: Job) -> Result<()> {
        self.out += 1;
        match &mut self.hands {
            Hands::Simulated(waiting, _) => waiting.push_back(job),
            Hands::Thread { jobs, .. } => {
                let jobs = jobs.as_ref().expect("taken only by drop");
                jobs.send(job).map_err(|_| gone())?;
            }
        }
        Ok(())
    }

    /// A job that is done, if there is one.
    pub(super) fn reap(&mut self) -> Result<Option<Job>> {
        let job = match (self.ended.pop_front(), &mut self.hands) {
            (Some(job), _) => Some(job),
            (None, Hands::Thread { ended, .. }) => match ended.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return Err(gone()),
            },
            (None, Hands::Simulated(waiting, late)) => {
                *late = !*late;
                if *late { None } else { waiting.pop_front().map(Job::done) }
            }
        };
        self.out -= usize::from(job.is_some());
        Ok(job)
    }

    /// Waits until a job can be reaped or `timeout` has passed.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<()> {
        match &mut self.hands {
            Hands::Simulated(waiting, _) => self.ended.extend(waiting.pop_front().map(Job::done)),
            Hands::Thread { ended, .. } => match ended.recv_timeout(timeout) {
                Ok(job) => self.ended.push_back(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            },
        }
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends what it has begun: milliseconds. Its leases come home before the memory's other owners look.
        if let Hands::Thread { jobs, thread, .. } = &mut self.hands {
            drop(jobs.take());
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

fn gone() -> Error {
    Error::Stopped { reason: "the thread that gathers and checks is gone; see the log".into() }
}

impl Job {
    fn done(self) -> Job {
        let parts = self.plan.parts_in(self.at, &self.limits).iter();
        parts.filter(|part| part.purpose.check).for_each(|part| part.set_crc(crc32c::crc32c(self.bytes(part))));
        if let Hold::Region(_) = self.hold {
            self.plan.gather().iter().for_each(|&one| self.carry_out(one));
        }
        self
    }

    fn bytes(&self, part: &Part) -> &[u8] {
        let from = part.at - self.at;
        assert!(from + part.bytes <= self.hold.bytes() as u64, "a part outside its landing");
        // SAFETY: inside the lease, by the check above. It is this job's alone, and hardware has done with it.
        unsafe { std::slice::from_raw_parts(self.hold.base().add(from as usize).as_ptr(), part.bytes as usize) }
    }

    fn carry_out(&self, Move { source, target, bytes }: Move) {
        let (base, end) = (self.hold.base(), self.hold.bytes() as u64);
        assert!(source + bytes <= end && target + bytes <= end, "a move out of its region");
        // SAFETY: both ranges are inside the lease, which is this job's alone, and hardware has done with it; a plan's
        // targets lie behind all that was read, so they do not overlap.
        unsafe {
            let (source, target) = (base.add(source as usize), base.add(target as usize));
            source.copy_to_nonoverlapping(target, bytes as usize);
        }
    }
}
