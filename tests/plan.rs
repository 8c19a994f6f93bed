//! Plans, checked by carrying them out: every wanted byte is read once, into the place that the plan names.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use strait::dataset::Extent;
use strait::plan::{Cast, Limits, Move, Plan, Use};

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

fn bytes_of(extent: &Extent) -> Vec<u8> {
    (extent.offset..extent.offset + extent.len).map(|offset| byte_at(extent.shard, offset)).collect()
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
    assert_eq!(plan.read_bytes(), plan.region_bytes());
    carry_out_reads(plan, batch)
}

fn carry_out_reads(plan: &Plan, batch: &Batch) -> Vec<u8> {
    let mut region = vec![0xEE; plan.read_bytes() as usize];
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
    assert_eq!(region_end, plan.read_bytes());
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

/// The arrays of a batch: runs of its views, in any order, each of views that are there.
fn arrays(batch: &Batch, cuts: &[usize]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for end in 0..=batch.extents.len() {
        let there = batch.extents.get(end).is_some_and(Option::is_some);
        if !there || cuts.contains(&end) {
            runs.push(start..end);
            start = if there { end } else { end + 1 };
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Where the bytes of elements go: each element's in front of zeros.
fn spread(bytes: &[u8], cast: Cast) -> Vec<u8> {
    let (from, to) = (cast.from().bytes().unwrap() as usize, cast.to().bytes().unwrap() as usize);
    bytes.chunks(from).flat_map(|element| [element, &vec![0; to - from]].concat()).collect()
}

/// What is in the region once everything is read, copied window by window, and gathered.
fn carry_out_all(plan: &Plan, batch: &Batch) -> Vec<u8> {
    let read = carry_out_reads(plan, batch);
    let mut region = vec![0xEE; plan.region_bytes() as usize];
    let window = batch.limits.window_bytes;
    for at in (0..plan.read_bytes()).step_by(window.min(1 << 40) as usize) {
        let whole = at..plan.read_bytes().min(at.saturating_add(window));
        match plan.pieces(at, &batch.limits) {
            None => region[whole.start as usize..whole.end as usize]
                .copy_from_slice(&read[whole.start as usize..whole.end as usize]),
            Some(pieces) => {
                for Move { source, target, bytes } in pieces {
                    assert!(whole.start <= *source && source + bytes <= whole.end, "a piece outside its window");
                    let from = &read[*source as usize..(source + bytes) as usize];
                    region[*target as usize..(target + bytes) as usize].copy_from_slice(from);
                }
            }
        }
    }
    let mut targets = Vec::new();
    for Move { source, target, bytes } in plan.gather() {
        assert!(*bytes > 0 && *target >= plan.read_bytes() && source + bytes <= plan.read_bytes());
        targets.push((*target, target + bytes));
        region.copy_within(*source as usize..(source + bytes) as usize, *target as usize);
    }
    for (cast, moves) in (0..).map_while(|number| plan.cast_moves(number)) {
        for Move { source, target, bytes } in moves {
            assert!(*bytes > 0 && *target >= plan.read_bytes() && source + bytes <= plan.read_bytes());
            assert!(
                bytes.is_multiple_of(cast.from().bytes().unwrap()) && target.is_multiple_of(cast.to().bytes().unwrap())
            );
            targets.push((*target, target + cast.bytes_of(*bytes)));
            let wide = spread(&region[*source as usize..(source + bytes) as usize], cast);
            region[*target as usize..*target as usize + wide.len()].copy_from_slice(&wide);
        }
    }
    targets.sort_unstable();
    assert!(targets.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two moves to one place");
    region
}

fn one_cast() -> impl Strategy<Value = Cast> {
    let bytes = Cast::U8ToF16 { factor: 2.0, bias: 1.0 };
    prop_oneof![Just(Cast::U16ToI64), Just(Cast::U16ToI32), Just(Cast::I32ToI64), Just(bytes)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Mutants that this catches: a repeated view taken for the next one; pieces not cut at windows; an array placed on
    /// another's bytes; arrays placed though a cast needs the extents; a cast that leaves as much room as it reads.
    #[test]
    fn arrays_hold_their_views_one_after_the_other(
        batch in batches(),
        cuts in prop::collection::vec(0..40usize, 0..6),
        repeated in any::<bool>(),
        large in any::<bool>(),
        item_bytes in prop_oneof![Just(1), Just(2), Just(16)],
        casts in prop_oneof![Just(vec![]), prop::collection::vec(prop::option::of(one_cast()), 1..5)],
    ) {
        let mut batch = batch;
        if casts.iter().any(Option::is_some) {
            // Whole elements of any type.
            batch.extents.iter_mut().flatten().for_each(|extent| extent.len -= extent.len % 4);
        }
        let cast_of = |number: usize| casts.get(number % casts.len().max(1)).copied().flatten();
        if large {
            batch.extents.retain(|extent| extent.is_some_and(|extent| extent.len >= 64 << 10));
        }
        if let (true, Some(&last)) = (repeated, batch.extents.last()) {
            batch.extents.extend([last, last]);
        }
        let mut plan = Plan::default();
        for _ in 0..2 {
            build(&mut plan, &batch);
            let read_bytes = plan.region_bytes();
            let runs = arrays(&batch, &cuts);
            for (number, run) in runs.iter().enumerate() {
                match cast_of(number) {
                    Some(cast) => plan.cast(run.clone(), cast, &batch.limits),
                    None => plan.array(run.clone(), item_bytes, &batch.limits),
                }
            }
            if batch.limits.window_bytes < 1 << 62 {
                plan.place(&batch.limits);
            }
            prop_assert_eq!(plan.read_bytes(), read_bytes);
            prop_assert_eq!(plan.region_bytes() % ALIGN, 0);
            let region = carry_out_all(&plan, &batch);
            for (number, run) in runs.iter().enumerate() {
                let at = plan.array_at(number);
                let mut want: Vec<u8> = batch.extents[run.clone()].iter().flatten().flat_map(bytes_of).collect();
                match cast_of(number) {
                    Some(cast) => want = spread(&want, cast),
                    None => prop_assert_eq!(at % item_bytes, 0),
                }
                prop_assert_eq!(&region[at as usize..at as usize + want.len()], &want[..]);
            }
            for (i, extent) in batch.extents.iter().enumerate() {
                let Some(extent) = extent else { continue };
                let at = plan.offsets()[i] as usize;
                prop_assert_eq!(&region[at..at + extent.len as usize], &bytes_of(extent)[..], "views stay views");
            }
        }
    }

    /// Mutant that this catches: a part that reaches over the border of a window.
    #[test]
    fn parts_cover_the_views_that_are_used_and_lie_in_one_window_each(batch in batches(), used in any::<u64>()) {
        let mut plan = Plan::default();
        build(&mut plan, &batch);
        let purpose = |view: usize| Use { check: used >> (view % 64) & 1 == 1, keep: view.is_multiple_of(3) };
        plan.part(purpose, &batch.limits);
        let read = carry_out(&plan, &batch);
        let mut views: Vec<Vec<u8>> = vec![Vec::new(); batch.extents.len()];
        let window = batch.limits.window_bytes;
        let mut seen = 0;
        for at in (0..plan.read_bytes()).step_by(window.min(1 << 40) as usize) {
            for part in plan.parts_in(at, &batch.limits) {
                prop_assert!(part.at / window == at / window && (part.at + part.bytes - 1) / window == at / window);
                prop_assert_eq!(part.purpose, purpose(part.view as usize));
                let view = &mut views[part.view as usize];
                prop_assert_eq!(part.from, view.len() as u64);
                view.extend_from_slice(&read[part.at as usize..(part.at + part.bytes) as usize]);
                seen += 1;
            }
        }
        prop_assert_eq!(seen, plan.parts().len());
        for (view, bytes) in views.iter().enumerate() {
            let used = purpose(view) != Use::default();
            let want = batch.extents[view].as_ref().filter(|_| used).map(bytes_of).unwrap_or_default();
            prop_assert_eq!(bytes, &want);
        }
    }
}

#[test]
fn only_what_lies_apart_is_moved_and_large_pieces_are_placed() {
    let staged = Limits { align: ALIGN, block_bytes: 1 << 20, window_bytes: 1 << 20, gap_bytes: 0 };
    // The first so many views are an array.
    let plan = |extents: &[(u64, u64)], views: usize| {
        let mut plan = Plan::default();
        let extents = extents.iter().map(|&(offset, len)| Some(Extent { shard: 0, offset, len }));
        plan.build(extents, |_| 1 << 30, &staged);
        plan.array(0..views, 4, &staged);
        plan.place(&staged);
        plan
    };
    let rows = plan(&[(128, 100), (228, 100), (328, 100)], 3);
    assert_eq!((rows.array_at(0), rows.region_bytes(), rows.gather().len()), (128, 4096, 0), "rows as they are stored");
    let odd = plan(&[(130, 100), (230, 100)], 2);
    assert_eq!((odd.array_at(0), odd.gather().len()), (4096, 1), "where no item may start");
    let shuffled = plan(&[(8192, 100), (0, 100), (100, 100)], 3);
    assert_eq!((shuffled.array_at(0), shuffled.gather().len()), (8192, 2), "neighbours are one move");
    let large = plan(&[(1 << 20, 100_000), (8 << 20, 100_000)], 2);
    assert_eq!(large.region_bytes(), 200_000u64.next_multiple_of(ALIGN), "no extents");
    assert_eq!((large.offsets(), large.gather().len()), (&[0, 100_000][..], 0));
    let beside = plan(&[(1 << 20, 100_000), (8 << 20, 100_000), (0, 3)], 2);
    assert_eq!(beside.gather().len(), 2, "something else must be copied anyway");
    let mut cast = Plan::default();
    let extent = |place: u64| Some(Extent { shard: 0, offset: place << 20, len: 100_000 });
    cast.build((0..4).map(|place| extent(2 * place)), |_| 1 << 30, &staged);
    cast.array(0..2, 4, &staged);
    cast.cast(2..4, Cast::U16ToI64, &staged);
    cast.place(&staged);
    assert_eq!((cast.gather().len(), cast.array_at(0)), (2, cast.read_bytes()), "a cast needs the extents");
    assert_eq!(cast.region_bytes(), (cast.array_at(1) + 800_000).next_multiple_of(ALIGN));
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
