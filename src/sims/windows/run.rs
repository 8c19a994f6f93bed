//! One rank's run over windows, whose batches are compared with the documents.

use super::Bed;
use crate::assembly;
use crate::batch::Batch;
use crate::config::{Config, ReadOptions};
use crate::error::Result;
use crate::order::{Piece, Rank, Stretch};
use crate::plan::nearest;
use crate::selection::{FieldOptions, Wanted};
use crate::sim::Rng;
use crate::sims::Machine;
use crate::sims::damaged::DamagedRing;
use crate::sims::rank::{Delivered, Ranked, drive, on_machines};

impl Bed<'_> {
    pub(super) fn run(&self, rng: &mut Rng, stretch: Stretch, rank: u32, from: Option<&str>, epochs: u64) -> Ranked {
        let mut pieces: Option<(u64, Vec<Vec<Piece>>)> = None;
        on_machines(self.over, rng, |rng, machine, reads| {
            let ring = DamagedRing::new(rng, &machine.clock, reads.reads_in_flight, &self.paths, &self.damages);
            let frame = self.frame(rng, machine, reads, stretch, rank);
            machine.strike(rng, true);
            drive(frame, ring, machine, from, epochs, stretch.steps_max, |batch| {
                let known = pieces.take().filter(|(epoch, _)| *epoch == batch.epoch());
                let (_, of_epoch) = pieces.insert(known.unwrap_or_else(|| (batch.epoch(), self.pieces(batch.epoch()))));
                self.delivered(batch, of_epoch)
            })
        })
    }

    fn frame(
        &self,
        rng: &mut Rng,
        machine: &Machine,
        reads: ReadOptions,
        stretch: Stretch,
        rank: u32,
    ) -> assembly::Frame {
        let casts = self.cast.iter().map(|(_, wanted)| wanted.clone()).collect();
        let config = Config {
            fields: FieldOptions { casts, ..FieldOptions::default() },
            policy: Some(self.policy),
            bad_samples: self.bad,
            batch_size: stretch.batch_size as usize,
            tokens: Some((self.field.into(), self.item)),
            windows: Some(self.windows),
            shuffle: self.shuffle,
            mixture: self.mixture.clone(),
            seed: self.seed,
            rank: Rank::new(rank, stretch.world).unwrap(),
            prefetch: Some(1 + rng.below(4) as usize),
            reads,
            ..Config::default()
        };
        assembly::frame(self.dataset.clone(), machine.devices().remove(0), config, machine.clock.clone()).unwrap()
    }

    /// Compares every window with the documents.
    fn delivered(&self, batch: &Batch, of_epoch: &[Vec<Piece>]) -> Result<Delivered> {
        let (mut bytes, mut tokens) = (Vec::new(), Vec::new());
        for (i, &window) in batch.samples().iter().enumerate() {
            let view = batch.window(i).unwrap();
            assert_eq!(view.pieces, of_epoch[window as usize], "window {window}");
            let mut boundaries = vec![0];
            view.pieces
                .iter()
                .for_each(|piece| boundaries.push(boundaries[boundaries.len() - 1] + piece.tokens as u32));
            assert_eq!(view.cu_seqlens, boundaries);
            for (number, piece) in view.pieces.iter().enumerate() {
                assert!(view.bytes.read_back(number, &mut bytes)?);
                let (shard, want) = self.bytes(piece);
                assert!(bytes == self.files[shard][want.start as usize..want.end as usize], "wrong bytes in {window}");
                tokens.extend_from_slice(&bytes);
            }
        }
        match (batch.tensor(self.field), &self.cast) {
            (Some(array), Some((of, Wanted { dtype, scale, .. }))) => {
                array.read_back(&mut bytes)?;
                assert!(array.dtype() == *dtype && bytes == nearest::cast(*of, *dtype, *scale, &tokens), "wrong array");
            }
            (Some(array), None) => {
                array.read_back(&mut bytes)?;
                assert!(Some(array.dtype()) == self.tokens_are() && bytes == tokens, "wrong array");
            }
            (None, _) => assert_eq!(self.tokens_are(), None),
        }
        Ok(Delivered { epoch: batch.epoch(), samples: batch.samples().to_vec(), padded: batch.padded() })
    }
}
