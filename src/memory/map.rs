//! A read-only view of an index file, for numbers that are looked up here and there.

use std::fs::File;

use memmap2::MmapRaw;

/// A file's bytes, mapped. Payload is never mapped: only indexes are.
///
/// The file may be changed by others while it is mapped, so bytes are copied out one number at a time and never
/// borrowed. One that is *cut short* meanwhile makes the kernel raise SIGBUS on access; strait itself never writes to a
/// mapped file, it renames new ones into place.
#[derive(Debug)]
pub struct Mapping {
    map: Option<MmapRaw>,
}

impl Mapping {
    /// Maps the whole file. Nothing is read before it is asked for.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn of(file: &File) -> std::io::Result<Mapping> {
        // An empty file cannot be mapped.
        let map = match file.metadata()?.len() {
            0 => None,
            _ => Some(memmap2::MmapOptions::new().map_raw_read_only(file)?),
        };
        Ok(Mapping { map })
    }

    /// The file's size when it was mapped.
    pub fn len(&self) -> usize {
        self.map.as_ref().map_or(0, MmapRaw::len)
    }

    /// Whether the file was empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the bytes from `at` on; `false`, and nothing copied, where they do not all lie inside the file.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) -> bool {
        let inside = at.checked_add(out.len()).is_some_and(|end| end <= self.len());
        if let Some(map) = self.map.as_ref().filter(|_| inside) {
            // SAFETY: the range lies inside the mapping, which lives as long as `self`; `out` is ours alone, so they do
            // not overlap. No reference to the mapped bytes is made: another process may change them.
            unsafe { std::ptr::copy_nonoverlapping(map.as_ptr().add(at), out.as_mut_ptr(), out.len()) };
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_from_inside_the_file_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = Mapping::of(file.as_file()).unwrap();
        assert!(empty.is_empty() && empty.copy_out(0, &mut []) && !empty.copy_out(0, &mut [0]));
        std::fs::write(file.path(), b"0123456789").unwrap();
        let mapping = Mapping::of(file.as_file()).unwrap();
        let mut out = [0; 4];
        assert!(mapping.copy_out(6, &mut out) && &out == b"6789");
        for at in [7, 10, usize::MAX - 3, usize::MAX] {
            assert!(!mapping.copy_out(at, &mut out), "{at}");
        }
    }
}
