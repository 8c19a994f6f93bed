//! Plans, checked by carrying them out: every wanted byte is read once, into the place that the plan names.

use std::collections::BTreeMap;

use proptest::prelude::*;
use strait::dataset::Extent;
use strait::plan::{Limits, Plan};

const ALIGN: u64 = 4096;

#[derive(Debug, Clone)]
struct Batch {
    shard_bytes: Vec<u64>,
    extents: Vec<Option<Extent>>,
    limits: Limits,
}

fn byte_at(shard: u32, offset: u64) -> u8 {
    (u64::from(shard) * 131 + offset * 7 + offset / 251) as u8
}

fn limits() -> impl Strategy<Value = Limits> {
    (0..4u32, 0..6u32, prop_oneof![Just(0), Just(1), Just(ALIGN), Just(50_000)]).prop_map(
        |(block, window, gap_bytes)| {
            let block_bytes = ALIGN << block;
            let window_bytes = if window == 5 { 1 << 62 } else { block_bytes.max(ALIGN << window) };
            Limits { align: ALIGN, block_bytes, window_bytes, gap_bytes }
        },
    )
}

fn batches() -> impl Strategy<Value = Batch> {
    let shards = prop::collection::vec(prop_oneof![1..200_000u64, Just(4096), Just(4095), Just(8193)], 1..4);
    (shards, limits()).prop_flat_map(|(shard_bytes, limits)| {
        let of = shard_bytes.clone();
        let extent =
            (0..shard_bytes.len() as u32, any::<u64>(), any::<u64>(), 0..8u8).prop_map(move |(shard, a, b, kind)| {
                let bytes = of[shard as usize];
                let offset = a % bytes;
                let longest = bytes - offset;
                let len = match kind {
                    0 => return None,
                    1 => 0,
                    2 => longest,
                    _ => 1 + b % longest.min(20_000),
                };
                Some(Extent { shard, offset, len })
            });
        prop::collection::vec(extent, 0..40).prop_map(move |extents| Batch {
            shard_bytes: shard_bytes.clone(),
            extents,
            limits,
        })
    })
}

/// Carries out the reads; where two reads meet in the region or in a shard, something is read twice.
fn carry_out(plan: &Plan, batch: &Batch) -> Vec<u8> {
    let mut region = vec![0xEE; plan.region_bytes() as usize];
    let mut shard_end: BTreeMap<u32, u64> = BTreeMap::new();
    let mut region_end = 0;
    for read in plan.reads() {
        let len = u64::from(read.len);
        let bytes = batch.shard_bytes[read.shard as usize];
        assert!(read.offset % ALIGN == 0 && len % ALIGN == 0 && read.at % ALIGN == 0, "{read:?} is not aligned");
        assert!(len > 0 && len <= batch.limits.block_bytes, "{read:?} is longer than a block");
        let window = batch.limits.window_bytes;
        assert_eq!(read.at / window, (read.at + len - 1) / window, "{read:?} crosses a window");
        assert_eq!(u64::from(read.want), len.min(bytes - read.offset), "{read:?} wants more than the shard has");
        assert!(read.offset >= *shard_end.get(&read.shard).unwrap_or(&0), "{read:?} reads a block twice");
        assert_eq!(read.at, region_end, "{read:?} leaves a hole in the region");
        shard_end.insert(read.shard, read.offset + len);
        region_end = read.at + len;
        for i in 0..u64::from(read.want) {
            region[(read.at + i) as usize] = byte_at(read.shard, read.offset + i);
        }
    }
    assert_eq!(region_end, plan.region_bytes());
    region
}

fn build(plan: &mut Plan, batch: &Batch) {
    plan.build(batch.extents.iter().copied(), |shard| batch.shard_bytes[shard as usize], &batch.limits);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_wanted_byte_is_read_once_into_its_place(first in batches(), second in batches()) {
        let mut plan = Plan::default();
        for batch in [&first, &second] {
            build(&mut plan, batch); // the second in place of the first
            let region = carry_out(&plan, batch);
            prop_assert_eq!(plan.offsets().len(), batch.extents.len());
            let mut wanted = 0;
            for (i, extent) in batch.extents.iter().enumerate() {
                let Some(extent) = extent else {
                    prop_assert_eq!(plan.lengths()[i], Plan::ABSENT);
                    continue;
                };
                prop_assert_eq!(plan.lengths()[i], extent.len);
                wanted += extent.len;
                for j in 0..extent.len {
                    let got = region[(plan.offsets()[i] + j) as usize];
                    prop_assert_eq!(got, byte_at(extent.shard, extent.offset + j));
                }
            }
            prop_assert_eq!(plan.wanted_bytes(), wanted);
        }
    }

    #[test]
    fn a_plan_reads_little_beyond_what_is_wanted(batch in batches()) {
        let mut plan = Plan::default();
        build(&mut plan, &batch);
        let spans = batch.extents.iter().flatten().filter(|e| e.len > 0);
        let most: u64 = spans.map(|e| e.len.next_multiple_of(ALIGN) + ALIGN + batch.limits.gap_bytes.next_multiple_of(ALIGN)).sum();
        prop_assert!(plan.region_bytes() <= most, "{} of at most {most}", plan.region_bytes());
    }
}

#[test]
fn near_extents_are_one_read_and_far_ones_are_two() {
    let limits = Limits { align: ALIGN, block_bytes: 1 << 20, window_bytes: 1 << 62, gap_bytes: ALIGN };
    let extent = |offset, len| Some(Extent { shard: 0, offset, len });
    let reads = |extents: &[Option<Extent>]| {
        let mut plan = Plan::default();
        plan.build(extents.iter().copied(), |_| 1 << 30, &limits);
        plan.reads().iter().map(|read| (read.offset, read.len)).collect::<Vec<_>>()
    };
    assert_eq!(reads(&[extent(100, 50), extent(8192, 1)]), [(0, 12288)], "a gap of one block is read along");
    assert_eq!(reads(&[extent(12288, 1), extent(100, 50)]), [(0, 4096), (12288, 4096)], "one of two is not");
    assert_eq!(reads(&[extent(0, 4096), extent(4096, 4096)]), [(0, 8192)], "neighbours are one read");
    assert_eq!(reads(&[extent(5, 10), extent(5, 10), extent(7, 2)]), [(0, 4096)], "overlaps are read once");
    assert!(reads(&[None, extent(77, 0)]).is_empty(), "nothing wanted, nothing read");
}
