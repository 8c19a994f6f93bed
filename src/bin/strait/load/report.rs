//! The numbers of a load, as a table and as one JSON object with the keys of `strait bench`.

use serde_json::{Value, json};
use strait::weights::{Checkpoint, CheckpointFile};

use super::Options;
use super::run::{Loaded, Shard};
use crate::bench::measure::median;
use crate::bench::report::{Fact, json_of, reference_facts, rows, strait_facts};
use crate::bench::request::Request;
use crate::bench::rounds::Rounds;
use crate::bench::summary::{Strait, Summary};
use crate::{Answer, size, text};

pub(super) fn answer(
    options: &Options,
    checkpoint: &Checkpoint,
    request: &Request,
    all: &Rounds,
    loads: &[Loaded],
) -> Answer {
    let summary = Summary::new(&all.rounds);
    let strait = Strait::new(&all.rounds);
    let verified = options.verify.as_ref().and(summary.strait.as_ref()).map(|line| line.bytes as u64);
    let mut json = json_of(request, all, &summary, strait.as_ref(), None, false);
    for (key, value) in own_json(checkpoint, loads, verified).as_object().into_iter().flatten() {
        json[key] = value.clone();
    }
    let last = last_of(loads);
    let mut out = format!(
        "{} tensors, {} of {} in {} file(s): blocks of {}, {} reads in flight\n\n",
        last.tensors,
        size::show(last.shards.iter().map(|shard| shard.bytes).sum()),
        size::show(request.file_bytes),
        checkpoint.files().len(),
        size::show(request.block_bytes),
        request.depth,
    );
    let mut rows = rows(&summary);
    rows.retain(|row| !options.no_references || row[0] != "limit" && row[0] != "fio");
    out.push_str(&text::table(&rows));
    out.push('\n');
    let mut facts = vec![when(loads)];
    if let (Some(strait), Some(line)) = (&strait, &summary.strait) {
        let own = strait_facts(strait, line, &summary.share_of_limit);
        facts.extend(own.into_iter().filter(|(name, _)| *name != "first batch"));
    }
    if let Some(bytes) = verified {
        facts.push(("verified", format!("{}, each tensor before it was handed over", size::show(bytes))));
    }
    if !options.no_references {
        facts.extend(reference_facts(request, all));
    }
    for (name, fact) in facts {
        out.push_str(&text::wrapped(&format!("{name:<16}"), &fact));
    }
    out.push('\n');
    out.push_str(&text::table(&shard_rows(checkpoint, last)));
    Answer { text: out, json, exit_code: 0 }
}

/// What a load has besides what `bench` says.
fn own_json(checkpoint: &Checkpoint, loads: &[Loaded], verified: Option<u64>) -> Value {
    let last = last_of(loads);
    let shard = |(file, shard): (&CheckpointFile, &Shard)| {
        json!({
            "path": &*file.path, "file_bytes": file.bytes, "tensors": shard.tensors, "bytes": shard.bytes,
            "first_tensor_seconds": shard.first_seconds, "last_tensor_seconds": shard.last_seconds,
        })
    };
    let shards: Vec<Value> = checkpoint.files().iter().zip(&last.shards).map(shard).collect();
    json!({
        "tensors": last.tensors,
        "first_tensor_seconds": median(loads.iter().map(|load| load.first_tensor_seconds)),
        "last_tensor_seconds": median(loads.iter().map(|load| load.last_tensor_seconds)),
        "verified_bytes": verified,
        "shards": shards,
        // Of samples only.
        "batch": null, "record_bytes": null, "shuffle": null, "sample": null,
    })
}

/// When the first and the last tensor were there, over all loads.
fn when(loads: &[Loaded]) -> Fact {
    let ms = |pick: fn(&Loaded) -> f64| median(loads.iter().map(pick)).unwrap_or(0.0) * 1e3;
    let [first, last] = [ms(|load| load.first_tensor_seconds), ms(|load| load.last_tensor_seconds)];
    ("first tensor", format!("after {first:.1} ms; the last one after {last:.1} ms"))
}

fn last_of(loads: &[Loaded]) -> &Loaded {
    loads.last().expect("at least one round")
}

fn shard_rows(checkpoint: &Checkpoint, load: &Loaded) -> Vec<Vec<String>> {
    let mut rows = vec![["shard", "tensors", "bytes", "first ms", "last ms"].map(String::from).to_vec()];
    rows.extend(checkpoint.files().iter().zip(&load.shards).map(|(file, shard)| {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ms = |seconds: f64| if shard.tensors == 0 { "-".into() } else { format!("{:.1}", seconds * 1e3) };
        let bytes = size::show(shard.bytes);
        vec![name, shard.tensors.to_string(), bytes, ms(shard.first_seconds), ms(shard.last_seconds)]
    }));
    rows
}
