//! Iterates tar shards in a shuffled order and prints what came, and which way it took:
//! `cargo run --release --example webdataset -- train-0000.tar train-0001.tar`

use std::time::Instant;

use strait::order::Shuffle;
use strait::{Dataset, Device, FieldView, Loader};

fn main() -> strait::Result<()> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let dataset = Dataset::webdataset(&paths)?;
    println!("{} samples in {} shards", dataset.len(), dataset.shards().len());
    let mut loader =
        Loader::builder(dataset).device(Device::auto()).batch_size(64).shuffle(Shuffle::Full).seed(17).build()?;
    let (start, mut bytes) = (Instant::now(), 0);
    for batch in loader.epoch(0) {
        let batch = batch?;
        batch.wait()?; // the bytes are on the device from here on
        for field in batch.fields() {
            let view = batch.field(&field.name).expect("one of the batch's own fields");
            // Sample i of this field: lengths()[i] bytes at device_ptr() + offsets()[i].
            bytes += view.lengths().iter().filter(|&&len| len != FieldView::ABSENT).sum::<u64>();
        }
    } // the batch gives its memory back here
    let seconds = start.elapsed().as_secs_f64();
    let stats = loader.stats();
    println!("{bytes} bytes on {} in {seconds:.2} s: {:.2} GB/s", stats.device, bytes as f64 / seconds / 1e9);
    println!("path: {}, {} (ring: {}, {})", stats.path, stats.path_reason, stats.ring, stats.pages);
    for fallback in stats.fallbacks {
        println!("note: {fallback}");
    }
    Ok(())
}
