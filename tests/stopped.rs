//! A process that is stopped for longer than any deadline, as by SIGSTOP or a container that is paused, goes on as if
//! nothing had been.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use strait::storage::{Completion, Pread, RawRead, Ring};
use strait::{Dataset, Device, Loader, Result};

const RECORD: u64 = 4096;
const BATCHES: u64 = 12;
/// What every read takes; long enough that a stop falls into a wait for one.
const READ: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_millis(900);
const STOPPED: Duration = Duration::from_secs(4);

/// Storage that takes its time, and none of that while the process is stopped.
struct Slow {
    inner: Pread,
    left: Duration,
}

// SAFETY: as the ring inside, which is only asked later.
unsafe impl Ring for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn capacity(&self) -> usize {
        1
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        self.left = READ;
        // SAFETY: the caller's promises are passed on.
        unsafe { self.inner.submit(read) }
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        if !self.left.is_zero() {
            let moment = self.left.min(timeout);
            std::thread::sleep(moment);
            self.left -= moment;
            return Ok(());
        }
        self.inner.poll(want, timeout, out)
    }
}

/// What the process that is stopped does: it says each batch, and fails with the first error.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn reads_on() {
    let path = std::env::var("STRAIT_SHARD").expect("its path");
    let make = |depth| Ok(Box::new(Slow { inner: Pread::new(depth)?, left: Duration::ZERO }) as Box<dyn Ring>);
    let builder = Loader::builder(Dataset::records(&[path], RECORD).unwrap()).device(Device::host()).batch_size(1);
    let mut loader = builder.deadline(DEADLINE).reads_in_flight(1).custom_ring(make).build().unwrap();
    for batch in loader.epoch(0) {
        println!("batch {}", batch.unwrap().step());
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mutants that this catches: the time of a stopped process counted among that of a read; or among that of a consumer.
#[test]
fn a_process_that_was_stopped_reads_on() {
    let shard = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(shard.path(), vec![7; (RECORD * BATCHES) as usize]).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let command = command.args(["--exact", "reads_on", "--ignored", "--nocapture"]).env("STRAIT_SHARD", shard.path());
    let mut child = Killed(command.stdout(Stdio::piped()).spawn().unwrap());
    let (id, mut batches) = (child.0.id() as i32, 0);
    // SAFETY: kill takes no pointer; the child is ours, and has not been waited for.
    let signal = |signal| assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    for line in lines.by_ref().map_while(std::result::Result::ok).filter(|line| line.contains("batch ")) {
        batches += 1;
        if [1, 4, 7].contains(&batches) {
            // In the midst of the next read, and of the consumer's wait for it.
            std::thread::sleep(READ * 2 / 3);
            signal(libc::SIGSTOP);
            std::thread::sleep(STOPPED);
            signal(libc::SIGCONT);
        }
        drop(line);
    }
    assert_eq!(batches, BATCHES, "see the child's error above");
    assert!(child.0.wait().unwrap().success());
}
