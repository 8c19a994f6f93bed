//! Host to device without a loader: the ceiling, and the price of pinning.

use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};

use super::median;
use crate::check::Outcome;
use crate::check::cuda::{ConsumerStream, Gpu, Pinned, Scratch};

/// 256 KiB to 16 MiB.
pub(super) const PIECES: [usize; 4] = [256 << 10, 1 << 20, 4 << 20, 16 << 20];
/// Which of them is the size of strait's slabs.
pub(super) const SLAB: usize = 2;

const PINNED_BYTES: usize = 256 << 20;
const TOTAL_BYTES: usize = 4 << 30;

pub(super) struct Bus {
    stream: ConsumerStream,
    source: Pinned,
    target: Scratch,
}

impl Bus {
    pub(super) fn new(gpu: &Rc<Gpu>) -> Outcome<Bus> {
        let (source, target) = (Pinned::new(gpu, PINNED_BYTES)?, Scratch::new(gpu, PINNED_BYTES)?);
        Ok(Bus { stream: ConsumerStream::new(gpu)?, source, target })
    }

    /// Copies 4 GiB from pinned memory in pieces, all of them on one stream.
    pub(super) fn gb_per_s(&self, piece: usize) -> Outcome<f64> {
        self.stream.to_device(&self.source, 0, &self.target, piece)?;
        self.stream.synchronize()?;
        let start = Instant::now();
        for at in (0..TOTAL_BYTES).step_by(piece) {
            self.stream.to_device(&self.source, at % PINNED_BYTES, &self.target, piece)?;
        }
        self.stream.synchronize()?;
        Ok(TOTAL_BYTES as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
}

/// How long `cuMemHostRegister` takes for memory that is there already.
pub(super) fn register(gpu: &Rc<Gpu>, rounds: usize) -> Outcome<Vec<Value>> {
    let kinds = [("huge where there are any", libc::MADV_HUGEPAGE), ("4 KiB", libc::MADV_NOHUGEPAGE)];
    let mut series = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (series, (_, advice)) in series.iter_mut().zip(kinds) {
            series.push(Pinned::in_pages(gpu, 1 << 30, advice)?.registered_in.as_secs_f64() * 1e3);
        }
    }
    let row = |((pages, _), series): (&(&str, i32), &Vec<f64>)| json!({ "pages": pages, "ms_per_GiB": median(series) });
    Ok(kinds.iter().zip(&series).map(row).collect())
}
