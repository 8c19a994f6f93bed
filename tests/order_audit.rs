//! The audit counts what really came, for every policy, shuffle, mixture and resume.

use proptest::prelude::*;
use strait::order::{
    AUDIT_SAMPLES_MAX, AtEnd, Audit, Counts, Order, Part, Policy, Progress, Shuffle, Stretch, audit, audit_while,
};

fn stretch(world: u32, batch_size: u64, steps_max: u64) -> Stretch {
    Stretch { world, batch_size, steps_max, from: None }
}

fn orders() -> impl Strategy<Value = Order> {
    let shuffle = prop_oneof![
        Just(Shuffle::Sequential),
        Just(Shuffle::Full),
        (1u64..40, 1u64..6).prop_map(|(block_samples, window)| Shuffle::Block { block_samples, window }),
    ];
    let parts = prop::collection::vec((1u64..300, 1u32..50), 1..4);
    let at_end = prop_oneof![Just(AtEnd::Stop), (1u64..900).prop_map(|positions| AtEnd::Repeat { positions })];
    (shuffle, parts, at_end, any::<u64>(), any::<bool>()).prop_map(|(shuffle, parts, at_end, seed, mixed)| {
        let parts: Vec<Part> = parts.into_iter().map(|(samples, weight)| Part { samples, weight }).collect();
        match mixed {
            true => Order::mixture(&parts, shuffle, seed, at_end).unwrap(),
            false => Order::new(shuffle, parts[0].samples, seed).unwrap(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn promises_hold(
        order in orders(), policy in prop_oneof![Just(Policy::Drop), Just(Policy::Pad), Just(Policy::Wrap)],
        epochs in 1u64..5, stretches in prop::collection::vec((1u32..9, 1u64..12, 0u64..40), 1..4),
    ) {
        let mut stretches: Vec<Stretch> = stretches.into_iter().map(|(w, b, steps)| stretch(w, b, steps)).collect();
        stretches.last_mut().unwrap().steps_max = u64::MAX;
        // Drop takes no order that is shorter than a global batch.
        let short = stretches.iter().any(|stretch| stretch.batch_size * u64::from(stretch.world) > order.len());
        let policy = if short && policy == Policy::Drop { Policy::Pad } else { policy };
        let audit = audit(&order, policy, epochs, &stretches).unwrap();
        prop_assert!(audit.holds(), "{audit}");
        prop_assert_eq!(audit.once + audit.missing, order.len() * epochs);
        prop_assert_eq!(audit.once + audit.repeated + audit.padded, audit.positions);
    }
}

#[test]
fn counts_are_what_one_counts_by_hand() {
    let order = Order::new(Shuffle::Full, 103, 1).unwrap();
    let count = |policy| audit(&order, policy, 2, &[stretch(4, 5, u64::MAX)]).unwrap();
    let shown = |audit: Audit| [audit.positions, audit.once, audit.missing, audit.repeated, audit.padded];
    assert_eq!(shown(count(Policy::Drop)), [200, 200, 6, 0, 0]);
    assert_eq!(shown(count(Policy::Pad)), [240, 206, 0, 0, 34]);
    assert_eq!(shown(count(Policy::Wrap)), [240, 206, 0, 34, 0]);
    let single = audit(&order, Policy::Short, 2, &[stretch(1, 5, u64::MAX)]).unwrap();
    assert_eq!(shown(single), [206, 206, 0, 0, 0]);
    // Two steps of 4 x 5, then the other 63 samples by 3 x 4: five steps, 3 left.
    let resumed = audit(&order, Policy::Drop, 1, &[stretch(4, 5, 2), stretch(3, 4, u64::MAX)]).unwrap();
    assert_eq!((shown(resumed), resumed.holds()), ([100, 100, 3, 0, 0], true));
    let line = resumed.to_string();
    assert_eq!(line, "100 positions: 100 once, 3 missing, 0 repeated, 0 padded; as the policy promises");
}

#[test]
fn a_run_that_stops_early_does_not_hold() {
    let order = Order::new(Shuffle::Full, 100, 1).unwrap();
    let stopped = audit(&order, Policy::Pad, 1, &[stretch(2, 10, 3)]).unwrap();
    assert_eq!((stopped.once, stopped.missing, stopped.promised, stopped.holds()), (60, 40, Counts::default(), false));
    assert!(stopped.to_string().contains("NOT as promised"), "{stopped}");
}

/// What a run must not do shows: going on from a cursor that is older than the last batch, or ahead of it.
#[test]
fn a_wrong_start_does_not_hold() {
    let order = Order::new(Shuffle::Full, 100, 1).unwrap();
    let from = |epoch, consumed| {
        let second = Stretch { from: Some(Progress { epoch, consumed }), ..stretch(4, 5, u64::MAX) };
        audit(&order, Policy::Pad, 2, &[stretch(2, 10, 8), second]).unwrap()
    };
    let shown = |audit: Audit| [audit.positions, audit.once, audit.missing, audit.repeated, audit.padded];
    assert_eq!((shown(from(1, 60)), from(1, 60).holds()), ([200, 200, 0, 0, 0], true));
    assert_eq!((shown(from(1, 20)), from(1, 20).holds()), ([240, 200, 0, 40, 0], false));
    assert_eq!((shown(from(1, 80)), from(1, 80).holds()), ([180, 180, 20, 0, 0], false));
    assert_eq!((shown(from(0, 80)), from(0, 80).holds()), ([280, 200, 0, 80, 0], false));
    assert_eq!((shown(from(2, 0)), from(2, 0).holds()), ([160, 160, 40, 0, 0], false));
}

/// Coming back to an epoch that was left, with what the policy had left out of it still to come.
#[test]
fn what_was_dropped_before_a_return_is_delivered_once() {
    let parts = [Part { samples: 70, weight: 3 }, Part { samples: 45, weight: 2 }];
    for order in [
        Order::new(Shuffle::Full, 100, 1).unwrap(),
        Order::mixture(&parts, Shuffle::Full, 1, AtEnd::Repeat { positions: 100 }).unwrap(),
    ] {
        let returning = |batch_size, steps, epoch, consumed| Stretch {
            from: Some(Progress { epoch, consumed }),
            ..stretch(1, batch_size, steps)
        };
        let shown = |stretches: &[Stretch]| {
            let Audit { once, missing, repeated, .. } = audit(&order, Policy::Drop, 2, stretches).unwrap();
            [once, missing, repeated]
        };
        // Two epochs of 90, the second given up after 30: 60 come again, and the 10 that epoch 0 had dropped are new.
        let second = returning(10, u64::MAX, 0, 60);
        assert_eq!(shown(&[stretch(1, 30, 4), second]), [200, 0, 60]);
        // Twice: what a return delivers is known to the next.
        let twice = [stretch(1, 30, 4), returning(10, 4, 0, 60), returning(10, u64::MAX, 0, 90)];
        assert_eq!(shown(&twice), [200, 0, 30 + 10 + 30]);
        // Ahead of the run and back.
        let ahead = [stretch(1, 30, 1), returning(10, 5, 1, 50), returning(10, u64::MAX, 0, 30)];
        assert_eq!(shown(&ahead), [200, 0, 50]);
    }
}

#[test]
fn it_ends_when_told_to() {
    let order = Order::new(Shuffle::Sequential, 1 << 20, 1).unwrap();
    let mut asked = Vec::new();
    let stretches = [stretch(2, 64, u64::MAX)];
    let count = |positions| {
        asked.push(positions);
        asked.len() < 3
    };
    let stopped = audit_while(&order, Policy::Drop, 3, &stretches, count).unwrap();
    assert_eq!((asked, stopped.positions, stopped.holds()), (vec![1 << 16, 2 << 16, 3 << 16], 3 << 16, false));
}

#[test]
fn a_mixture_that_stops_leaves_out_what_its_order_leaves_out() {
    let parts = [Part { samples: 10, weight: 1 }, Part { samples: 1_000, weight: 1 }];
    let order = Order::mixture(&parts, Shuffle::Full, 1, AtEnd::Stop).unwrap();
    let audit = audit(&order, Policy::Short, 3, &[stretch(1, 7, u64::MAX)]).unwrap();
    assert_eq!((order.len(), audit.once, audit.missing, audit.holds()), (20, 60, 0, true));
}

#[test]
fn what_cannot_be_run_is_an_error() {
    let order = Order::new(Shuffle::Full, 100, 1).unwrap();
    assert!(audit(&order, Policy::Drop, 1, &[stretch(2, 0, 1)]).is_err());
    assert!(audit(&order, Policy::Short, 1, &[stretch(2, 1, 1)]).is_err());
    assert!(audit(&order, Policy::Pad, 1, &[stretch(2, 1_000_000_000_000, 1)]).is_err());
    assert!(audit(&order, Policy::Drop, u64::MAX, &[stretch(2, 1, 1)]).is_err());
    assert!(audit(&order, Policy::Drop, 1, &[stretch(0, 1, 1)]).is_err());
    let far = Stretch { from: Some(Progress { epoch: 0, consumed: 101 }), ..stretch(2, 1, 1) };
    assert!(audit(&order, Policy::Drop, 1, &[far]).is_err());
    let large = Order::new(Shuffle::Full, AUDIT_SAMPLES_MAX + 1, 1).unwrap();
    assert!(audit(&large, Policy::Drop, 1, &[stretch(2, 1, 1)]).is_err());
}
