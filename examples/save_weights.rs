//! Saves tensors as a checkpoint, and says how long it took.
//!
//! ```text
//! cargo run --release --example save_weights -- DIR [MIB] [SHARDS]
//! ```
//!
//! DIR gets `model.safetensors`, or shards of it and an index. One JSON object on standard output.

use std::time::Instant;

use strait::sim::Rng;
use strait::weights::{Algorithm, Per, Save, SaveTensor};
use strait::{DType, Device};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: save_weights DIR [MIB] [SHARDS]")?;
    let mib: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let shards: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let digests = std::env::var_os("DIGESTS").is_some();

    // What a training step would have left in the device's memory; here the device is the host.
    let layers = (mib / 8).max(1);
    let shape = [1024, (mib << 20) / layers / 1024 / 2];
    let bytes = DType::BF16.array_bytes(&shape).ok_or("that many bytes are no tensor")?;
    let mut rng = Rng::new(1);
    let data: Vec<u8> = (0..bytes / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    let names: Vec<String> = (0..layers).map(|layer| format!("layers.{layer}.weight")).collect();
    let tensors: Vec<SaveTensor<'_>> =
        names.iter().map(|name| SaveTensor::new(name, DType::BF16, &shape, &data)).collect();

    let mut save = Save::new(&Device::host()).metadata("format", "pt");
    if shards > 1 {
        save = save.shard_bytes_max((bytes * layers).div_ceil(shards));
    }
    if digests {
        save = save.digests(Algorithm::Xxh3_64, Per::Tensor);
    }
    let (cpu_seconds, began) = (cpu_seconds()?, Instant::now());
    let saved = save.save(format!("{directory}/model.safetensors"), &tensors)?;
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), self::cpu_seconds()? - cpu_seconds);
    for fallback in &saved.fallbacks {
        eprintln!("{fallback}");
    }
    println!(
        "{{\"bytes\": {}, \"seconds\": {seconds}, \"cpu_seconds\": {cpu_seconds}, \"files\": {}, \"ring\": \"{}\", \
         \"direct\": {}, \"pinned_bytes\": {}}}",
        saved.bytes,
        saved.files.len(),
        saved.ring,
        saved.direct,
        saved.pinned_bytes,
    );
    Ok(())
}

/// User and system time of this process so far.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("/proc/self/stat has no name in it")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0) // USER_HZ is 100 on every architecture that strait runs on
}
