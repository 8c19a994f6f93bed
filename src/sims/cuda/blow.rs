//! What goes wrong on the stand-ins.

use super::{SOON, cufile, stand_in};
use crate::sim::Rng;

#[derive(Debug, Clone, Copy)]
pub(super) enum Blow {
    /// One of the calls that the run makes fails, whether or not it did its work.
    Call { pick: u64, nth: u64, works: bool },
    /// The device is lost.
    Lost,
    /// No work on a stream ends any more.
    Stalled,
    /// A knob of cuFile's.
    Storage { knob: &'static str, value: i64 },
}

/// Those that a run makes while it goes.
const CALLS: [&str; 10] = [
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyBatchAsync",
    "cuMemcpy2DAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuLaunchKernel",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventCreate",
    "cuStreamWaitEvent",
    "cuCtxPushCurrent_v2",
];

/// How often each of them has been made.
pub(super) fn calls() -> Vec<u64> {
    CALLS.iter().map(|symbol| stand_in::Fake.calls(symbol)).collect()
}

impl Blow {
    pub(super) fn draw(rng: &mut Rng, in_place: bool, reads_back: bool) -> Blow {
        const CU_FILE_INTERNAL_ERROR: i64 = 5030;
        const CANCELED: i64 = 8;
        const TIMEOUT: i64 = 32;
        if in_place && rng.one_in(2) {
            let late = 2 * SOON.as_micros() as i64;
            let knobs = [
                ("submit_error", CU_FILE_INTERNAL_ERROR),
                ("status_error", CU_FILE_INTERNAL_ERROR),
                ("event_status", CANCELED),
                ("event_status", TIMEOUT),
                ("late_once_us", late),
            ];
            let (knob, value) = knobs[rng.below(knobs.len() as u64) as usize];
            return Blow::Storage { knob, value };
        }
        match rng.below(10) {
            0 if !reads_back => Blow::Stalled,
            0 | 1 => Blow::Lost,
            _ => {
                let most = 1 << rng.below(3);
                Blow::Call { pick: rng.next_u64(), nth: 1 + rng.below(most), works: rng.one_in(2) }
            }
        }
    }

    /// `before` is how often each of the calls had been made when the run began.
    pub(super) fn fall(self, before: &[u64]) {
        const LAUNCH_FAILED: i32 = 719;
        match self {
            Blow::Call { pick, nth, works } => {
                let made = |pair: &(&&str, &u64)| stand_in::Fake.calls(pair.0) > *pair.1;
                let own: Vec<&str> = CALLS.iter().zip(before).filter(made).map(|(symbol, _)| *symbol).collect();
                let Some(symbol) = own.get(pick as usize % own.len().max(1)) else { return };
                // Only work on a stream may have begun in spite of it.
                let works = works && !["cuEventCreate", "cuCtxPushCurrent_v2"].contains(symbol);
                stand_in::Fake.fail(symbol, nth, 1, works);
            }
            Blow::Lost => stand_in::Fake.lose(LAUNCH_FAILED),
            Blow::Stalled => stand_in::Fake.stall(),
            Blow::Storage { knob, value } => cufile::FakeCufile.set(knob, value),
        }
    }
}
