//! What a sample's bytes must be: read from the shard by plain pread, far from every part that is under test.

use std::fs::File;
use std::os::unix::fs::FileExt;

use strait::Dataset;

use crate::failure::{Failure, Result};
use crate::linux::cache;

/// Compares delivered bytes with the files of a dataset.
pub(super) struct Oracle {
    dataset: Dataset,
    files: Vec<File>,
    want: Vec<u8>,
    pub(super) bytes: u64,
}

impl Oracle {
    pub(super) fn new(dataset: Dataset) -> Result<Oracle> {
        let open = |shard: &strait::dataset::Shard| {
            File::open(&shard.path).map_err(|error| Failure::file("open", &shard.path, &error))
        };
        let files = dataset.shards().iter().map(open).collect::<Result<_>>()?;
        Ok(Oracle { dataset, files, want: Vec::new(), bytes: 0 })
    }

    /// Fails with the first byte that differs.
    pub(super) fn check(&mut self, sample: u64, field: usize, got: &[u8]) -> Result<()> {
        let Some(extent) = self.dataset.extent(sample, field) else {
            return self.differs(sample, field, "it was delivered, and the sample has no such field".into());
        };
        self.want.resize(extent.len as usize, 0);
        let path = &self.dataset.shards()[extent.shard as usize].path;
        let file = &self.files[extent.shard as usize];
        file.read_exact_at(&mut self.want, extent.offset).map_err(|e| Failure::file("read", path, &e))?;
        if got.len() as u64 != extent.len {
            return self.differs(sample, field, format!("{} bytes were delivered, it has {}", got.len(), extent.len));
        }
        if got != self.want {
            let at = got.iter().zip(&self.want).position(|(got, want)| got != want).expect("they differ");
            return self.differs(sample, field, format!("the first wrong byte is number {at}"));
        }
        self.bytes += extent.len;
        Ok(())
    }

    fn differs(&self, sample: u64, field: usize, how: String) -> Result<()> {
        let field = &self.dataset.fields()[field].name;
        Err(Failure::new(
            format!("sample {sample}, field {field}: delivered bytes differ from the file"),
            how,
            "this is a bug in strait or broken hardware: please report it with the output of strait doctor --json",
        ))
    }

    /// Its reads have filled the page cache; the measurement wants it empty.
    pub(super) fn finish(self) -> u64 {
        for shard in self.dataset.shards() {
            let _ = cache::evict(&shard.path);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_a_short_sample_and_the_right_bytes_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        std::fs::write(&path, b"aaaabbbbcccc").unwrap();
        let mut oracle = Oracle::new(Dataset::records(&[&path], 4).unwrap()).unwrap();
        oracle.check(1, 0, b"bbbb").unwrap();
        assert!(oracle.check(1, 0, b"bbxb").unwrap_err().why.contains("number 2"));
        assert!(oracle.check(2, 0, b"ccc").unwrap_err().why.contains("3 bytes"));
        assert_eq!(oracle.finish(), 4);
    }
}
