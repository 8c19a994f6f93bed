//! Loads a checkpoint into memory of the host, or of CUDA device 0 if there is one, and says how fast.
//!
//! `cargo run --release --example load_weights -- PATH [GLOB..]`

use std::time::Instant;

use strait::Device;
use strait::weights::Checkpoint;

fn main() -> strait::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a checkpoint");
    let checkpoint = Checkpoint::open(&path)?;
    let builder = arguments.fold(checkpoint.load(), |builder, pattern| builder.matching(&pattern));
    let start = Instant::now();
    let mut load = builder.device(Device::auto()).start()?;
    let mut tensors = Vec::new();
    for tensor in &mut load {
        let tensor = tensor?;
        if tensors.is_empty() {
            println!("first after {:.1?}: {tensor:?}", start.elapsed());
        }
        tensors.push(tensor);
    }
    tensors.iter().try_for_each(|tensor| tensor.wait())?;
    let (seconds, stats) = (start.elapsed().as_secs_f64(), load.stats());
    let gib = stats.bytes_wanted as f64 / f64::from(1 << 30);
    println!("{} tensors, {gib:.2} GiB in {seconds:.2} s: {:.2} GiB/s", tensors.len(), gib / seconds);
    println!("{} because {}; {} on {}", stats.path, stats.path_reason, stats.ring, stats.pages);
    stats.fallbacks.iter().for_each(|fallback| println!("{fallback}"));
    Ok(())
}
