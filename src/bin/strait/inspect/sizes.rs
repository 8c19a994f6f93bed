//! How large a field's entries are, and how they lie.

use serde_json::{Value, json};
use strait::Dataset;

use crate::size;

/// Samples looked at.
const LOOK_AT: u64 = 100_000;
/// Width of the longest bar.
const BAR: u64 = 40;

/// Of one field.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes {
    /// Samples looked at, and those of them that have the field.
    looked_at: u64,
    present: u64,
    smallest: u64,
    largest: u64,
    total: u64,
    /// By the power of two that the size is below: 0, 1, 2..3, 4..7 ..
    by_power: Vec<u64>,
    /// Entries that begin at a multiple of 512, of 4096.
    on_512: u64,
    on_4096: u64,
    /// Bytes that reading each entry alone takes, in blocks of 4096.
    blocks_bytes: u64,
}

impl Sizes {
    pub(super) fn of(dataset: &Dataset, field: usize) -> Sizes {
        let mut sizes = Sizes { smallest: u64::MAX, ..Sizes::default() };
        let looked_at = dataset.len().min(LOOK_AT);
        for i in 0..looked_at {
            // Spread evenly; all of them where there are few.
            let sample = (u128::from(i) * u128::from(dataset.len()) / u128::from(looked_at)) as u64;
            sizes.looked_at += 1;
            if let Some(extent) = dataset.extent(sample, field) {
                sizes.add(extent.offset, extent.len);
            }
        }
        if sizes.present == 0 {
            sizes.smallest = 0;
        }
        sizes
    }

    fn add(&mut self, offset: u64, len: u64) {
        self.present += 1;
        self.smallest = self.smallest.min(len);
        self.largest = self.largest.max(len);
        self.total = self.total.saturating_add(len);
        let power = (64 - len.leading_zeros()) as usize;
        if self.by_power.len() <= power {
            self.by_power.resize(power + 1, 0);
        }
        self.by_power[power] += 1;
        self.on_512 += u64::from(offset.is_multiple_of(512));
        self.on_4096 += u64::from(offset.is_multiple_of(4096));
        let end = offset.saturating_add(len).div_ceil(4096).saturating_mul(4096);
        self.blocks_bytes = self.blocks_bytes.saturating_add(end.saturating_sub(offset / 4096 * 4096));
    }

    fn mean(&self) -> u64 {
        self.total / self.present.max(1)
    }

    /// Share of samples that have the field, smallest, mean, largest.
    pub(super) fn row(&self) -> [String; 4] {
        let share = 100.0 * self.present as f64 / self.looked_at.max(1) as f64;
        [format!("{share:.0} %"), size::show(self.smallest), size::show(self.mean()), size::show(self.largest)]
    }

    /// Nothing where all have one size.
    pub(super) fn histogram(&self, name: &str) -> String {
        if self.smallest == self.largest {
            return String::new();
        }
        let most = self.by_power.iter().copied().max().unwrap_or(1).max(1);
        let mut out = format!("\n{name}, bytes\n");
        let first = self.by_power.iter().position(|&count| count > 0).unwrap_or(0);
        for (power, &count) in self.by_power.iter().enumerate().skip(first) {
            let from = if power == 0 { 0 } else { 1u64 << (power - 1) };
            let bar = "#".repeat((count * BAR).div_ceil(most) as usize);
            out += format!("  from {:>9} {count:>9} {bar}", size::show(from)).trim_end();
            out.push('\n');
        }
        out
    }

    /// How the entries lie, and what that means for direct reads.
    pub(super) fn alignment(&self) -> String {
        if self.present == 0 {
            return "no sample has it".into();
        }
        let (all, more) = (self.present, self.blocks_bytes as f64 / self.total.max(1) as f64);
        let cost = format!("read alone and directly, in blocks of 4 KiB, an entry costs {more:.2} times its bytes");
        match (self.on_4096, self.on_512) {
            (on, _) if on == all => {
                format!(
                    "begins at multiples of 4096: direct reads bring whole blocks of it and nothing in front; {cost}"
                )
            }
            (_, on) if on == all => {
                format!("begins at multiples of 512, not of 4096: a direct read begins up to 3.5 KiB earlier; {cost}")
            }
            _ => format!(
                "begins anywhere: a direct read begins up to 4 KiB earlier and ends as much later; {cost}; neighbours that \
                 are read together share those blocks"
            ),
        }
    }

    pub(super) fn json(&self) -> Value {
        let power = |(power, count): (usize, &u64)| json!({ "from": if power == 0 { 0 } else { 1u64 << (power - 1) }, "count": count });
        let met = self.by_power.iter().enumerate().filter(|(_, count)| **count > 0);
        json!({
            "looked_at": self.looked_at,
            "present": self.present,
            "smallest": self.smallest,
            "mean": self.mean(),
            "largest": self.largest,
            "histogram": met.map(power).collect::<Vec<_>>(),
            "aligned_512": self.on_512,
            "aligned_4096": self.on_4096,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_where_they_belong() {
        let mut sizes = Sizes { smallest: u64::MAX, ..Sizes::default() };
        for (offset, len) in [(0, 0), (512, 1), (4096, 4095), (8192, 4096), (u64::MAX, 1)] {
            sizes.add(offset, len);
        }
        assert_eq!((sizes.present, sizes.smallest, sizes.largest, sizes.total), (5, 0, 4096, 8193));
        assert_eq!((sizes.by_power[0], sizes.by_power[1], sizes.by_power[12], sizes.by_power[13]), (1, 2, 1, 1));
        assert_eq!((sizes.on_512, sizes.on_4096), (4, 3));
        assert!(sizes.histogram("x").contains("from     4 KiB         1 ####"), "{}", sizes.histogram("x"));
    }
}
