//! Fills candle's tensors from a checkpoint through strait, and compares each with what candle's own loader makes of it.
//!
//! ```text
//! cargo run --release                      # a small checkpoint, made for the purpose and removed
//! cargo run --release -- PATH              # a .safetensors file, a directory, or a model.safetensors.index.json
//! cargo run --release -- PATH cuda:0       # on to the GPU, by candle's own copy (feature `cuda`)
//! ```
//!
//! Every tensor's memory is what candle will own: a `Vec` that strait writes into and that becomes the tensor's storage.
//! Nothing is converted or copied after that, and what is in memory besides is strait's slabs.

mod room;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use strait::weights::{Checkpoint, SaveTensor, save};

use room::Room;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let made = Made::new()?;
    let path = arguments.next().map_or_else(|| made.0.clone(), PathBuf::from);
    let checkpoint = Checkpoint::open(&path)?;

    let began = Instant::now();
    let mut tensors = load(&checkpoint)?;
    let seconds = began.elapsed().as_secs_f64();
    let gb = checkpoint.bytes() as f64 * 1e-9;
    println!("strait: {} tensors, {gb:.3} GB in {seconds:.3} s ({:.2} GB/s)", tensors.len(), gb / seconds);

    compare(&checkpoint, &tensors)?;
    println!("candle's own loader has the same {} tensors, bit for bit", tensors.len());

    if let Some(device) = arguments.next() {
        let ordinal = device.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
        let gpu = Device::new_cuda(ordinal.context("the second argument is a device: cuda:0")?)?;
        tensors = tensors.into_iter().map(|(name, t)| Ok((name, t.to_device(&gpu)?))).collect::<Result<_>>()?;
        println!("{} tensors on {device}", tensors.len());
    }
    Ok(())
}

/// All tensors of a checkpoint, in memory of candle's.
fn load(checkpoint: &Checkpoint) -> Result<HashMap<String, Tensor>> {
    let mut rooms: HashMap<Arc<str>, Arc<Room>> = HashMap::new();
    let mut places = HashMap::new();
    for tensor in checkpoint.tensors() {
        let Some(mut room) = Room::new(tensor) else {
            bail!("{}: candle has no tensors of {}", tensor.name, tensor.dtype);
        };
        let ptr = room.base();
        let room = Arc::new(room);
        let place = strait::weights::Place { ptr, bytes: tensor.bytes, owner: room.clone() };
        places.insert(tensor.name.clone(), place);
        rooms.insert(tensor.name.clone(), room);
    }
    let builder = checkpoint.load().device(strait::Device::host());
    // SAFETY: each place is the capacity of a vector in a room that the place's owner keeps. Nobody touches a room's
    // vector before the load is over: the only other shares are in `rooms`.
    let builder = unsafe { builder.place(move |tensor, _, _| places.get(&tensor.name).cloned()) };
    let loaded = builder.load_all()?;
    let mut tensors = HashMap::new();
    for tensor in loaded {
        let (name, shape) = (tensor.info().name.clone(), tensor.info().shape.clone());
        drop(tensor); // the last share in the room besides ours
        let room = rooms.remove(&name).and_then(Arc::into_inner).context("a room is still in use")?;
        // SAFETY: the tensor was whole, so every byte of its room has been written.
        tensors.insert(name.to_string(), unsafe { room.into_tensor(&shape) }?);
    }
    Ok(tensors)
}

fn compare(checkpoint: &Checkpoint, ours: &HashMap<String, Tensor>) -> Result<()> {
    let mut seen = 0;
    for file in checkpoint.files() {
        for (name, theirs) in candle_core::safetensors::load(&file.path, &Device::Cpu)? {
            let own = ours.get(&name).with_context(|| format!("{name} is missing"))?;
            ensure!(own.dtype() == theirs.dtype() && own.dims() == theirs.dims(), "{name}: {own:?}, not {theirs:?}");
            let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
                let mut bytes = Vec::new();
                tensor.write_bytes(&mut bytes)?;
                Ok(bytes)
            };
            ensure!(bytes(own)? == bytes(&theirs)?, "{name}: not the same bytes");
            seen += 1;
        }
    }
    ensure!(seen == ours.len(), "candle loaded {seen} tensors, strait {}", ours.len());
    Ok(())
}

/// A checkpoint of every type that candle computes with, removed at the end.
struct Made(PathBuf);

impl Made {
    fn new() -> Result<Made> {
        use strait::DType::*;
        let directory = std::env::temp_dir().join(format!("strait-candle-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let made = Made(directory);
        let types = [U8, U32, I16, I32, I64, BF16, F16, F32, F64];
        let names: Vec<String> = types.iter().map(|dtype| format!("tensor.{dtype}")).collect();
        let shapes: Vec<Vec<u64>> = (0..types.len() as u64).map(|n| vec![3, 10_007 * (n + 1)]).collect();
        let data: Vec<Vec<u8>> = types
            .iter()
            .zip(&shapes)
            .map(|(dtype, shape)| {
                let bytes = dtype.array_bytes(shape).expect("a shape of a few bytes");
                (0..bytes).map(|i| ((i * 2_654_435_761) >> 16) as u8).collect()
            })
            .collect();
        let mut tensors: Vec<SaveTensor<'_>> = types
            .iter()
            .enumerate()
            .map(|(n, dtype)| SaveTensor::new(&names[n], *dtype, &shapes[n], &data[n]))
            .collect();
        tensors.push(SaveTensor::new("scalar", F32, &[], &[0, 0, 128, 63]));
        tensors.push(SaveTensor::new("empty", F16, &[0, 4], &[]));
        save(made.0.join("model.safetensors"), &tensors)?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all::<&Path>(&self.0);
    }
}
