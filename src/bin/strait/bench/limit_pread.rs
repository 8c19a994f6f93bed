//! The limit where io_uring is refused: as many threads as reads in flight, each with its own buffer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::blocks::{Blocks, Came, Files, judge, read_failure};
use super::limit::no_memory;
use super::measure::{Clock, Measure};
use super::progress::Watch;
use super::request::Request;
use crate::failure::{Failure, Result};
use crate::linux::errno;
use crate::linux::file::read_at;
use crate::linux::pages::Pages;

const THREADS_MAX: usize = 64;

/// What they read, and how many there were: no more than can be had.
pub(super) fn run(request: &Request, files: &Files, blocks: &Blocks, watch: &mut Watch) -> Result<(Measure, String)> {
    let shared = Shared {
        request,
        files,
        blocks,
        next: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    watch.start();
    let clock = Clock::start();
    let wanted = request.depth.min(THREADS_MAX);
    let (ticked, started) = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(wanted);
        while threads.len() < wanted {
            match std::thread::Builder::new().spawn_scoped(scope, || shared.read()) {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => return (Err(no_thread(&error)), 0),
                Err(_) => break,
            }
        }
        let mut ticked = Ok(true);
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(2));
            ticked = watch.tick(shared.bytes.load(Ordering::Relaxed));
            if !matches!(ticked, Ok(true)) {
                shared.stop.store(true, Ordering::Relaxed);
            }
            if ticked.is_err() {
                break;
            }
        }
        (ticked, threads.len())
    });
    let measure = clock.stop(shared.bytes.into_inner());
    ticked?;
    match shared.failure.into_inner().expect("no thread panics") {
        Some(failure) => Err(failure),
        None if started < wanted => {
            Ok((measure, format!("{started} of {wanted} pread threads, no more are to be had")))
        }
        None => Ok((measure, "pread threads".into())),
    }
}

fn no_thread(error: &std::io::Error) -> Failure {
    let remedy = "raise `ulimit -u`, or pids.max of the cgroup; or leave the references out";
    Failure::new("no thread to measure the limit with", error.to_string(), remedy)
}

struct Shared<'a> {
    request: &'a Request,
    files: &'a Files,
    blocks: &'a Blocks,
    next: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl Shared<'_> {
    fn read(&self) {
        let mut buffer = match Pages::new(self.request.reference_bytes() as usize) {
            Ok(buffer) => buffer,
            Err(error) => return self.fail(no_memory(error)),
        };
        while !self.stop.load(Ordering::Relaxed) {
            let position = self.next.fetch_add(1, Ordering::Relaxed);
            if position >= self.blocks.len() {
                return;
            }
            let (file, offset) = self.blocks.at(position);
            let mut tries = 0;
            loop {
                let read = read_at(&self.files.files[file], &mut buffer, offset, 0);
                match judge(read.map_or_else(|error| -errno(&error), |count| count as i32), &mut tries) {
                    Came::Bytes(count) => drop(self.bytes.fetch_add(count, Ordering::Relaxed)),
                    Came::Again => continue,
                    Came::Failed(errno) => self.fail(read_failure(&self.request.paths[file], offset, errno)),
                }
                break;
            }
        }
    }

    fn fail(&self, failure: Failure) {
        *self.failure.lock().expect("no thread panics") = Some(failure);
        self.stop.store(true, Ordering::Relaxed);
    }
}
