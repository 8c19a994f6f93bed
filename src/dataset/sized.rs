//! Shards that begin with the place of every sample, as those of MDS and LitData do.
//!
//! ```text
//! u32 samples n    u32 offset[n + 1], from the start of the file    what the format likes    samples
//! sample:  u32 size of each part that is not fixed    the parts, one after another
//! ```
//! Where at most one part varies, samples are not read at all: its size is what the others leave.

use std::path::Path;

use super::body::Body;
use super::builder::Builder;
use super::parse::{Problem, u32_at, u32s};
use super::table::{Bound, Cells, Entry, Numbers, Table};
use super::window::Window;
use crate::error::{Error, Result};
use crate::file::{open_file, read_at};

/// How large a part of a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// As large in every sample, and not stored.
    Fixed(u64),
    /// Stored in front of each sample.
    Stored,
    /// Stored, but always this.
    StoredFixed(u64),
    /// The whole sample; the only part.
    Whole,
}

/// How the parts of a shard's samples lie.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    sizes: Vec<Size>,
    /// The sizes in front of each sample, in bytes.
    head_bytes: u64,
    /// All parts of known size together.
    fixed_bytes: u64,
    /// Parts of no known size.
    varying: usize,
}

impl Parts {
    pub(super) fn new(sizes: Vec<Size>) -> Parts {
        let stored = |size: &&Size| matches!(size, Size::Stored | Size::StoredFixed(_));
        let head_bytes = 4 * sizes.iter().filter(stored).count() as u64;
        let fixed_bytes = sizes.iter().filter_map(Size::known).fold(0, u64::saturating_add);
        let varying = sizes.iter().filter(|size| size.known().is_none()).count();
        Parts { sizes, head_bytes, fixed_bytes, varying }
    }

    /// The bytes that vary in a sample between two offsets.
    fn rest(&self, from: u64, to: u64) -> Result<u64, Problem> {
        let rest = (to - from).checked_sub(self.head_bytes).and_then(|body| body.checked_sub(self.fixed_bytes));
        rest.filter(|&rest| self.varying > 0 || rest == 0).ok_or_else(|| wrong(from, to))
    }

    /// Where the parts of the sample between two offsets lie. `head` is its first `head_bytes`.
    fn of_sample(&self, head: &[u8], from: u64, to: u64, mut each: impl FnMut(u16, Entry)) -> Result<(), Problem> {
        let rest = self.rest(from, to)?;
        let mut stored = u32s(head).map(u64::from);
        let mut next = || stored.next().ok_or_else(|| wrong(from, to));
        let mut offset = from + self.head_bytes;
        let mut varied = 0;
        for (part, size) in self.sizes.iter().enumerate() {
            let len = match *size {
                Size::Fixed(bytes) => bytes,
                Size::StoredFixed(bytes) if next()? != bytes => return Err(wrong(from, to)),
                Size::StoredFixed(bytes) => bytes,
                Size::Stored => next()?,
                Size::Whole => rest,
            };
            varied += if size.known().is_none() { len } else { 0 };
            if varied > rest {
                return Err(wrong(from, to));
            }
            each(part as u16, Entry { offset, len });
            offset += len;
        }
        if varied == rest { Ok(()) } else { Err(wrong(from, to)) }
    }

    /// Columns over offsets, where at most one part varies.
    fn between(&self) -> Vec<Cells> {
        let edges = Numbers { at: 4, stride: 4, wide: false, unit: 1 };
        // Saturating: where sizes come to more than a file can hold, no sample passes `rest`, but there may be none.
        let (mut before, mut after) = (Some(self.head_bytes), self.fixed_bytes);
        let column = |size: &Size| {
            let start = before.map_or(Bound::BeforeLast(after), Bound::AfterFirst);
            match size.known() {
                Some(bytes) => {
                    after = after.saturating_sub(bytes);
                    before = before.map(|before| before.saturating_add(bytes));
                }
                None => before = None,
            }
            let end = before.map_or(Bound::BeforeLast(after), Bound::AfterFirst);
            Cells::Between { edges, start, end }
        };
        self.sizes.iter().map(column).collect()
    }
}

impl Size {
    fn known(&self) -> Option<u64> {
        match self {
            Size::Fixed(bytes) | Size::StoredFixed(bytes) => Some(*bytes),
            Size::Stored | Size::Whole => None,
        }
    }
}

fn wrong(from: u64, to: u64) -> Problem {
    let bytes = to - from;
    Problem::new(
        from,
        format!("the sizes of a sample's parts do not add up to its {bytes} bytes: the shard is damaged"),
    )
}

/// A shard whose samples have their places.
pub(super) struct Placed {
    pub(super) bytes: u64,
    pub(super) table: Table,
    /// Of each part: its size, where all samples here agree.
    pub(super) fixed_bytes: Vec<Option<u64>>,
}

/// Reads where the samples of a shard lie, of which there should be so many.
pub(super) fn place(path: &Path, samples: u64, parts: &Parts) -> Result<Placed> {
    let (file, bytes) = open_file(path)?;
    let Some(head_bytes) = head_bytes(samples).filter(|&head| head <= bytes) else {
        let problem = format!("{bytes} bytes, and the index tells of {samples} samples: the shard was truncated");
        return Err(Error::format(path, None, problem));
    };
    let mut head = vec![0; head_bytes as usize];
    let got = read_at(&file, path, 0, &mut head)?;
    check_head(&head[..got], samples, bytes).map_err(|problem| problem.of(path))?;
    if parts.varying > 1 {
        return read_sizes(path, bytes, &head, parts);
    }
    // One size may vary; it does not where all samples are as long.
    let mut rest = None;
    let mut same = true;
    for (from, to) in offsets(&head) {
        let own = parts.rest(from, to).map_err(|problem| problem.of(path))?;
        same &= *rest.get_or_insert(own) == own;
    }
    let fixed_bytes = parts.sizes.iter().map(|size| size.known().or(rest.filter(|_| same))).collect();
    let table = Table::over(Body::owned(head), samples, parts.between())?;
    Ok(Placed { bytes, table, fixed_bytes })
}

fn read_sizes(path: &Path, bytes: u64, head: &[u8], parts: &Parts) -> Result<Placed> {
    let mut window = Window::open(path)?;
    let mut builder = Builder::default();
    let mut sizes = Vec::new();
    for (from, to) in offsets(head) {
        parts.rest(from, to).map_err(|problem| problem.of(path))?;
        window.read(from, parts.head_bytes, &mut sizes)?;
        builder.begin_sample();
        let each = |part, entry| builder.push(part, entry);
        parts.of_sample(&sizes, from, to, each).map_err(|problem| problem.of(path))?;
    }
    let any = builder.samples() > 0;
    let fixed_bytes = (0..parts.sizes.len()).map(|part| any.then(|| builder.fixed_bytes(part)).flatten()).collect();
    Ok(Placed { bytes, table: builder.build(), fixed_bytes })
}

/// The bytes in front of a shard's samples, at the least, if it holds so many.
fn head_bytes(samples: u64) -> Option<u64> {
    samples.checked_add(2)?.checked_mul(4)
}

/// Each sample's start and end, of a head that was checked.
fn offsets(head: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let numbers = |from: usize| u32s(&head[from..]).map(u64::from);
    numbers(4).zip(numbers(8))
}

/// Checks the first [`head_bytes`] of a shard of `file_bytes`: offsets go up, and end where the file does.
fn check_head(head: &[u8], samples: u64, file_bytes: u64) -> Result<(), Problem> {
    let found = u32_at(head, 0).map(u64::from);
    if found != Some(samples) || head_bytes(samples) != Some(head.len() as u64) {
        let found = found.map_or("none".into(), |found| found.to_string());
        let problem = format!("the index tells of {samples} samples, and the shard of {found}: it is another's");
        return Err(Problem::new(0, problem));
    }
    let mut before = head.len() as u64;
    for (i, offset) in u32s(&head[4..]).map(u64::from).enumerate() {
        let last = i as u64 == samples;
        if offset < before || offset > file_bytes || (last && offset != file_bytes) {
            let what = if last { "the last sample ends".into() } else { format!("sample {i} starts") };
            let problem = format!(
                "{what} at byte {offset}, and should between bytes {before} and {file_bytes}, where the file ends: it was \
                 truncated or damaged"
            );
            return Err(Problem::new(4 + 4 * i as u64, problem));
        }
        before = offset;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Size::*;

    /// MDS: columns i: int and s: str; samples (7, "ab") and (-1, "").
    fn vector() -> Vec<u8> {
        let config = "{\"column_encodings\": [\"int\", \"str\"], \"column_names\": [\"i\", \"s\"], \"column_sizes\": \
                      [8, null], \"compression\": null, \"format\": \"mds\", \"hashes\": [], \"size_limit\": 67108864, \
                      \"version\": 2}";
        assert_eq!(config.len(), 181);
        let mut bytes = [2u32, 0xc5, 0xd3, 0xdf].map(u32::to_le_bytes).concat();
        bytes.extend(config.bytes());
        bytes.extend(b"\x02\0\0\0\x07\0\0\0\0\0\0\0ab\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
        bytes
    }

    fn parts(bytes: &[u8], samples: u64, sizes: &[Size]) -> Result<Vec<Vec<Vec<u8>>>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        let placed = place(&path, samples, &Parts::new(sizes.into()))?;
        let part = |row, part| {
            let entry = placed.table.cell(row, part, placed.bytes).unwrap().unwrap();
            bytes[entry.offset as usize..][..entry.len as usize].to_vec()
        };
        Ok((0..samples).map(|row| (0..sizes.len()).map(|own| part(row, own)).collect()).collect())
    }

    #[test]
    fn the_vectors_of_streaming_and_litdata_are_read() {
        let seven = [7i64.to_le_bytes().to_vec(), b"ab".to_vec()];
        let none = [(-1i64).to_le_bytes().to_vec(), vec![]];
        assert_eq!(vector().len(), 223);
        assert_eq!(parts(&vector(), 2, &[Fixed(8), Stored]).unwrap(), [seven, none]);
        let mut litdata = [2u32, 16, 29, 40].map(u32::to_le_bytes).concat();
        litdata.extend(b"\x02\0\0\0\x03\0\0\0aabbb\x02\0\0\0\x01\0\0\0ccd");
        let text = |text: &str| text.as_bytes().to_vec();
        let want = [[text("aa"), text("bbb")], [text("cc"), text("d")]];
        assert_eq!(parts(&litdata, 2, &[Stored, Stored]).unwrap(), want);
        assert_eq!(parts(&litdata, 2, &[StoredFixed(2), Stored]).unwrap(), want, "the first is not read");
        assert!(parts(&litdata, 2, &[StoredFixed(3), Stored, Stored]).is_err());
        let whole = parts(&litdata, 2, &[Whole]).unwrap();
        assert_eq!((whole[0][0].len(), whole[1][0].len()), (13, 11));
    }

    #[test]
    fn parts_lie_before_and_behind_the_one_that_varies() {
        // a fixed, b varying, c fixed, d stored though fixed: 2, ?, 3, 1 bytes.
        let sample =
            |b: &str| [&(b.len() as u32).to_le_bytes()[..], &[1, 0, 0, 0], b"aa", b.as_bytes(), b"cccd"].concat();
        let (one, two) = (sample("xyz"), sample(""));
        let mut bytes =
            [2u32, 16, 16 + one.len() as u32, 16 + (one.len() + two.len()) as u32].map(u32::to_le_bytes).concat();
        bytes.extend([one, two].concat());
        let sizes = [Fixed(2), Stored, Fixed(3), StoredFixed(1)];
        let want = |b: &str| ["aa", b, "ccc", "d"].map(|part| part.as_bytes().to_vec());
        assert_eq!(parts(&bytes, 2, &sizes).unwrap(), [want("xyz"), want("")]);
    }

    #[test]
    fn sizes_in_front_of_a_sample_are_checked() {
        let of = |sizes: &[Size], head: &[u32], len: u64| {
            let mut found = Vec::new();
            let head: Vec<u8> = head.iter().flat_map(|size| size.to_le_bytes()).collect();
            let each = |_, entry: Entry| found.push((entry.offset, entry.len));
            Parts::new(sizes.into()).of_sample(&head, 100, 100 + len, each).map(|()| found)
        };
        assert_eq!(of(&[Stored, Fixed(2), Stored], &[3, 4], 17), Ok(vec![(108, 3), (111, 2), (113, 4)]));
        for (sizes, head, len) in [
            (&[Stored, Fixed(2), Stored][..], &[3, 5][..], 17),
            (&[Stored, Fixed(2), Stored], &[3, 3], 17),
            (&[Stored, Fixed(2), Stored], &[u32::MAX, u32::MAX], 17),
            (&[Stored, StoredFixed(2), Stored], &[3, 3, 2], 19),
            (&[Stored, Stored], &[0], 4),
            (&[Stored, Stored], &[0], 8),
            (&[Fixed(2), Fixed(3)], &[], 6),
            (&[Fixed(2), Fixed(u64::MAX)], &[], 1),
            (&[Fixed(8), Stored], &[0], 11),
        ] {
            assert_eq!(of(sizes, head, len).unwrap_err().at, 100, "{sizes:?} {head:?} {len}");
        }
    }

    #[test]
    fn a_head_that_lies_is_refused() {
        let whole = vector();
        let of = |bytes: &[u8], samples| parts(bytes, samples, &[Fixed(8), Stored]).map(|_| ()).map_err(|e| e.offset());
        for (at, value, wrong) in [
            (0, 3u32, 0),
            (4, 15, 4),
            (4, 212, 197),
            (8, 196, 8),
            (8, 224, 8),
            (12, 224, 12),
            (12, 222, 12),
            (8, 222, 211),
        ] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let want = if (at, value) == (4, 212) { Some(8) } else { Some(wrong) };
            let want = if (at, value) == (8, 222) { Some(222) } else { want };
            assert_eq!(of(&bytes, 2), Err(want), "{at} {value}");
        }
        for cut in 0..223 {
            assert!(of(&whole[..cut], 2).is_err(), "{cut}");
        }
        for samples in [0, 1, 3, u64::MAX, u64::MAX / 4] {
            assert!(of(&whole, samples).is_err(), "{samples}");
        }
        let none = [0, 0, 0, 0, 8, 0, 0, 0];
        for sizes in [&[Fixed(8), Stored][..], &[Fixed(u64::MAX), Fixed(u64::MAX), Stored], &[Stored, Fixed(u64::MAX)]]
        {
            assert!(parts(&none, 0, sizes).unwrap().is_empty());
        }
    }
}
