//! What the C ABI costs per batch, against the Rust API on the same data in one run, by turns.
//!
//! `cargo run --release --package strait-ffi --example overhead`

use std::fs;
use std::hint::black_box;
use std::ptr;
use std::time::{Duration, Instant};

use strait::{Dataset, Device, Loader};
use strait_ffi::*;

const RECORDS: u64 = 8192;
const BATCH: usize = 4;
const ROUNDS: usize = 15;

fn main() {
    let directory = tempfile::tempdir_in(".").expect("a directory here");
    let path = directory.path().join("overhead.bin");
    fs::write(&path, vec![7u8; RECORDS as usize * 4096]).expect("32 MiB");
    let dataset = Dataset::options().record_bytes(4096).open(&[&path]).expect("a dataset");
    let builder = || Loader::builder(dataset.clone()).device(Device::host()).batch_size(BATCH);
    let mut rust = builder().build().expect("a loader");
    let c = c_loader(path.to_str().expect("UTF-8"));

    let (mut in_rust, mut in_c) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        in_rust.push(rust_epoch(&mut rust, round));
        in_c.push(c_epoch(c, round));
    }
    let batches = RECORDS / BATCH as u64;
    let (rust_ns, c_ns) = (median(in_rust), median(in_c));
    println!("an epoch of {batches} batches of {BATCH} x 4 KiB, median of {ROUNDS}, by turns, per batch:");
    println!("  Rust {rust_ns} ns, C {c_ns} ns: {} ns more", c_ns - rust_ns);
    calls(c);
    strait_loader_free(c);
    assert_eq!(strait_handles_live(), 0);
}

/// What a batch adds by itself: its handle, and a few questions. No storage in it.
fn calls(loader: *mut strait_loader) {
    const CALLS: u32 = 200_000;
    ok(strait_loader_begin(loader, 99, None));
    let mut batch = ptr::null_mut();
    ok(strait_loader_next(loader, -1, Some(&mut batch), None));
    let start = Instant::now();
    for _ in 0..CALLS {
        let mut len = 0;
        ok(strait_batch_len(black_box(batch), Some(&mut len), None));
        assert_eq!(len, BATCH);
    }
    println!("  a question: {} ns", start.elapsed().as_nanos() / u128::from(CALLS));
    let start = Instant::now();
    for _ in 0..CALLS {
        let mut device = ptr::null_mut();
        ok(strait_device_host(Some(&mut device), None));
        ok(strait_device_free(black_box(device)));
    }
    println!("  a handle made and freed: {} ns", start.elapsed().as_nanos() / u128::from(CALLS));
    let start = Instant::now();
    for _ in 0..CALLS {
        let mut tensor = ptr::null_mut();
        // SAFETY: a C string, and no stream.
        let status = unsafe {
            strait_batch_sample_tensor(batch, c"record".as_ptr(), 0, STRAIT_STREAM_NONE, 0, Some(&mut tensor), None)
        };
        ok(status);
        delete_tensor(black_box(tensor));
    }
    println!("  a DLPack tensor made and deleted: {} ns", start.elapsed().as_nanos() / u128::from(CALLS));
    ok(strait_batch_free(batch));
}

fn rust_epoch(loader: &mut Loader, epoch: u64) -> Duration {
    let start = Instant::now();
    let mut samples = 0;
    for batch in loader.epoch(epoch) {
        let batch = batch.expect("a batch");
        let view = batch.field("record").expect("the field");
        samples += view.lengths().len() as u64;
        black_box((batch.device_ptr(), view.offsets()));
    }
    assert_eq!(samples, RECORDS);
    start.elapsed()
}

fn c_epoch(loader: *mut strait_loader, epoch: u64) -> Duration {
    let start = Instant::now();
    let mut samples = 0;
    ok(strait_loader_begin(loader, epoch, None));
    loop {
        let mut batch = ptr::null_mut();
        match strait_loader_next(loader, -1, Some(&mut batch), None) {
            strait_status::End => break,
            status => ok(status),
        }
        let (mut len, mut base, mut offsets, mut lengths) = (0, 0, ptr::null(), ptr::null());
        // SAFETY: a C string.
        ok(unsafe { strait_batch_field(batch, c"record".as_ptr(), Some(&mut offsets), Some(&mut lengths), None) });
        ok(strait_batch_len(batch, Some(&mut len), None));
        ok(strait_batch_device_ptr(batch, Some(&mut base), None));
        samples += len as u64;
        black_box((base, offsets, lengths));
        ok(strait_batch_free(batch));
    }
    assert_eq!(samples, RECORDS);
    start.elapsed()
}

fn c_loader(path: &str) -> *mut strait_loader {
    let path = std::ffi::CString::new(path).expect("no NUL");
    let (mut paths, mut dataset, mut host) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let (mut options, mut loader) = (ptr::null_mut(), ptr::null_mut());
    ok(strait_dataset_builder_new(Some(&mut paths), None));
    // SAFETY: a C string.
    ok(unsafe { strait_dataset_builder_add_path(paths, path.as_ptr(), None) });
    ok(strait_dataset_builder_record_bytes(paths, 4096, None));
    ok(strait_dataset_builder_build(paths, Some(&mut dataset), None));
    ok(strait_device_host(Some(&mut host), None));
    ok(strait_loader_builder_new(dataset, Some(&mut options), None));
    ok(strait_loader_builder_device(options, host, None));
    ok(strait_loader_builder_batch_size(options, BATCH, None));
    ok(strait_loader_builder_build(options, Some(&mut loader), None));
    ok(strait_dataset_builder_free(paths));
    ok(strait_dataset_free(dataset));
    ok(strait_device_free(host));
    ok(strait_loader_builder_free(options));
    loader
}

fn ok(status: strait_status) {
    assert_eq!(status, strait_status::Ok);
}

fn median(mut times: Vec<Duration>) -> i128 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as i128 / i128::from(RECORDS / BATCH as u64)
}
