//! Arrays whose elements change on the way: each value of each kind, to the bit. Small enough for compute-sanitizer.

use std::path::Path;

use strait::order::Shuffle;
use strait::sim::Rng;
use strait::{Builder, DType, Dataset, Device, Loader};

use super::{Outcome, nearest};

/// What becomes of an array's elements.
pub(crate) struct Change {
    pub(crate) from: DType,
    pub(crate) to: DType,
    scale: Option<(f32, f32)>,
    /// Where there are few: of each that can be stored what it becomes, one after the other.
    table: Option<Vec<u8>>,
}

impl Change {
    pub(crate) fn new(from: DType, to: DType, scale: Option<(f32, f32)>) -> Change {
        let all: Option<Vec<u8>> = match from {
            DType::U8 => Some((0..=u8::MAX).collect()),
            DType::U16 => Some((0..=u16::MAX).flat_map(u16::to_le_bytes).collect()),
            _ => None,
        };
        Change { from, to, scale, table: all.map(|all| nearest::cast(from, to, scale, &all)) }
    }

    /// One that fits records of so many bytes.
    pub(crate) fn any(rng: &mut Rng, record: u64) -> Change {
        let wide = [DType::I32, DType::I64][rng.below(2) as usize];
        let fraction = [DType::F16, DType::BF16, DType::F32][rng.below(3) as usize];
        match (rng.below(4), record % 4, record % 2) {
            (0, 0, _) => Change::new([DType::U32, DType::I32][rng.below(2) as usize], DType::I64, None),
            (0 | 1, _, 0) => Change::new(DType::U16, wide, None),
            (2, ..) => Change::new(DType::U8, fraction, None),
            _ => Change::new(DType::U8, fraction, Some((1.0 / (1 + rng.below(300)) as f32, -0.5))),
        }
    }

    /// Asks for it.
    pub(crate) fn ask(&self, builder: Builder, field: &str) -> Builder {
        match self.scale {
            None => builder.widen(field, self.to),
            Some((factor, bias)) => builder.scale(field, self.to, factor, bias),
        }
    }

    /// What stored elements are to become.
    pub(crate) fn of(&self, stored: &[u8]) -> Vec<u8> {
        let Some(table) = &self.table else { return nearest::cast(self.from, self.to, self.scale, stored) };
        let (item, wide) = (self.from.bytes().unwrap_or(1) as usize, self.to.bytes().unwrap_or(1) as usize);
        let number = |element: &[u8]| element.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte));
        stored.chunks(item).flat_map(|element| &table[number(element) * wide..][..wide]).copied().collect()
    }

    fn name(&self) -> String {
        match self.scale {
            None => format!("{} as {}", self.from, self.to),
            Some((factor, bias)) => format!("{} as {}, times {factor} plus {bias}", self.from, self.to),
        }
    }
}

/// Every number of 16 bits, and so every byte, in an order that is not theirs.
fn words() -> Vec<u8> {
    (0..1u32 << 16).flat_map(|i| ((i * 40_503) as u16).to_le_bytes()).collect()
}

/// Compares arrays of records and windows of tokens with what their elements should be.
pub(crate) fn check(device: &Device, directory: &Path) -> Outcome<String> {
    let directory = tempfile::tempdir_in(directory)?;
    let (path, words) = (directory.path().join("words.bin"), words());
    std::fs::write(&path, &words)?;
    let (records, tokens) = (Dataset::records(&[&path], 512)?, Dataset::records(&[&path], 2)?);
    let of = |dataset: &Dataset| Loader::builder(dataset.clone()).device(device.clone()).shuffle(Shuffle::Full);
    let (mut kinds, mut elements) = (0, 0);
    let mut all = |change: Change, builder: Builder, stride: usize, row: usize| -> Outcome {
        kinds += 1;
        elements +=
            one(&change, builder, &words, stride, row).map_err(|error| format!("{}: {error}", change.name()))?;
        Ok(())
    };
    for to in [DType::I32, DType::I64] {
        let windows = of(&tokens).tokens("record", 2).batch_size(9);
        all(Change::new(DType::U16, to, None), windows.windows(129, 128), 256, 258)?;
        all(Change::new(DType::U16, to, None), of(&tokens).tokens("record", 2).batch_size(9).pack(512), 1024, 1024)?;
    }
    for from in [DType::U32, DType::I32] {
        let typed = of(&records).array("record", from, &[128]).batch_size(16);
        all(Change::new(from, DType::I64, None), typed, 512, 512)?;
    }
    for to in [DType::F16, DType::BF16, DType::F32] {
        // The last makes numbers that are too small for a normal half.
        for scale in [None, Some((1.0 / 255.0, -0.5)), Some((-0.017, 3.0)), Some((3e-8, 0.0))] {
            let typed = of(&records).array("record", DType::U8, &[2, 256]).batch_size(11);
            all(Change::new(DType::U8, to, scale), typed, 512, 512)?;
        }
    }
    Ok(format!("{kinds} kinds, {elements} elements changed by kernels"))
}

/// Rows of `row` bytes, each `stride` bytes behind the one before: an epoch of them; how many elements there were.
fn one(change: &Change, builder: Builder, words: &[u8], stride: usize, row: usize) -> Outcome<u64> {
    let mut loader = change.ask(builder, "record").build()?;
    let (mut kept, mut stored, mut rows) = (Vec::new(), Vec::new(), 0);
    for batch in loader.epoch(0) {
        let batch = batch?;
        let array = batch.tensor("record").ok_or("records came as no array")?;
        if array.dtype() != change.to {
            return Err(format!("an array is {}", array.dtype()).into());
        }
        array.read_back(&mut kept)?;
        stored.clear();
        batch.samples().iter().for_each(|&sample| stored.extend(&words[sample as usize * stride..][..row]));
        if kept != change.of(&stored) {
            return Err("an array has wrong bytes".into());
        }
        rows += batch.samples().len();
    }
    let (wanted, changed) =
        ((words.len() - row) / stride + 1, loader.stats().bytes_cast / change.to.bytes().unwrap_or(1));
    let elements = (rows * row) as u64 / change.from.bytes().unwrap_or(1);
    match rows == wanted && changed == elements {
        true => Ok(elements),
        false => Err(format!("{rows} of {wanted} rows came, and {changed} of {elements} elements were changed").into()),
    }
}
