//! The bytes that a table's numbers are in: just built, or mapped from an index file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::file::open_file;
use crate::memory::Mapping;

/// What a checksum of a sidecar covers: large enough that checksums are few, small enough to be checked on first use.
pub(super) const SUM_BYTES: usize = 64 << 10;

/// Little-endian numbers by their place. Whoever looks one up learns of damage there and then.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    sums: Option<Sums>,
    /// The index file, for messages.
    path: Option<Arc<Path>>,
}

/// Where the bytes are.
#[derive(Debug)]
pub(super) enum Bytes {
    Owned(Box<[u8]>),
    Mapped(Mapping),
}

/// CRC32C of each block of [`SUM_BYTES`] from byte `from` on, checked when a number in the block is first asked for.
#[derive(Debug)]
struct Sums {
    from: usize,
    sums: Box<[u32]>,
    /// A bit per block: it was found to be right.
    right: Box<[AtomicU64]>,
}

impl Body {
    /// Of bytes just made.
    pub(super) fn owned(bytes: Vec<u8>) -> Arc<Body> {
        Arc::new(Body { bytes: Bytes::Owned(bytes.into()), sums: None, path: None })
    }

    /// Of a format's own index file, which has no checksums.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub(super) fn mapped(path: &Path) -> Result<Arc<Body>> {
        let (file, _) = open_file(path)?;
        let map = Mapping::of(&file).map_err(|e| Error::open(path, &e))?;
        Ok(Arc::new(Body { bytes: Bytes::Mapped(map), sums: None, path: Some(path.into()) }))
    }

    /// Of a sidecar, whose numbers begin at byte `from`, with the checksums that its head has.
    pub(super) fn summed(bytes: Bytes, path: &Path, from: usize, sums: Box<[u32]>) -> Arc<Body> {
        let right = sums.chunks(64).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Body { bytes, sums: Some(Sums { from, sums, right }), path: Some(path.into()) })
    }

    /// The bytes, where they were just made.
    pub(super) fn just_made(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Owned(bytes) if self.sums.is_none() => Some(bytes),
            _ => None,
        }
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes.len(),
            Bytes::Mapped(map) => map.len(),
        }
    }

    /// The `u32` at byte `at`.
    #[inline]
    pub(super) fn u32(&self, at: u64) -> Result<u32> {
        self.number(at).map(u32::from_le_bytes)
    }

    /// The `u64` at byte `at`.
    #[inline]
    pub(super) fn u64(&self, at: u64) -> Result<u64> {
        self.number(at).map(u64::from_le_bytes)
    }

    #[inline]
    fn number<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        let place = usize::try_from(at).unwrap_or(usize::MAX);
        if let Some(sums) = &self.sums {
            self.check(sums, place)?;
            self.check(sums, place.saturating_add(N - 1))?;
        }
        match self.copy_out(place, &mut out) {
            true => Ok(out),
            false => Err(self.damaged(at, format!("a number of {N} bytes lies behind its {} bytes", self.len()))),
        }
    }

    fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        match &self.bytes {
            Bytes::Owned(bytes) => {
                let part = at.checked_add(out.len()).and_then(|end| bytes.get(at..end));
                part.map(|part| out.copy_from_slice(part)).is_some()
            }
            Bytes::Mapped(map) => map.copy_out(at, out),
        }
    }

    /// That the block with byte `at` is as it was written.
    #[inline]
    fn check(&self, sums: &Sums, at: usize) -> Result<()> {
        let block = at.wrapping_sub(sums.from) / SUM_BYTES;
        match sums.right.get(block / 64) {
            Some(right) if right.load(Ordering::Relaxed) >> (block % 64) & 1 == 1 => Ok(()),
            _ => self.check_block(sums, block),
        }
    }

    #[cold]
    fn check_block(&self, sums: &Sums, block: usize) -> Result<()> {
        // Outside of what is summed there is nothing to look up.
        let Some(&want) = sums.sums.get(block) else { return Ok(()) };
        let start = sums.from + block * SUM_BYTES;
        let mut bytes = vec![0; SUM_BYTES.min(self.len().saturating_sub(start))];
        self.copy_out(start, &mut bytes);
        let got = crc32c::crc32c(&bytes);
        if got != want {
            let problem =
                format!("{} bytes of the index have the CRC32C {got:#010x} and not {want:#010x}", bytes.len());
            return Err(self.damaged(start as u64, problem));
        }
        sums.right[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        Ok(())
    }

    /// That every block is as it was written.
    pub(super) fn check_all(&self) -> Result<()> {
        let Some(sums) = &self.sums else { return Ok(()) };
        (0..sums.sums.len()).try_for_each(|block| self.check_block(sums, block))
    }

    /// The error for a number that cannot be.
    pub(super) fn damaged(&self, at: u64, problem: String) -> Error {
        let path = self.path.as_deref().unwrap_or(Path::new("the index in memory"));
        let remedy = match self.sums {
            Some(_) => "the sidecar is damaged: make it anew with `strait index`, or remove it",
            None => "the index is damaged, or belongs to another shard: restore it",
        };
        Error::format(path, at, format!("{problem}; {remedy}"))
    }
}
