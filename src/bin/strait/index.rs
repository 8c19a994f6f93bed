//! `strait index`: a sidecar for each shard, made or checked.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use strait::dataset::{IndexOutcome, IndexProgress, Indexing, ShardIndex};

use crate::dataset::DatasetOptions;
use crate::failure::Result;
use crate::{Answer, interrupt, size, text};

const HELP_END: &str = "\
Examples:
  # one small file beside each shard, so that opening the dataset reads no shard
  strait index /data/train
  # with the CRC32C of each field of each sample (reads everything once)
  strait index /data/train --checksums
  # for a dataset that cannot be written to
  strait index /mnt/readonly/train --index-dir /var/cache/train
  # are index and shards still those that were indexed?
  strait index /data/train --check

Shards that have an index of theirs already are left alone, so an interrupted run goes on where it was. An index is \
written under its name only once it is whole. It is its shard's while the shard's size and modification time stay as they \
were; one that had checksums is renewed with them.

Exit codes: 0 done; 1 a shard could not be indexed, or does not agree with its index (the others are done all the \
same); 2 bad command line; 130 interrupted.";

/// Make an index for each shard, so that a dataset opens at once; check it, and the shards by it
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Shards, or directories of them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dataset: DatasetOptions,
    /// Keep the CRC32C of each field of each sample, too
    #[arg(long)]
    checksums: bool,
    /// Write nothing: compare indexes with shards, and samples with their checksums
    #[arg(long, conflicts_with = "checksums")]
    check: bool,
    /// Compare whole shards with the hashes in this file, a line each as sha256sum, md5sum .. write them
    #[arg(long, value_name = "FILE")]
    sums: Option<PathBuf>,
    /// Shards at a time [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

pub(crate) fn run(options: &Options) -> Result<Answer> {
    let threads = options.threads.map_or(0, usize::from);
    let how = Indexing { checksums: options.checksums, check: options.check, sums: options.sums.clone(), threads };
    let bar = bar();
    let watch = |progress: IndexProgress| {
        bar.set_length(progress.shards);
        bar.set_position(progress.done);
        let read = if progress.bytes > 0 { format!("  {} read", size::show(progress.bytes)) } else { String::new() };
        bar.set_message(format!("{} samples{read}", progress.samples));
        interrupt::check().is_ok()
    };
    let began = Instant::now();
    let done = options.dataset.options().index(&options.paths, &how, &watch);
    bar.finish_and_clear();
    interrupt::check()?;
    Ok(answer(options, &done?, began.elapsed().as_secs_f64()))
}

fn bar() -> ProgressBar {
    let shown = std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} shards  {elapsed_precise}  {msg}  {eta} left");
    bar.set_style(style.expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn answer(options: &Options, shards: &[ShardIndex], seconds: f64) -> Answer {
    let count = |which: fn(&IndexOutcome) -> bool| shards.iter().filter(|shard| which(&shard.outcome)).count();
    let written = count(|outcome| matches!(outcome, IndexOutcome::Written));
    let kept = count(|outcome| matches!(outcome, IndexOutcome::Kept));
    let right = count(|outcome| matches!(outcome, IndexOutcome::Right));
    let failed: Vec<(&ShardIndex, &strait::Error)> = shards
        .iter()
        .filter_map(|shard| match &shard.outcome {
            IndexOutcome::Failed(error) => Some((shard, error)),
            _ => None,
        })
        .collect();
    let samples: u64 = shards.iter().map(|shard| shard.samples).sum();
    let fresh = shards.iter().filter(|shard| !matches!(shard.outcome, IndexOutcome::Kept));
    let per_second = fresh.map(|shard| shard.samples).sum::<u64>() as f64 / seconds.max(1e-9);
    let sidecars = shards.iter().filter_map(|shard| shard.sidecar.as_ref());
    let index_bytes: u64 = sidecars.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum();

    let mut out = String::new();
    for (_, error) in &failed {
        out.push_str(&text::wrapped("failed  ", &error.to_string()));
    }
    let did = match options.check {
        true => format!("{right} agree with their shards"),
        false => format!("{written} written, {kept} kept"),
    };
    // None of them was read where all are kept.
    let rate = if per_second > 0.0 { format!(", {per_second:.0} samples/s") } else { String::new() };
    out.push_str(&format!(
        "{}, {}: {did}, {} failed\n{seconds:.2} s{rate}; indexes of {}\n",
        text::count(shards.len() as u64, "shard"),
        text::count(samples, "sample"),
        failed.len(),
        size::show(index_bytes),
    ));
    let failures = |(shard, error): &(&ShardIndex, &strait::Error)| json!({ "shard": shard.shard.display().to_string(), "code": error.code(), "error": error.to_string() });
    let json = json!({
        "shards": shards.len(),
        "samples": samples,
        "written": written,
        "kept": kept,
        "right": right,
        "failed": failed.iter().map(failures).collect::<Vec<_>>(),
        "seconds": seconds,
        "samples_per_second": per_second,
        "index_bytes": index_bytes,
    });
    Answer { text: out, json, exit_code: u8::from(!failed.is_empty()) }
}
