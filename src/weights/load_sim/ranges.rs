//! What a load's engine and its checkers do, as ranges on NVIDIA's timeline.

use std::collections::BTreeSet;

use super::Run;
use crate::engine::ranges::seen;
use crate::sims::Drawn;

/// Mutants that this catches: a stage without a range; one that lasts into the next.
#[test]
fn stages_of_a_load_are_ranges() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = Run::new(1, directory.path(), &Drawn);
    seen::take();
    run.engine.turn();
    let stages = ["copies that ended", "reads that ended", "plan, read", "wait"];
    let want: Vec<String> = stages.iter().flat_map(|stage| [format!("strait: {stage}"), "end".into()]).collect();
    assert_eq!(seen::take(), want);
}

/// Where time is simulated checkers do their jobs as these are taken back.
///
/// Mutants that this catches: digests without a range; one that outlasts its job.
#[test]
fn digests_are_a_range_within_their_stage() {
    let mut found = BTreeSet::new();
    for seed in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let run = Run::new(seed, directory.path(), &Drawn);
        seen::take();
        run.finish();
        found.extend(seen::nested());
    }
    let stages = ["copies that ended", "reads that ended", "plan, read", "wait", "reads that ended > digests"];
    assert_eq!(found, stages.map(String::from).into());
}
