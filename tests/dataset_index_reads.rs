//! Indexing reads headers, not payload. A file of its own: it watches the whole process's reads.

mod dataset_tar;

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use dataset_tar::{Style, Tar, write};
use strait::Dataset;

/// What this process has read so far: from files at all, and from disks.
fn bytes_read() -> Option<(u64, u64)> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    let number = |name| io.lines().find_map(|line| line.strip_prefix(name))?.parse::<u64>().ok();
    number("rchar: ").zip(number("read_bytes: "))
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
