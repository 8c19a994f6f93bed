//! The limit where io_uring is refused: as many threads as reads in flight, each with its own buffer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::blocks::{Blocks, Files, read_failure};
use super::limit::no_memory;
use super::measure::{Clock, Measure};
use super::progress::Watch;
use super::request::Request;
use crate::failure::{Failure, Result};
use crate::linux::errno;
use crate::linux::file::read_at;
use crate::linux::pages::Pages;

const THREADS_MAX: usize = 64;

pub(super) fn run(request: &Request, files: &Files, blocks: &Blocks, watch: &mut Watch) -> Result<Measure> {
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
    let ticked = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..request.depth.min(THREADS_MAX)).map(|_| scope.spawn(|| shared.read())).collect();
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
        ticked
    });
    let measure = clock.stop(shared.bytes.into_inner());
    ticked?;
    match shared.failure.into_inner().expect("no thread panics") {
        Some(failure) => Err(failure),
        None => Ok(measure),
    }
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
            match read_at(&self.files.files[file], &mut buffer, offset, 0) {
                Ok(got) => drop(self.bytes.fetch_add(got as u64, Ordering::Relaxed)),
                Err(error) => self.fail(read_failure(&self.request.paths[file], offset, errno(&error))),
            }
        }
    }

    fn fail(&self, failure: Failure) {
        *self.failure.lock().expect("no thread panics") = Some(failure);
        self.stop.store(true, Ordering::Relaxed);
    }
}
