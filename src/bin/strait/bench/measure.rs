//! What one run amounts to, and medians of several.

use std::time::Instant;

use crate::linux::usage;

/// Bytes delivered, and what they cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measure {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

impl Measure {
    pub(crate) fn gb_per_s(&self) -> f64 {
        self.bytes as f64 * 1e-9 / self.seconds
    }

    pub(crate) fn cpu_seconds_per_gib(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / (1u64 << 30) as f64)
    }
}

/// Clocks around the measured part of a run in this process.
pub(crate) struct Clock {
    began: Instant,
    cpu_seconds: f64,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { cpu_seconds: usage::cpu_seconds(), began: Instant::now() }
    }

    pub(crate) fn stop(&self, bytes: u64) -> Measure {
        let seconds = self.began.elapsed().as_secs_f64();
        Measure { bytes, seconds, cpu_seconds: usage::cpu_seconds() - self.cpu_seconds }
    }
}

/// The middle value; of an even number, the mean of the middle two. `None` for no value.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_bad_run() {
        assert_eq!(median([3.0, 100.0, 1.0]), Some(3.0));
        assert_eq!(median([1.0, 2.0]), Some(1.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn units_are_gb_and_gib() {
        let measure = Measure { bytes: 2 << 30, seconds: 2.0, cpu_seconds: 0.5 };
        assert_eq!(measure.cpu_seconds_per_gib(), 0.25);
        assert!((measure.gb_per_s() - 1.073_741_824).abs() < 1e-12);
    }
}
