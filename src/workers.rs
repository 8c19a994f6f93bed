//! Threads beside an engine's own, for what the CPU does with bytes that have landed: the ring is kept busy meanwhile.
//!
//! ```text
//!   engine --- job: leases, and what to do ---> worker: Job::work ---> the same job ---> engine, which is woken for it
//! ```
//!
//! A lease moves to the worker and comes back, so nothing reads or writes its memory at the same time. Where time is
//! simulated the engine does the work itself, some turns later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{self, Receiver, Sender};

use crate::error::{Error, Result};
use crate::storage::Waker;

/// What a worker is given, and gives back.
pub(crate) trait Job: Send + 'static {
    /// What a worker keeps from one job to the next.
    type Kept: Send;

    fn work(&mut self, kept: &mut Self::Kept);
}

/// Those who work for one engine.
pub(crate) struct Workers<J: Job> {
    hands: Hands<J>,
    out: usize,
    /// What is left needs not be done any more.
    stop: Arc<AtomicBool>,
}

enum Hands<J: Job> {
    Threads {
        jobs: Vec<Sender<J>>,
        ended: Receiver<J>,
        threads: Vec<JoinHandle<()>>,
    },
    /// What is to be done, and whether the next one is late.
    Simulated(J::Kept, VecDeque<J>, bool),
}

impl<J: Job> Workers<J> {
    /// Threads, one for each of `kept`, which wake the engine when they have done something. With at most `jobs` jobs at
    /// once, if a number is given, they allocate nothing.
    pub(crate) fn start(kept: Vec<J::Kept>, jobs: Option<usize>, waker: &Arc<Waker>) -> Result<Workers<J>> {
        let stop = Arc::new(AtomicBool::new(false));
        let (give_back, ended) = channel(jobs);
        let mut hands = (Vec::new(), Vec::new());
        for mut kept in kept {
            let (give, take) = channel::<J>(jobs);
            let (stop, give_back, waker) = (stop.clone(), give_back.clone(), waker.clone());
            let life = move || {
                for mut job in take {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    job.work(&mut kept);
                    if give_back.send(job).is_err() {
                        return;
                    }
                    waker.wake();
                }
            };
            let thread = thread::Builder::new().name("strait-worker".into()).spawn(life);
            hands.0.push(give);
            hands.1.push(thread.map_err(|e| Error::thread("a worker's thread", &e))?);
        }
        let (jobs, threads) = hands;
        Ok(Workers { hands: Hands::Threads { jobs, ended, threads }, out: 0, stop })
    }

    /// The engine does the work itself.
    pub(crate) fn simulated(kept: J::Kept) -> Workers<J> {
        Workers { hands: Hands::Simulated(kept, VecDeque::new(), false), out: 0, stop: Arc::default() }
    }

    /// Jobs that have not come back.
    pub(crate) fn out(&self) -> usize {
        self.out
    }

    /// Gives a job to the worker of that number, counted around. One worker's jobs are done in the order in which they come.
    pub(crate) fn put(&mut self, worker: usize, job: J) -> Result<()> {
        self.out += 1;
        match &mut self.hands {
            Hands::Simulated(_, waiting, _) => waiting.push_back(job),
            Hands::Threads { jobs, .. } => jobs[worker % jobs.len()].send(job).map_err(|_| gone())?,
        }
        Ok(())
    }

    /// A job that is done, if there is one.
    pub(crate) fn reap(&mut self) -> Result<Option<J>> {
        let job = match &mut self.hands {
            Hands::Threads { ended, threads, .. } => {
                let job = ended.try_recv().ok();
                if job.is_none() && self.out > 0 && threads.iter().any(JoinHandle::is_finished) {
                    return Err(gone()); // it ends only with the engine, or by a panic: its job never comes
                }
                job
            }
            Hands::Simulated(kept, waiting, late) if !waiting.is_empty() => {
                *late = !*late;
                let job = if *late { None } else { waiting.pop_front() };
                job.map(|mut job| {
                    job.work(kept);
                    job
                })
            }
            Hands::Simulated(..) => None,
        };
        self.out -= usize::from(job.is_some());
        Ok(job)
    }
}

impl<J: Job> Drop for Workers<J> {
    /// Waits for the threads, each of which ends the job that it is at: their leases come home before the memory's other
    /// owners look.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Hands::Threads { jobs, threads, .. } = &mut self.hands {
            jobs.clear();
            threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

fn channel<T>(most: Option<usize>) -> (Sender<T>, Receiver<T>) {
    most.map_or_else(channel::unbounded, channel::bounded)
}

fn gone() -> Error {
    Error::Stopped { reason: "a thread that gathers and checks is gone; see the log".into() }
}
