//! What is saved: tensors in memory, with name, type and shape.

use std::marker::PhantomData;
use std::ops::Range;

use crate::device::DevicePtr;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::safetensors::{METADATA, dtype_name};
use crate::weights::Tensor;

#[cfg(doc)]
use super::Save;

/// A tensor to be saved: dense, in C order, little-endian.
#[derive(Debug, Clone)]
pub struct SaveTensor<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) shape: &'a [u64],
    /// What dtype and shape come to; `None` if that is nothing.
    pub(super) array_bytes: Option<u64>,
    /// The length of what was given.
    pub(super) bytes: u64,
    pub(super) source: Source<'a>,
}

impl<'a> SaveTensor<'a> {
    /// A tensor in ordinary memory of the host.
    pub fn new(name: &'a str, dtype: DType, shape: &'a [u64], bytes: &'a [u8]) -> SaveTensor<'a> {
        let (array_bytes, source) = (dtype.array_bytes(shape), Source::Host(bytes));
        SaveTensor { name, dtype, shape, array_bytes, bytes: bytes.len() as u64, source }
    }

    /// A tensor in the memory of the device that is given to [`Save::new`].
    ///
    /// # Safety
    /// From `base` on, as many bytes as dtype and shape take are valid in that device's memory, and nobody writes to them
    /// or frees them, until the save returns; if it returns [`Error::Timeout`] or [`Error::Device`], until the device has
    /// come to rest. What is still on its way to them is on the stream given to [`Save::after`].
    pub unsafe fn on_device(name: &'a str, dtype: DType, shape: &'a [u64], base: DevicePtr) -> SaveTensor<'a> {
        let (array_bytes, source) = (dtype.array_bytes(shape), Source::Device(base, PhantomData));
        SaveTensor { name, dtype, shape, array_bytes, bytes: array_bytes.unwrap_or(0), source }
    }

    /// A tensor as it was loaded, under its own name; waits until it is there. It has to live on the device that is given
    /// to [`Save::new`].
    pub fn loaded(tensor: &'a Tensor) -> Result<SaveTensor<'a>> {
        tensor.wait()?;
        // SAFETY: the tensor holds its memory as long as it is borrowed, its copies have ended, and nothing writes to it.
        Ok(unsafe { SaveTensor::on_device(tensor.name(), tensor.dtype(), tensor.shape(), tensor.device_ptr()) })
    }

    /// Whether it can be saved: [`Error::Config`] as of [`Save::save`] where the format has no such name or type, or the
    /// bytes are not those of the shape.
    pub fn check(&self) -> Result<()> {
        let SaveTensor { name, dtype, shape, .. } = self;
        let bad = |problem: String| Err(Error::config("tensors", format!("tensor `{name}`: {problem}")));
        if *name == METADATA {
            return bad("the format keeps this name for itself; give it another".into());
        }
        if dtype_name(*dtype).is_none() {
            return bad(format!("safetensors has no type for {dtype}; convert it"));
        }
        match self.array_bytes {
            Some(bytes) if bytes == self.bytes => Ok(()),
            Some(bytes) => bad(format!("{dtype} {shape:?} takes {bytes} bytes, and {} were given", self.bytes)),
            None => bad(format!("{dtype} {shape:?} is no whole number of bytes, or too many")),
        }
    }
}

/// Where bytes come from.
#[derive(Debug, Clone)]
pub(super) enum Source<'a> {
    Host(&'a [u8]),
    Device(DevicePtr, PhantomData<&'a [u8]>),
    /// A part of the header.
    Header(Range<usize>),
}

impl<'a> Source<'a> {
    pub(super) fn part(&self, range: Range<u64>) -> Source<'a> {
        match self {
            Source::Host(bytes) => Source::Host(&bytes[range.start as usize..range.end as usize]),
            Source::Device(base, _) => Source::Device(base + range.start, PhantomData),
            Source::Header(whole) => {
                Source::Header(whole.start + range.start as usize..whole.start + range.end as usize)
            }
        }
    }
}
