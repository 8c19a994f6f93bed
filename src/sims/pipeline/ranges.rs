//! What an engine and its worker do, as ranges on NVIDIA's timeline.

use std::collections::BTreeSet;

use super::super::draw::Shards;
use super::super::machine::Drawn;
use super::Run;
use crate::engine::ranges::seen;

/// Mutants that this catches: a stage without a range; one that lasts into the next.
#[test]
fn stages_of_a_turn_are_ranges() {
    let shards = Shards::new();
    let mut run = Run::new(1, &shards, &Drawn);
    seen::take();
    run.engine.turn();
    let stages = ["copies that ended", "reads that ended", "hand over", "plan, read", "hand over", "wait"];
    let want: Vec<String> = stages.iter().flat_map(|stage| [format!("strait: {stage}"), "end".into()]).collect();
    assert_eq!(seen::take(), want);
}

/// Where time is simulated a worker's jobs are done as they are taken back.
///
/// Mutants that this catches: each of the ranges left out, of the engine and of its worker; one that outlasts its stage.
#[test]
fn what_is_done_with_a_batch_is_a_range_within_its_stage() {
    let shards = Shards::new();
    let (mut staged, mut direct) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..40 {
        seen::take();
        let mut run = Run::new(seed, &shards, &Drawn);
        run.epochs();
        let found = if run.engine.stage.is_some() { &mut staged } else { &mut direct };
        found.extend(seen::nested());
        run.finish();
    }
    let in_reads = |more: &[&str]| {
        let stages = ["copies that ended", "reads that ended", "hand over", "plan, read", "wait"].map(String::from);
        stages.into_iter().chain(more.iter().map(|one| format!("reads that ended > {one}"))).collect::<BTreeSet<_>>()
    };
    assert_eq!(direct, in_reads(&["checksums", "gather", "cast"]));
    assert_eq!(staged, in_reads(&["checksums", "start copies", "gather", "cast"]));
}
