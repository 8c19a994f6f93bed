//! Indexing reads headers, not payload. A file of its own: it watches the whole process's reads.

mod dataset_tar;
#[allow(dead_code, reason = "shared with the tests of formats")]
#[path = "formats/writers.rs"]
mod writers;

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};

use dataset_tar::{Style, Tar, write};
use strait::Dataset;

/// What this process has read so far: bytes from files at all, and from disks; calls.
fn bytes_read() -> Option<(u64, u64, u64)> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let number = |name| io.lines().find_map(|line| line.strip_prefix(name))?.parse::<u64>().ok();
    Some((number("rchar: ")?, number("read_bytes: ")?, number("syscr: ")?))
}

/// One test at a time: the count is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

/// A mutant that this catches: features looked up by going back to what verifying has read on from.
#[test]
fn verified_examples_are_read_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let features = |i: u16| [("image".into(), 1, vec![7; 200 + usize::from(i % 900)]), ("label".into(), 3, vec![1])];
    let records: Vec<_> = (0..4000).map(|i| writers::example(&features(i))).collect();
    let path = writers::tfrecord(dir.path().join("a.tfrecord"), &records);
    let Some(before) = bytes_read() else {
        eprintln!("skipped: no /proc/self/io on this machine");
        return;
    };
    let dataset = Dataset::options().verify(true).open(&[&path]).unwrap();
    let after = bytes_read().unwrap();
    assert_eq!(dataset.len(), 4000);
    let times = (after.0 - before.0) as f64 / dataset.shards()[0].bytes as f64;
    let reads = after.2 - before.2;
    assert!(times < 1.1 && reads < 100, "the file read {times:.2} times, by {reads} calls");
}

/// Whether the disk serves single blocks past the page cache.
fn serves_blocks(path: &std::path::Path) -> bool {
    let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) else { return false };
    let buffer = vec![0u8; 8192];
    let place = buffer.as_ptr().align_offset(4096);
    let mut buffer = buffer;
    file.read_at(&mut buffer[place..place + 512], 512).is_ok()
}

#[test]
fn a_tar_of_100_kib_members_is_indexed_from_a_fiftieth_of_its_bytes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tar = Tar::default();
    let data = vec![0x5a; 100 << 10];
    (0..300).for_each(|i| {
        tar.member(Style::PaxMtime, &format!("{i:06}.jpg"), &data);
    });
    // Not in /tmp, which may be in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = write(dir.path(), "a.tar", &tar.finished());
    let Some(before) = bytes_read() else {
        eprintln!("skipped: no /proc/self/io on this machine");
        return;
    };
    let dataset = Dataset::webdataset(&[&path]).unwrap();
    let after = bytes_read().unwrap();
    assert_eq!(dataset.len(), 300);
    let share = |bytes: u64| bytes as f64 / dataset.shards()[0].bytes as f64;
    let (asked, from_disk) = (share(after.0 - before.0), share(after.1 - before.1));
    if !serves_blocks(&path) {
        eprintln!("skipped in part: the disk here serves no single blocks of 512 bytes");
        assert!(asked < 0.05, "{asked:.4} of the file read");
        return;
    }
    assert!(asked < 0.02 && from_disk < 0.02, "{asked:.4} of the file read, {from_disk:.4} from the disk");
    assert!(from_disk > 0.01, "{from_disk:.4} of the file cannot have all headers: the count is of something else");
}
