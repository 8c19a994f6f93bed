//! What has to be read, and to be right, before tensors are handed over.

use super::{Check, Item, Plan};
use crate::error::{Error, Result};
use crate::weights::rows::Rows;
use crate::weights::{Checkpoint, Manifest, TensorDigest, TensorInfo};

impl Plan {
    /// What has to be read, whole, so that a shard's tensors can be checked: those at the places `own` are wanted, and items
    /// from `first` on are theirs. Of all of them the header has to say what the manifest says.
    pub(super) fn add_checks(
        &mut self,
        checkpoint: &Checkpoint,
        manifest: &Manifest,
        shard: usize,
        own: &[usize],
        first: usize,
    ) -> Result<()> {
        let file = &checkpoint.files()[shard];
        let known = manifest.file(&file.path);
        if let Some(bytes) = known.and_then(|known| known.bytes).filter(|&bytes| bytes != file.bytes) {
            let problem = format!("the file has {} bytes, and the manifest says {bytes}", file.bytes);
            return Err(Error::Corrupt { path: file.path.clone(), offset: 0, bytes: file.bytes, problem });
        }
        let entry = |place: usize| known.and_then(|known| known.tensor(&checkpoint.tensors()[place].name));
        for &place in own {
            let TensorInfo { dtype, shape, offset, bytes, .. } = &checkpoint.tensors()[place];
            if let Some(problem) = entry(place).and_then(|entry| entry.differs(*dtype, shape, *offset, *bytes)) {
                return Err(Error::Corrupt { path: file.path.clone(), offset: *offset, bytes: *bytes, problem });
            }
        }
        if self.items.len() == first {
            return Ok(()); // nothing of it is read, so there is nothing to sum up
        }
        let mut whole_file = false;
        for item in &mut self.items[first..] {
            let place = item.place.expect("no fillers yet");
            let tensor = &checkpoint.tensors()[place];
            match entry(place) {
                Some(&TensorDigest { digest, .. }) => {
                    let (offset, bytes) = (tensor.offset, tensor.bytes);
                    item.check = Some(self.checks.len());
                    let targets = item.targets.clone();
                    self.checks.push(Check { digest, shard, place: Some(place), targets, offset, bytes });
                }
                None => whole_file = true,
            }
        }
        if !whole_file {
            return Ok(());
        }
        let digest = known.and_then(|known| known.digest).ok_or_else(|| {
            let unknown = self.items[first..].iter().find(|item| item.check.is_none()).and_then(|item| item.place);
            let name = unknown.map_or("a tensor", |place| &checkpoint.tensors()[place].name);
            let path = file.path.display();
            Error::config("verify", format!("the manifest has no digest of `{name}` in {path}, nor of that file"))
        })?;
        self.file_checks[shard] = Some(self.checks.len());
        let targets = self.items[first].targets.start..self.targets.len();
        self.checks.push(Check { digest, shard, place: None, targets, offset: 0, bytes: file.bytes });
        self.fill(first, file.bytes);
        Ok(())
    }

    /// Items for all bytes of a file that are none's yet.
    fn fill(&mut self, first: usize, file_bytes: u64) {
        let own: Vec<Item> = self.items.drain(first..).collect();
        let (mut end, mut target) = (0, own.first().map_or(self.targets.len(), |item| item.targets.start));
        let filler = |from: u64, to: u64, target: usize| {
            let extents = Rows::whole(from, to - from).into();
            Item { place: None, extents, direct: false, targets: target..target, check: None }
        };
        for item in own {
            if item.extents.begin() > end {
                self.items.push(filler(end, item.extents.begin(), target));
            }
            (end, target) = (item.extents.end(), item.targets.end);
            self.items.push(item);
        }
        if end < file_bytes {
            self.items.push(filler(end, file_bytes, target));
        }
    }
}
