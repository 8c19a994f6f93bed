//! Checkpoints whose every byte is known, written by hand so that they may be odd, and a naive oracle of slices.
#![allow(dead_code, unreachable_pub)]

use std::ops::Range;
use std::path::{Path, PathBuf};

use strait::DType;
use strait::sim::Rng;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct Made {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Made {
    pub fn new(rng: &mut Rng, name: impl Into<String>, dtype: DType, shape: &[u64]) -> Made {
        let bytes = dtype.array_bytes(shape).expect("whole bytes") as usize;
        let words = (0..bytes.div_ceil(8)).flat_map(|_| rng.next_u64().to_le_bytes());
        Made { name: name.into(), dtype, shape: shape.to_vec(), bytes: words.take(bytes).collect() }
    }

    /// The bytes of `range` of dimension `dim`, found element by element.
    pub fn slice(&self, dim: usize, range: Range<u64>) -> Vec<u8> {
        let size = self.dtype.bytes().expect("elements of whole bytes") as usize;
        let inner: u64 = self.shape[dim + 1..].iter().product();
        let elements = 0..self.shape.iter().product::<u64>();
        let inside = elements.filter(|element| range.contains(&(element / inner % self.shape[dim])));
        inside.flat_map(|element| self.bytes[element as usize * size..][..size].iter().copied()).collect()
    }
}

/// A dtype of the format, any.
pub fn any_dtype(rng: &mut Rng) -> DType {
    let all: Vec<DType> = DType::all().filter(|&dtype| dtype != DType::C128).collect();
    all[rng.below(all.len() as u64) as usize]
}

/// The bytes of a file with these tensors one after another, as they come, and a header with `pad` spaces at its end.
pub fn encode(tensors: &[Made], pad: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut end = 0;
    for Made { name, dtype, shape, bytes } in tensors {
        let (begin, dtype) = (end, strait::safetensors::dtype_name(*dtype).unwrap());
        end += bytes.len();
        let name = serde_json::to_string(name).unwrap();
        entries.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}{}", entries.join(","), " ".repeat(pad));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|tensor| file.extend(&tensor.bytes));
    file
}

pub fn write(directory: &Path, name: &str, tensors: &[Made], pad: usize) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, encode(tensors, pad)).unwrap();
    path
}

/// Padding that brings the tensors' start to `at` bytes past a multiple of 4096.
pub fn pad_to(tensors: &[Made], at: usize) -> usize {
    let data: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let start = encode(tensors, 0).len() - data;
    (at + 2 * 4096 - start % 4096) % 4096
}

/// A tensor of any type with up to about `bytes_max` bytes; sometimes none.
pub fn any_tensor(rng: &mut Rng, name: String, bytes_max: u64) -> Made {
    let dtype = any_dtype(rng);
    let elements = rng.below(bytes_max * 8 / dtype.bits() + 1);
    let shape = match rng.below(6) {
        0 => vec![],
        1 => vec![0, 3],
        2 => vec![elements / 8 * 8],
        3 => vec![1, elements / 8 * 8, 1],
        _ => vec![(elements / 64).max(1), 8, 8],
    };
    // A single element of 4 or 6 bits is no whole byte.
    let shape = if dtype.array_bytes(&shape).is_some() { shape } else { vec![8] };
    Made::new(rng, name, dtype, &shape)
}
