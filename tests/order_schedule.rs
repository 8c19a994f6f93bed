//! Exactly once, whatever the world, the batch size, the policy, and wherever a run stops and goes on.

use proptest::prelude::*;
use strait::order::{
    AtEnd, Counts, Cursor, Fingerprint, IfChanged, Order, Part, Policy, Progress, Rank, Schedule, Shuffle, Steps,
};

/// One stretch of a run between two stops.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    world: u32,
    batch_size: u64,
    steps_max: u64,
}

fn shuffles() -> impl Strategy<Value = Shuffle> {
    prop_oneof![
        Just(Shuffle::Sequential),
        Just(Shuffle::Full),
        (1u64..40, 1u64..6).prop_map(|(block_samples, window)| Shuffle::Block { block_samples, window }),
    ]
}

/// Orders of any length: of many global batches as of less than one.
fn orders() -> impl Strategy<Value = Order> {
    let dataset = (shuffles(), prop_oneof![1u64..10, 1u64..700], any::<u64>());
    let parts = prop::collection::vec((1u64..300, 1u32..50), 1..5);
    let at_end = prop_oneof![Just(AtEnd::Stop), (1u64..700).prop_map(|positions| AtEnd::Repeat { positions })];
    prop_oneof![
        dataset.prop_map(|(shuffle, n, seed)| Order::new(shuffle, n, seed).unwrap()),
        (shuffles(), parts, any::<u64>(), at_end).prop_map(|(shuffle, parts, seed, at_end)| {
            let parts: Vec<Part> = parts.into_iter().map(|(samples, weight)| Part { samples, weight }).collect();
            Order::mixture(&parts, shuffle, seed, at_end).unwrap()
        }),
    ]
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let stretch = (1u32..9, 1u64..12, 0u64..30);
    prop::collection::vec(
        stretch.prop_map(|(world, batch_size, steps_max)| Stretch { world, batch_size, steps_max }),
        3,
    )
}

fn ranks(order: &Order, stretch: Stretch, policy: Policy) -> Vec<Schedule> {
    let rank = |rank| Rank::new(rank, stretch.world).unwrap();
    (0..stretch.world).map(|r| Schedule::new(order.clone(), stretch.batch_size, rank(r), policy).unwrap()).collect()
}

/// What a run that starts from nothing but the saved text of a cursor goes on from.
fn through_text(order: &Order, at: Progress) -> Progress {
    let fingerprint = Fingerprint::new("records", [("a.bin", 1, order.samples())]);
    let text = Cursor::new(order, fingerprint.clone(), at).to_json();
    let start = Cursor::new(order, fingerprint, Progress::default());
    Cursor::parse(text.as_bytes()).unwrap().resume(&start, IfChanged::Refuse).unwrap()
}

/// Appends one step of all ranks, without its padding; returns how much padding there was.
fn deliver(ranks: &[Steps], step: u64, out: &mut Vec<u64>) -> u64 {
    let mut padded = 0;
    let mut batch = Vec::new();
    for steps in ranks {
        let of_rank = steps.batch(step, &mut batch);
        out.extend_from_slice(&batch[..batch.len() - of_rank as usize]);
        padded += of_rank;
    }
    padded
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_sample_once_over_worlds_and_stops(
        order in orders(), stretches in stretches(),
        policy in prop_oneof![Just(Policy::Drop), Just(Policy::Pad), Just(Policy::Wrap)],
    ) {
        let n = order.len();
        // Drop takes no order that is shorter than a global batch.
        let short = stretches.iter().any(|stretch| stretch.batch_size * u64::from(stretch.world) > n);
        let policy = if short && policy == Policy::Drop { Policy::Pad } else { policy };
        let mut at = Progress::default();
        let mut delivered = Vec::new();
        let mut expected = Vec::new();
        // Two epochs and a part of a third; the last stretch has no limit on its steps.
        for (number, stretch) in stretches.iter().enumerate() {
            at = through_text(&order, at);
            let last = number + 1 == stretches.len();
            let ranks = ranks(&order, *stretch, policy);
            let mut steps_left = if last { u64::MAX } else { stretch.steps_max };
            while steps_left > 0 && at.epoch < 2 {
                let steps: Vec<Steps> = ranks.iter().map(|rank| rank.steps(at).unwrap()).collect();
                let len = steps[0].len();
                prop_assert!(steps.iter().all(|steps| steps.len() == len), "unequal steps");
                let left = n - at.consumed;
                let start = at;
                let mut padded = 0;
                for step in 0..len.min(steps_left) {
                    padded += deliver(&steps, step, &mut delivered);
                    at = steps[0].progress_after(step);
                }
                // What the policy's name promises, counted without the schedule.
                let global = stretch.batch_size * u64::from(stretch.world);
                let promised = match policy {
                    Policy::Drop => Counts { dropped: left % global, padded: 0, wrapped: 0 },
                    Policy::Pad => Counts { padded: (global - left % global) % global, ..Counts::default() },
                    _ => Counts { wrapped: (global - left % global) % global, ..Counts::default() },
                };
                prop_assert_eq!(steps[0].counts(), promised);
                if steps_left < len {
                    let consumed = steps_left * global;
                    prop_assert_eq!(at, Progress { epoch: start.epoch, consumed: start.consumed + consumed });
                    expected.extend((start.consumed..at.consumed).map(|p| order.sample_at(start.epoch, p)));
                    steps_left = 0;
                } else {
                    prop_assert_eq!(padded, promised.padded);
                    let end = n - promised.dropped;
                    expected.extend((start.consumed..end).map(|p| order.sample_at(start.epoch, p)));
                    expected.extend((0..promised.wrapped).map(|p| order.sample_at(start.epoch, p % n)));
                    steps_left -= len;
                    at = Progress { epoch: start.epoch + 1, consumed: 0 };
                }
            }
        }
        prop_assert_eq!(delivered, expected);
    }

    /// The sequence of samples is the same for every world and batch size: only where it is cut differs.
    #[test]
    fn order_does_not_depend_on_world_or_batch(shuffle in shuffles(), n in 1u64..600, seed: u64, s in stretches()) {
        let order = Order::new(shuffle, n, seed).unwrap();
        let mut sequences = s.iter().map(|stretch| {
            let steps: Vec<Steps> =
                ranks(&order, *stretch, Policy::Pad).iter().map(|rank| rank.steps(Progress::default()).unwrap()).collect();
            let mut samples = Vec::new();
            (0..steps[0].len()).for_each(|step| { deliver(&steps, step, &mut samples); });
            samples
        });
        let first = sequences.next().unwrap();
        prop_assert!(sequences.all(|sequence| sequence == first));
        let mut sorted = first;
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..n));
    }
}

#[test]
fn a_single_process_keeps_its_short_last_batch() {
    let order = Order::new(Shuffle::Full, 10, 1).unwrap();
    assert_eq!(Policy::default_for(1), Policy::Short);
    let steps =
        Schedule::new(order.clone(), 4, Rank::SINGLE, Policy::Short).unwrap().steps(Progress::default()).unwrap();
    let mut batch = Vec::new();
    let lens: Vec<usize> = (0..steps.len())
        .map(|step| {
            assert_eq!(steps.batch(step, &mut batch), 0);
            batch.len()
        })
        .collect();
    assert_eq!((lens, steps.counts()), (vec![4, 4, 2], Counts::default()));
    let error = Schedule::new(order, 4, Rank::new(0, 2).unwrap(), Policy::Short).unwrap_err();
    assert!(error.to_string().contains("world 2"), "{error}");
}

#[test]
fn a_batch_needs_no_allocation() {
    for policy in [Policy::Drop, Policy::Pad, Policy::Wrap] {
        let order = Order::new(Shuffle::Block { block_samples: 7, window: 3 }, 1_000, 1).unwrap();
        let steps =
            Schedule::new(order, 64, Rank::new(2, 3).unwrap(), policy).unwrap().steps(Progress::default()).unwrap();
        let mut batch = Vec::with_capacity(64);
        let (address, capacity) = (batch.as_ptr(), batch.capacity());
        (0..steps.len()).for_each(|step| {
            steps.batch(step, &mut batch);
        });
        assert_eq!((batch.as_ptr(), batch.capacity()), (address, capacity));
    }
}

#[test]
fn what_cannot_be_met_is_an_error() {
    let order = || Order::new(Shuffle::Full, 10, 1).unwrap();
    let rank = Rank::new(0, 4).unwrap();
    for (batch_size, word) in
        [(0, "batch_size"), (u64::MAX, "batch_size"), ((1 << 24) + 1, "at most 16777216"), (3, "drop leaves nothing")]
    {
        let error = Schedule::new(order(), batch_size, rank, Policy::Drop).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let schedule = Schedule::new(order(), 2, rank, Policy::Drop).unwrap();
    assert!(schedule.steps(Progress { epoch: 0, consumed: 11 }).is_err());
    assert!(schedule.steps(Progress { epoch: 0, consumed: 10 }).unwrap().is_empty());
    let nothing = Order::new(Shuffle::Full, 0, 1).unwrap();
    for policy in [Policy::Drop, Policy::Pad, Policy::Wrap] {
        let schedule = Schedule::new(nothing.clone(), 2, rank, policy).unwrap();
        assert!(schedule.steps(Progress::default()).unwrap().is_empty());
    }
}

#[test]
fn more_ranks_than_samples_still_step_together() {
    let order = Order::new(Shuffle::Full, 3, 1).unwrap();
    for (policy, last) in [(Policy::Pad, order.sample_at(0, 2)), (Policy::Wrap, order.sample_at(0, 9 % 3))] {
        let schedule = Schedule::new(order.clone(), 1, Rank::new(9, 10).unwrap(), policy).unwrap();
        let steps = schedule.steps(Progress::default()).unwrap();
        let mut batch = Vec::new();
        steps.batch(0, &mut batch);
        assert_eq!((steps.len(), batch), (1, vec![last]));
    }
}

fn env(pairs: &[(&str, &str)]) -> Result<Option<(u32, u32, Option<u32>)>, String> {
    let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let rank = Rank::from_env(lookup).map_err(|error| error.to_string())?;
    Ok(rank.map(|rank| (rank.rank(), rank.world(), rank.local_rank())))
}

#[test]
fn launchers_are_understood() {
    assert_eq!(env(&[("HOME", "/root")]), Ok(None));
    let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
    assert_eq!(env(&torchrun), Ok(Some((5, 8, Some(1)))));
    assert_eq!(env(&[("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4")]), Ok(Some((3, 4, None))));
    assert_eq!(env(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]), Ok(Some((0, 2, None))));
    assert_eq!(env(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]), Ok(Some((1, 2, None))));
    let both =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "1")];
    assert_eq!(env(&both), Ok(Some((1, 2, Some(1)))));
    // One torchrun per Slurm task, and mpirun inside a batch script.
    let nested =
        [&torchrun[..], &[("TORCHELASTIC_RUN_ID", "x"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2")]].concat();
    assert_eq!(env(&nested), Ok(Some((5, 8, Some(1)))));
    let script =
        [("SLURM_JOB_ID", "9"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("PMI_RANK", "2"), ("PMI_SIZE", "4")];
    assert_eq!(env(&script), Ok(Some((2, 4, None))));
}

/// What a loader does with the launcher's word and its caller's.
#[test]
fn a_given_rank_and_the_launcher_s_must_agree() {
    let lookup = |name: &str| {
        let pairs =
            [("RANK", "5"), ("WORLD_SIZE", "8"), ("SLURM_PROCID", "5"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "1")];
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
    };
    let nothing = |_: &str| None;
    let of = |rank, world| Rank::new(rank, world).unwrap();
    let said = Rank::given_or_from_env(None, lookup).unwrap();
    assert_eq!((said.rank(), said.world(), said.local_rank()), (5, 8, Some(1)), "each launcher says what it knows");
    assert_eq!(Rank::given_or_from_env(Some(of(5, 8)), lookup).unwrap(), said);
    assert_eq!(Rank::given_or_from_env(Some(of(2, 3)), nothing).unwrap(), of(2, 3));
    assert_eq!(Rank::given_or_from_env(None, nothing).unwrap(), Rank::SINGLE);
    for given in [of(5, 9), of(4, 8), Rank::SINGLE] {
        let error = Rank::given_or_from_env(Some(given), lookup).unwrap_err().to_string();
        let words = [&format!("rank {} of world {}", given.rank(), given.world()), "RANK=5 WORLD_SIZE=8 (torchrun)"];
        assert!(words.iter().all(|word| error.contains(*word)), "{error}");
    }
}

#[test]
fn contradictions_name_both_sides() {
    let said = |pairs: &[(&str, &str)], words: &[&str]| {
        let error = env(pairs).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let two = [("RANK", "1"), ("WORLD_SIZE", "8"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")];
    said(&two, &["RANK=1", "WORLD_SIZE=8", "SLURM_PROCID=1", "SLURM_NTASKS=4", "unset"]);
    let step = [&two[..], &[("SLURM_JOB_ID", "1"), ("SLURM_STEP_ID", "0")]].concat();
    said(&step, &["WORLD_SIZE=8", "SLURM_NTASKS=4"]);
    said(&[("RANK", "8"), ("WORLD_SIZE", "8")], &["RANK=8", "WORLD_SIZE=8"]);
    said(&[("RANK", "1")], &["RANK=1", "WORLD_SIZE"]);
    said(&[("WORLD_SIZE", "1")], &["WORLD_SIZE=1", "RANK"]);
    said(&[("PMI_RANK", "-1"), ("PMI_SIZE", "2")], &["PMI_RANK=\"-1\""]);
}
