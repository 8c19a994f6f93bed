//! What a load's engine does, as ranges on NVIDIA's timeline.

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
