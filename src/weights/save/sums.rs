//! Digests of what is written, on the way.

use std::path::Path;

use super::Per;
use super::layout::{Layout, Piece};
use crate::weights::{Algorithm, Digest, FileDigests, Hasher, TensorDigest};

/// The sums of one file. Windows come in file order.
pub(super) struct Sums {
    algorithm: Algorithm,
    file: Option<Hasher>,
    /// The tensor that is being summed up, and its sum so far.
    open: Option<(usize, Hasher)>,
    /// By place in the layout; those without bytes have none.
    tensors: Option<Vec<Option<Digest>>>,
}

impl Sums {
    pub(super) fn new(algorithm: Algorithm, per: Per, tensors: usize) -> Sums {
        Sums {
            algorithm,
            file: (per != Per::Tensor).then(|| Hasher::new(algorithm)),
            open: None,
            tensors: (per != Per::File).then(|| vec![None; tensors]),
        }
    }

    /// Adds the next window, which consists of `pieces`.
    pub(super) fn window<'a>(&mut self, bytes: &[u8], pieces: impl Iterator<Item = Piece<'a>>) {
        if let Some(file) = &mut self.file {
            file.update(bytes);
        }
        if self.tensors.is_none() {
            return;
        }
        for piece in pieces {
            let Some(tensor) = piece.tensor else { continue };
            if self.open.as_ref().is_none_or(|(open, _)| *open != tensor) {
                self.close();
                self.open = Some((tensor, Hasher::new(self.algorithm)));
            }
            let (_, hasher) = self.open.as_mut().expect("just opened");
            hasher.update(&bytes[piece.at..piece.at + piece.bytes]);
        }
    }

    fn close(&mut self) {
        if let (Some((tensor, hasher)), Some(tensors)) = (self.open.take(), &mut self.tensors) {
            tensors[tensor] = Some(hasher.finish());
        }
    }

    /// What was summed up, of the file that is called `path`.
    pub(super) fn finish(mut self, path: &Path, layout: &Layout<'_, '_>) -> FileDigests {
        self.close();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let empty = Digest::of(self.algorithm, &[]);
        let tensors =
            self.tensors.iter().flatten().zip(&layout.tensors).map(|(digest, (offset, tensor))| TensorDigest {
                name: tensor.name.into(),
                dtype: Some(tensor.dtype),
                shape: Some(tensor.shape.to_vec()),
                offset: *offset,
                bytes: tensor.bytes,
                digest: digest.unwrap_or(empty),
            });
        let tensors = tensors.collect();
        FileDigests { name, bytes: Some(layout.total_bytes), digest: self.file.map(Hasher::finish), tensors }
    }
}
