//! Host to device without a loader: the ceiling, and the price of pinning.

use std::rc::Rc;
use std::time::Instant;

use serde_json::{Value, json};

use super::median;
use crate::check::Outcome;
use crate::check::cuda::{ConsumerStream, Gpu, Pinned, Scratch, is_stand_in};

/// 64 KiB to 16 MiB.
pub(super) const PIECES: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];

const PINNED_BYTES: usize = 256 << 20;
const REGISTERED_BYTES: usize = 512 << 20;

/// What the stand-in copies is copied by a CPU: a little is enough there.
fn scaled(bytes: usize) -> usize {
    if is_stand_in() { bytes / 8 } else { bytes }
}

pub(super) struct Bus {
    stream: ConsumerStream,
    source: Pinned,
    target: Scratch,
}

impl Bus {
    pub(super) fn new(gpu: &Rc<Gpu>) -> Outcome<Bus> {
        let (source, target) = (Pinned::new(gpu, scaled(PINNED_BYTES))?, Scratch::new(gpu, scaled(PINNED_BYTES))?);
        Ok(Bus { stream: ConsumerStream::new(gpu)?, source, target })
    }

    /// Copies from pinned memory in pieces, all of them on one stream: 2 GiB, and 256 MiB in small ones.
    pub(super) fn gb_per_s(&self, piece: usize) -> Outcome<f64> {
        let total = self.source.len() * if piece < 1 << 20 { 1 } else { 8 };
        self.stream.to_device(&self.source, 0, &self.target, piece)?;
        self.stream.synchronize()?;
        let start = Instant::now();
        for at in (0..total).step_by(piece) {
            self.stream.to_device(&self.source, at % self.source.len(), &self.target, piece)?;
        }
        self.stream.synchronize()?;
        Ok(total as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
}

/// How long `cuMemHostRegister` takes for memory that is there already.
pub(super) fn register(gpu: &Rc<Gpu>) -> Outcome<Vec<Value>> {
    let kinds = [("huge where there are any", libc::MADV_HUGEPAGE), ("4 KiB", libc::MADV_NOHUGEPAGE)];
    let mut series = [Vec::new(), Vec::new()];
    let bytes = scaled(REGISTERED_BYTES);
    for _ in 0..3 {
        for (series, (_, advice)) in series.iter_mut().zip(kinds) {
            let took = Pinned::in_pages(gpu, bytes, advice)?.registered_in.as_secs_f64();
            series.push(took * 1e3 * (1 << 30) as f64 / bytes as f64);
        }
    }
    let row = |((pages, _), series): (&(&str, i32), &Vec<f64>)| json!({ "pages": pages, "ms_per_GiB": median(series) });
    Ok(kinds.iter().zip(&series).map(row).collect())
}
