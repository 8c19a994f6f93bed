//! What a batch looks like: ragged fields, windows, arrays.

use super::Batch;
use crate::dataset::varints;
use crate::device::DevicePtr;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::order::Piece;
use crate::plan::Plan;
use crate::selection::Dense;

/// A window of tokens on the device: pieces of documents, to be read one after the other.
#[derive(Clone, Copy)]
pub struct WindowView<'a> {
    /// Which part of which document each piece is, in order. In raw files a document's number is its shard's.
    pub pieces: &'a [Piece],
    /// Where each piece starts in the window, in tokens, and the window's length: one more than pieces, the first is 0.
    /// What attention kernels for sequences of several lengths take.
    pub cu_seqlens: &'a [u32],
    /// Where the pieces' bytes are: one view for each. Pieces of neighbouring documents may lie apart.
    pub bytes: FieldView<'a>,
}

/// One field of every sample of a batch: a ragged array in device memory.
///
/// Sample `i` has `lengths()[i]` bytes at `device_ptr() + offsets()[i]`; a sample that lacks the field has the length
/// [`FieldView::ABSENT`].
#[derive(Clone, Copy)]
pub struct FieldView<'a> {
    pub(super) batch: &'a Batch,
    pub(super) offsets: &'a [u64],
    pub(super) lengths: &'a [u64],
    pub(super) dtype: Option<DType>,
    /// See [`Field::varints`](crate::dataset::Field::varints).
    pub(super) varints: bool,
    /// Number of the first view, if their bytes are kept on the host.
    pub(super) kept: Option<usize>,
}

impl<'a> FieldView<'a> {
    /// The length of a field that a sample does not have.
    pub const ABSENT: u64 = Plan::ABSENT;

    /// What offsets count from.
    pub fn device_ptr(&self) -> DevicePtr {
        self.batch.device_ptr()
    }

    /// Byte offsets from [`device_ptr`](FieldView::device_ptr), one per sample.
    pub fn offsets(&self) -> &'a [u64] {
        self.offsets
    }

    /// Lengths in bytes, one per sample.
    pub fn lengths(&self) -> &'a [u64] {
        self.lengths
    }

    /// Copies the bytes of sample `index` of the batch into `target`, from whatever device they are on, and waits for it;
    /// false if the sample lacks the field. For checks and small values: this is not the data path.
    ///
    /// # Panics
    /// If `index` is not less than the batch's length.
    pub fn read_back(&self, index: usize, target: &mut Vec<u8>) -> Result<bool> {
        let (offset, len) = (self.offsets[index], self.lengths[index]);
        if len == Self::ABSENT {
            target.clear();
            return Ok(false);
        }
        self.batch.read_back(self.device_ptr() + offset, len, target).map(|()| true)
    }

    /// The bytes of sample `index` of the batch; `None` if it lacks the field.
    ///
    /// Those of fields [on the host](crate::Builder::on_host) are there on every device, without a wait. Of others only
    /// where the host can address the device's memory; elsewhere this is an error ([`Error::Config`]).
    ///
    /// # Panics
    /// If `index` is not less than the batch's length.
    pub fn host_bytes(&self, index: usize) -> Result<Option<&'a [u8]>> {
        let (offset, len) = (self.offsets[index], self.lengths[index]);
        if len == Self::ABSENT {
            return Ok(None);
        }
        match self.kept.map(|first| self.batch.body().kept.get(first + index, len)) {
            Some(Some(bytes)) => Ok(Some(bytes)),
            Some(None) => {
                let problem =
                    format!("{len} bytes found no room on the host; read them back, or leave this field there");
                Err(Error::config("on_host", problem))
            }
            None => self.batch.host(offset, len).map(Some),
        }
    }

    /// The same as text. [`Error::Config`] where it is not UTF-8.
    pub fn text(&self, index: usize) -> Result<Option<&'a str>> {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|e| Error::config("text", format!("no UTF-8: {e}")));
        self.host_bytes(index)?.map(text).transpose()
    }

    /// The same as a whole number: of the field's own type where that is known, the one varint of a `tf.train.Example`,
    /// else as decimal text, as WebDataset writes `cls`. [`Error::Config`] where it is none, several, or does not fit.
    pub fn integer(&self, index: usize) -> Result<Option<i64>> {
        if self.varints {
            return self.host_bytes(index)?.map(only_varint).transpose();
        }
        self.host_bytes(index)?.map(|bytes| number(bytes, self.dtype)).transpose()
    }
}

fn only_varint(bytes: &[u8]) -> Result<i64> {
    let numbers = varints(bytes);
    match numbers.as_deref() {
        Some(&[number]) => Ok(number),
        Some(several) => {
            let problem = format!("{} integers, not one: decode the bytes with dataset::varints", several.len());
            Err(Error::config("integer", problem))
        }
        None => Err(Error::config("integer", "the bytes are no varints".to_owned())),
    }
}

fn number(bytes: &[u8], dtype: Option<DType>) -> Result<i64> {
    let wrong = |problem: String| Error::config("integer", problem);
    let mut word = [0; 8];
    let known = dtype.filter(|dtype| dtype.bytes() == Some(bytes.len() as u64) && bytes.len() <= 8);
    if known.is_some() {
        word[..bytes.len()].copy_from_slice(bytes);
    }
    let unsigned = u64::from_le_bytes(word);
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    match known {
        Some(DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64) => {
            i64::try_from(unsigned).map_err(|_| wrong(format!("{unsigned} does not fit 63 bits")))
        }
        Some(DType::I8 | DType::I16 | DType::I32 | DType::I64) => Ok((unsigned << unused) as i64 >> unused),
        Some(other) => Err(wrong(format!("{other} is no whole number"))),
        None => {
            let text = std::str::from_utf8(bytes).ok().map(str::trim);
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(32)]).into_owned();
            text.and_then(|text| text.parse().ok()).ok_or_else(|| wrong(format!("{shown:?} is no whole number")))
        }
    }
}

/// One field of every sample of a batch as one array in device memory: row-major, one sample after the other, without
/// gaps. What a padded place repeats is a row too.
///
/// Valid as long as the batch, and there when its views are: see [`Batch::wait_on`].
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub(super) batch: &'a Batch,
    pub(super) array: usize,
}

impl<'a> Tensor<'a> {
    /// First byte: a multiple of the elements' size, and of 4096 unless the samples lay together as they were read. 0 if
    /// there is no sample.
    pub fn device_ptr(&self) -> DevicePtr {
        let body = self.batch.body();
        body.region.as_ref().map_or(0, |region| region.base() + body.plan.array_at(self.array))
    }

    /// What its elements are.
    pub fn dtype(&self) -> DType {
        self.dense().dtype
    }

    /// Its dimensions, the outermost first: samples, then those of one sample; or windows, tokens of a window.
    pub fn shape(&self) -> &'a [u64] {
        &self.batch.body().shapes[self.array]
    }

    /// How many elements further the next one along each dimension is.
    pub fn strides(&self) -> impl Iterator<Item = u64> + 'a {
        let shape = self.shape();
        (1..=shape.len()).map(|inner| shape[inner..].iter().product())
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.shape()[0] * self.dense().row_bytes
    }

    /// Its bytes, where the host can address the device's memory; elsewhere an error ([`Error::Config`]).
    pub fn host_bytes(&self) -> Result<&'a [u8]> {
        self.batch.host(self.batch.body().plan.array_at(self.array), self.bytes())
    }

    /// Copies it into `target`, from whatever device it is on, and waits for that: for checks, not for the data path.
    pub fn read_back(&self, target: &mut Vec<u8>) -> Result<()> {
        self.batch.read_back(self.device_ptr(), self.bytes(), target)
    }

    fn dense(&self) -> &'a Dense {
        &self.batch.shared.dense[self.array]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_of_their_type_or_text() {
        assert_eq!(number(b" 42\n", None).unwrap(), 42);
        assert_eq!(number(b"-7", None).unwrap(), -7);
        assert_eq!(number(&[0xFE, 0xFF], Some(DType::I16)).unwrap(), -2);
        assert_eq!(number(&[0xFE, 0xFF], Some(DType::U16)).unwrap(), 65534);
        assert_eq!(number(&i64::MIN.to_le_bytes(), Some(DType::I64)).unwrap(), i64::MIN);
        assert_eq!(number(&[200], Some(DType::U8)).unwrap(), 200);
        let error = |bytes: &[u8], dtype| number(bytes, dtype).unwrap_err().to_string();
        assert!(error(b"", None).contains("\"\" is no whole number"));
        assert!(error(b"cat", None).contains("\"cat\" is no whole number"));
        assert!(error(&u64::MAX.to_le_bytes(), Some(DType::U64)).contains("does not fit"));
        assert!(error(&1f32.to_le_bytes(), Some(DType::F32)).contains("f32 is no whole number"));
    }
}
