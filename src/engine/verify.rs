//! Whether the bytes that have landed are those that their checksums were made of.
//!
//! The worker works out the CRC32C of each part of a view, in slab or region; here the parts are put together, once all
//! of a batch's are there, and compared.

use crate::batch::Body;
use crate::dataset::Dataset;
use crate::error::Error;
use crate::plan::Plan;
use crate::selection::Selection;
use crate::stats::Counters;
use crate::storage::Damage;

/// Where a batch's checksums are put together; allocated once.
pub(crate) struct Verifier {
    /// Of each view.
    crcs: Vec<u32>,
}

impl Verifier {
    /// For batches of at most so many views.
    pub(crate) fn new(views: usize) -> Verifier {
        Verifier { crcs: Vec::with_capacity(views) }
    }

    /// The views whose bytes are not what they should be.
    pub(super) fn damages(
        &mut self,
        body: &Body,
        dataset: &Dataset,
        selection: &Selection,
        counters: &Counters,
    ) -> Vec<Damage> {
        let mut damages = Vec::new(); // allocates nothing as long as nothing is damaged
        let (plan, samples) = (&*body.plan, &body.samples);
        self.put_together(plan);
        for part in plan.parts().iter().filter(|part| part.purpose.check) {
            let (view, len) = (part.view as usize, plan.lengths()[part.view as usize]);
            if part.from + part.bytes < len {
                continue; // its last part speaks for it
            }
            let (field, sample) = (view / samples.len(), samples[view % samples.len()]);
            let (got, number) = (self.crcs[view], selection.numbers[field]);
            let (Some(want), Some(extent)) = (dataset.crc32c(sample, number), dataset.extent(sample, number)) else {
                continue; // a damaged index; that is said elsewhere
            };
            counters.bytes_verified.add(len);
            if got != want {
                counters.mismatches.add(1);
                let name = &selection.fields[field].name;
                let problem = format!("{name} of sample {sample}: its CRC32C is {got:08x} and should be {want:08x}");
                let path = dataset.shards()[extent.shard as usize].path.clone();
                let error = Error::Corrupt { path, offset: extent.offset, bytes: extent.len, problem };
                damages.push(Damage { extent, error });
            }
        }
        damages
    }

    fn put_together(&mut self, plan: &Plan) {
        self.crcs.clear();
        self.crcs.resize(plan.lengths().len(), 0);
        for part in plan.parts().iter().filter(|part| part.purpose.check) {
            let crc = &mut self.crcs[part.view as usize];
            *crc = match part.from {
                0 => part.crc(),
                _ => crc32c::crc32c_combine(*crc, part.crc(), part.bytes as usize),
            };
        }
    }
}
