//! Indexing reads headers, not payload. A file of its own: it watches the whole process's reads.

mod dataset_tar;

use dataset_tar::{Style, Tar, write};
use strait::Dataset;

/// The bytes that this process has asked `read` and its like for, and got.
fn bytes_read() -> Option<u64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("rchar: "))?.parse().ok()
}

#[test]
fn a_tar_of_100_kib_members_is_indexed_from_a_twentieth_of_its_bytes() {
    let mut tar = Tar::default();
    let data = vec![0x5a; 100 << 10];
    (0..300).for_each(|i| {
        tar.member(Style::PaxMtime, &format!("{i:06}.jpg"), &data);
    });
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "a.tar", &tar.finished());
    let Some(before) = bytes_read() else {
        eprintln!("skipped: no /proc/self/io on this machine");
        return;
    };
    let dataset = Dataset::webdataset(&[&path]).unwrap();
    let read = bytes_read().unwrap() - before;
    assert_eq!(dataset.len(), 300);
    let share = read as f64 / dataset.shards()[0].bytes as f64;
    assert!(share < 0.05, "{read} bytes read, {share:.3} of the file");
}
