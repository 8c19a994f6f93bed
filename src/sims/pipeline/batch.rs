//! What a batch should be, and whether it is.

use std::ops::Range;

use super::Run;
use crate::batch::{Batch, FieldView, Tensor};
use crate::order::Piece;
use crate::plan::nearest;
use crate::selection::Wanted;

impl Run<'_> {
    pub(super) fn check(&self, batch: &Batch, (want, padded): &(Vec<u64>, u64), stream: usize) {
        assert_eq!((batch.samples(), batch.padded()), (want.as_slice(), *padded));
        let names: Vec<&str> = batch.fields().iter().map(|field| &*field.name).collect();
        assert_eq!(names, self.draw.fields);
        let mut views: Vec<(FieldView, usize, Vec<u8>)> = Vec::new();
        match self.draw.item_bytes {
            None => {
                for (&field, (i, &sample)) in
                    names.iter().flat_map(|field| want.iter().enumerate().map(move |s| (field, s)))
                {
                    let (view, want) = (batch.field(field).unwrap(), self.want(sample, field));
                    assert_eq!(view.lengths()[i], want.map_or(FieldView::ABSENT, |want| want.len() as u64));
                    views.extend(want.map(|want| (view, i, want.to_vec())));
                }
            }
            Some(_) => {
                for window in (0..want.len()).map(|i| batch.window(i).unwrap()) {
                    let piece = |(i, piece)| (window.bytes, i, self.want_piece(piece).to_vec());
                    views.extend(window.pieces.iter().enumerate().map(piece));
                }
            }
        }
        let tensors =
            self.draw.tensors.iter().map(|&name| (batch.tensor(name).unwrap(), self.want_tensor(batch, name)));
        let tensors: Vec<(Tensor, Vec<u8>)> = tensors.collect();
        assert!(names.iter().all(|name| self.draw.tensors.contains(name) || batch.tensor(name).is_none()));
        for (tensor, want) in &tensors {
            assert_eq!((tensor.bytes(), tensor.shape()[0]), (want.len() as u64, batch.len() as u64));
            assert_eq!(tensor.dtype().array_bytes(tensor.shape()), Some(tensor.bytes()));
            assert!(tensor.device_ptr().is_multiple_of(tensor.dtype().bytes().unwrap()));
        }
        let Some(side) = self.machine.sides.first() else {
            for (view, i, want) in views {
                assert!(view.host_bytes(i).unwrap().unwrap() == want, "wrong bytes in view {i}");
            }
            tensors.iter().for_each(|(tensor, want)| assert!(tensor.host_bytes().unwrap() == want, "wrong array"));
            return;
        };
        if !self.machine.in_place {
            self.check_on_host(batch, want);
        }
        // The consumer reads on its own stream, some time later.
        let stream = side.streams()[stream];
        // SAFETY: a live stream of this device.
        if let Err(error) = unsafe { batch.wait_on(stream) } {
            return assert!(self.machine.broke(&error), "{error}");
        }
        let views = views.into_iter().map(|(view, i, want)| (view.device_ptr() + view.offsets()[i], want));
        let tensors = tensors.into_iter().map(|(tensor, want)| (tensor.device_ptr(), want));
        // What has no bytes has no place.
        for (source, want) in views.chain(tensors).filter(|(_, want)| !want.is_empty()) {
            self.machine.read(0, stream, source, ("a batch".into(), want));
        }
    }

    /// Small fields are on the host before a copy has ended.
    fn check_on_host(&self, batch: &Batch, want: &[u64]) {
        for &name in self.draw.fields.iter().filter(|_| self.draw.item_bytes.is_none()) {
            let view = batch.field(name).unwrap();
            let on_host = self.draw.on_host.contains(&name);
            for (i, want) in want.iter().map(|&sample| self.want(sample, name)).enumerate() {
                match view.host_bytes(i) {
                    Ok(bytes) => assert!(bytes == want && (on_host || want.is_none() || batch.device_ptr() == 0)),
                    Err(error) if on_host => assert!(error.to_string().contains("no room") && batch.bytes() > 64 << 10),
                    Err(error) => assert!(error.to_string().contains("is not the host's"), "{error}"),
                }
            }
        }
    }

    /// A batch's samples, or the pieces of its windows, one after the other.
    fn want_tensor(&self, batch: &Batch, name: &str) -> Vec<u8> {
        let row = |i: usize| match batch.window(i) {
            Some(window) => window.pieces.iter().flat_map(|piece| self.want_piece(piece)).copied().collect::<Vec<u8>>(),
            None => self.want(batch.samples()[i], name).unwrap().to_vec(),
        };
        let stored: Vec<u8> = (0..batch.len()).flat_map(row).collect();
        match self.draw.casts.iter().find(|(field, ..)| *field == name) {
            Some((_, from, Wanted { dtype, scale, .. })) => nearest::cast(*from, *dtype, *scale, &stored),
            None => stored,
        }
    }

    /// What the field of a sample should be.
    fn want(&self, sample: u64, field: &str) -> Option<&[u8]> {
        self.contents.of(sample, field).map(|range| &self.base[range])
    }

    /// What a piece of a document should be. That it is the right piece, `tests/windows.rs` shows.
    fn want_piece(&self, piece: &Piece) -> &[u8] {
        let item = self.draw.item_bytes.unwrap() as usize;
        let Range { start, .. } = self.contents.document(piece.document, self.draw.fields[0]);
        let start = start + piece.start as usize * item;
        &self.base[start..start + piece.tokens as usize * item]
    }
}
