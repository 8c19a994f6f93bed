//! The pages of a load come while its reads are under way, and no longer than it lasts.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use common::disk_directory;
use strait::storage::{Completion, RawRead, Ring};
use strait::weights::Checkpoint;
use strait::{Device, Error, Result};

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Tells of each read, and starts none: `failing` says so, else they wait until the queue drains.
struct Idle {
    asked: Sender<()>,
    failing: bool,
    held: Vec<u64>,
    drains: bool,
}

// SAFETY: no read touches its memory.
unsafe impl Ring for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    fn capacity(&self) -> usize {
        8
    }

    unsafe fn submit(&mut self, read: RawRead) -> Result<()> {
        let _ = self.asked.send(());
        self.held.push(read.token);
        Ok(())
    }

    fn poll(&mut self, want: usize, timeout: Duration, out: &mut Vec<Completion>) -> Result<()> {
        // An engine waits for 20 ms, a queue that drains for longer.
        self.drains |= want > 0 && timeout > Duration::from_millis(20);
        if self.failing || self.drains {
            out.extend(self.held.drain(..).map(|token| Completion { token, result: -libc::EIO }));
        } else if want > 0 {
            std::thread::sleep(timeout.min(Duration::from_millis(5)));
        }
        Ok(())
    }
}

fn idle(failing: bool) -> (Receiver<()>, impl FnOnce(usize) -> Result<Box<dyn Ring>> + Send + 'static) {
    let (asked, seen) = channel();
    (seen, move |_| Ok(Box::new(Idle { asked, failing, held: Vec::new(), drains: false }) as Box<dyn Ring>))
}

/// A file with one tensor of so many bytes, all of them a hole, and one without any.
fn sparse(directory: &Path, bytes: u64) -> PathBuf {
    let path = directory.join(format!("{bytes}.safetensors"));
    let mut header = format!(
        r#"{{"empty":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"w":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#
    );
    header.push_str(&" ".repeat((8 - header.len() % 8) % 8));
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
    path
}

/// A line of /proc/self/status, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// What the machine has for this process, without what only a swap or somebody's end would give.
fn available_bytes() -> u64 {
    let all = fs::read_to_string("/proc/meminfo").unwrap();
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.trim() == "strait-pages").count()
}

/// One test only: it looks at the whole process. Mutants that this catches: no thread; one that works on when the load is
/// dropped, or has failed; one that is left behind.
#[test]
fn pages_come_ahead_of_reads_and_no_longer_than_they_are_wanted() {
    let directory = disk_directory();
    let small = Checkpoint::open(sparse(directory.path(), 64 * MIB)).unwrap();
    let (_asked, ring) = idle(false);
    let before = memory("VmRSS");
    let load = small.load().device(Device::host()).custom_ring(ring).start().unwrap();
    let start = Instant::now();
    // But for the 32 MiB that reads have been given: a ring that reads has them come, this one does not.
    while memory("VmRSS") < before + 24 * MIB {
        assert!(start.elapsed() < PATIENCE, "no pages come while reads are under way");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(load);
    assert!(memory("VmRSS") < before + 16 * MIB, "the memory is kept");

    // More than is faulted in until somebody looks; and no more than there is.
    let bytes = (6 << 30).min(available_bytes() / 2);
    let large = Checkpoint::open(sparse(directory.path(), bytes)).unwrap();
    for failing in [false, true] {
        let came = |_| {
            let (asked, ring) = idle(failing);
            let mut load = large.load().device(Device::host()).custom_ring(ring).start().unwrap();
            let kept = load.next().unwrap().unwrap();
            assert_eq!(kept.bytes(), 0);
            asked.recv_timeout(PATIENCE).unwrap();
            // Else it is dropped here, in the midst.
            let failed = failing.then(|| {
                assert!(matches!(load.next(), Some(Err(Error::Tensor { .. }))));
                load
            });
            let start = Instant::now();
            while threads() > 0 {
                assert!(start.elapsed() < PATIENCE, "threads are left behind");
                std::thread::yield_now();
            }
            // The first tensor keeps the memory of all.
            let came = memory("VmRSS").saturating_sub(before);
            drop((failed, kept));
            came
        };
        // Where the threads are given a CPU and this one is not, all of them come in time: that happens now and then only.
        let least = (0..5).map(came).find(|&came| came < bytes / 3 * 2);
        assert!(least.is_some(), "all {} MiB of pages came for nobody, each time", bytes >> 20);
    }
}
