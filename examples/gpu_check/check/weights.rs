//! A checkpoint whose every byte is known, loaded to the device: large and small tensors, which come different ways.

use std::path::Path;

use serde_json::{Map, json};
use strait::weights::Checkpoint;
use strait::{Device, RingChoice};

use super::Outcome;
use super::shards::Source;

/// Elements of u8; between them each offset is another one within its block.
const TENSORS: [usize; 8] = [1, 5 << 20, 4095, (3 << 20) + 7, 0, 100_000, 2 << 20, 13];

/// Writes the file, loads it, compares; how many bytes there were, and by which ring they came.
pub(crate) fn check(device: &Device, source: &Source, directory: &Path, ring: RingChoice) -> Outcome<String> {
    let directory = tempfile::tempdir_in(directory)?;
    let path = directory.path().join("known.safetensors");
    let (mut header, mut end) = (Map::new(), 0);
    for (number, bytes) in TENSORS.into_iter().enumerate() {
        let entry = json!({ "dtype": "U8", "shape": [bytes], "data_offsets": [end, end + bytes] });
        header.insert(number.to_string(), entry);
        end += bytes;
    }
    let mut file = serde_json::to_vec(&header)?;
    file.splice(0..0, (file.len() as u64).to_le_bytes());
    file.extend_from_slice(source.bytes(0..end));
    std::fs::write(&path, file)?;

    let mut load = Checkpoint::open(&path)?.load().device(device.clone()).ring(ring).start()?;
    let mut tensors = 0;
    for tensor in &mut load {
        let tensor = tensor?;
        let number: usize = tensor.name().parse()?;
        let start = TENSORS[..number].iter().sum::<usize>();
        if tensor.read_back()? != source.bytes(start..start + TENSORS[number]) {
            return Err(format!("tensor {number}, of {} bytes, has wrong bytes", TENSORS[number]).into());
        }
        tensors += 1;
    }
    match tensors == TENSORS.len() {
        true => Ok(format!("{tensors} tensors, {end} bytes, by {}", load.stats().ring)),
        false => Err(format!("{tensors} of {} tensors came", TENSORS.len()).into()),
    }
}
