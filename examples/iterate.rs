//! Iterates fixed-size records and prints what came: `cargo run --release --example iterate -- 1048576 FILE..`

use std::time::Instant;

use strait::order::Shuffle;
use strait::{Dataset, Device, Loader};

fn main() -> strait::Result<()> {
    let mut args = std::env::args().skip(1);
    let record_bytes = args.next().and_then(|text| text.parse().ok()).expect("record size in bytes");
    let shuffle = if std::env::var_os("SHUFFLE").is_some() { Shuffle::Full } else { Shuffle::Sequential };
    let depth = std::env::var("DEPTH").ok().and_then(|v| v.parse().ok()).unwrap_or(8usize);
    let batch = std::env::var("BATCH").ok().and_then(|v| v.parse().ok()).unwrap_or(64usize);
    let paths: Vec<String> = args.collect();

    let mut loader = Loader::builder(Dataset::records(&paths, record_bytes)?)
        .device(Device::auto())
        .batch_size(batch)
        .reads_in_flight(depth)
        .shuffle(shuffle)
        .build()?;
    let start = Instant::now();
    let (mut samples, mut bytes) = (0, 0);
    for batch in loader.epoch(0) {
        let batch = batch?;
        let view = batch.field("record").expect("records have one field");
        samples += batch.len();
        bytes += view.lengths().iter().sum::<u64>();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{samples} samples, {bytes} bytes in {seconds:.2} s: {:.2} GB/s", bytes as f64 / seconds / 1e9);
    println!("{:#?}", loader.stats());
    Ok(())
}
