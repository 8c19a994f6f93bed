//! Which parts of files are read in one go.

use crate::weights::Algorithm;

/// Bytes of a file that are to be summed up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    pub(super) file: usize,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) algorithm: Algorithm,
}

/// A part of a file in which sums begin and end, and no other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) file: usize,
    pub(super) begin: u64,
    pub(super) end: u64,
    /// By their number, in the order in which they begin.
    pub(super) sums: Vec<usize>,
}

/// A stretch shorter than this is not worth a thread of its own.
const BYTES_MIN: u64 = 64 << 20;

/// Cuts where no sum goes on, once a stretch is long enough. Long ones come first: threads end at about the same time.
pub(super) fn stretches(sums: &[Sum]) -> Vec<Stretch> {
    let mut order: Vec<usize> = (0..sums.len()).collect();
    order.sort_by_key(|&number| (sums[number].file, sums[number].begin, sums[number].end));
    let mut stretches: Vec<Stretch> = Vec::new();
    for number in order {
        let Sum { file, begin, end, .. } = sums[number];
        match stretches.last_mut() {
            Some(last) if last.file == file && (begin < last.end || last.end - last.begin < BYTES_MIN) => {
                last.end = last.end.max(end);
                last.sums.push(number);
            }
            _ => stretches.push(Stretch { file, begin, end, sums: vec![number] }),
        }
    }
    stretches.sort_by_key(|stretch| std::cmp::Reverse(stretch.end - stretch.begin));
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_sum_is_in_one_stretch_that_holds_it(
            ranges in proptest::collection::vec((0..3usize, 0..1u64 << 30, 0..1u64 << 28), 0..40),
        ) {
            let sum = |&(file, begin, len): &(usize, u64, u64)| {
                Sum { file, begin, end: begin + len, algorithm: Algorithm::Crc32c }
            };
            let sums: Vec<Sum> = ranges.iter().map(sum).collect();
            let stretches = stretches(&sums);
            let mut seen: Vec<usize> = stretches.iter().flat_map(|stretch| stretch.sums.clone()).collect();
            seen.sort();
            proptest::prop_assert!(seen.into_iter().eq(0..sums.len()));
            for stretch in &stretches {
                let inside = stretch.sums.iter().map(|&n| &sums[n]);
                for sum in inside.clone() {
                    proptest::prop_assert_eq!(sum.file, stretch.file);
                    proptest::prop_assert!(stretch.begin <= sum.begin && sum.end <= stretch.end);
                }
                proptest::prop_assert!(inside.clone().map(|sum| sum.begin).is_sorted());
                proptest::prop_assert_eq!(inside.map(|sum| sum.end).max(), Some(stretch.end));
            }
        }
    }
}
