//! `strait doctor`: what this machine can do, what holds it back, how to change it.

mod cufile;
mod direct;
mod disk;
mod gpu;
mod machine;
mod memory;
mod path;
mod probe;
mod report;
mod ring;

use std::path::PathBuf;

use serde_json::json;

use crate::Answer;
use crate::failure::Result;
use path::{Engine, PathAnswer};
use report::{Finding, Section};
use ring::RingAnswer;

const HELP_END: &str = "\
Examples:
  # files in the current directory
  strait doctor
  # two places: often two file systems, and two answers
  strait doctor /data /scratch
  # this very file is read (64 KiB of it)
  strait doctor /data/shard-0.tar
  # for a program
  strait doctor --json | jq .verdict

Every line is marked: `ok` (nothing to gain), `note` (it works; something costs speed or is worth knowing), `problem` \
(it does not work). The last lines say which path a loader will take, and why.

Exit codes: 0 a loader works here, however slowly; 1 a path cannot be read at all; 2 bad command line.";

/// Say what this machine can do, what holds it back, and how to change it
///
/// Nothing is guessed that can be tried: a ring is set up, memory is registered, a block of a file is read. In a
/// directory that means a temporary file of 1 MiB, removed at once; where none can be made, a file that is there.
#[derive(clap::Args)]
#[command(after_help = HELP_END)]
pub(crate) struct Options {
    /// Files or directories that shards are read from
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<Answer> {
    let (ring_section, ring) = ring::examine();
    let (cuda_section, cuda) = gpu::examine();
    let mut sections = vec![machine::examine(), ring_section, memory::examine(), cuda_section];
    let mut answers = Vec::new();
    for path in &options.paths {
        let (section, answer) = path::examine(path, &ring);
        sections.push(section);
        answers.push(answer);
    }
    let lines: Vec<String> = answers.iter().map(|answer| verdict(answer, &ring, cuda)).collect();
    let can_run = answers.iter().all(|answer| answer.engine != Engine::None);
    let per_path = answers.iter().map(|answer| {
        json!({ "path": answer.path, "engine": answer.engine.name(), "reason": answer.reason, "o_direct": answer.direct })
    });
    let json = json!({
        "can_run": can_run,
        "device": if cuda { "cuda:0" } else { "host" },
        "paths": per_path.collect::<Vec<_>>(),
        "text": lines.join("\n"),
    });
    Ok(Answer {
        text: report::text(&sections, &lines),
        json: report::json(&sections, json),
        exit_code: if can_run { 0 } else { 1 },
    })
}

/// The way the data will go, in one sentence.
fn verdict(answer: &PathAnswer, ring: &RingAnswer, cuda: bool) -> String {
    let path = answer.path.display();
    let reads = match answer.engine {
        Engine::None => return format!("{path}: cannot be read ({}); a loader fails here.", answer.reason),
        Engine::Ring => format!("io_uring ({})", ring.flags.unwrap_or("plain")),
        Engine::Pread => "pread threads".to_owned(),
    };
    let mode = if answer.direct { "O_DIRECT" } else { "the page cache" };
    let target = if cuda {
        match strait::storage::Cufile::obstacle(false) {
            None => {
                "cuda:0 by cuFile, if a trial read is right (path: direct), else pinned slabs and CUDA copies (path: staged)"
            }
            Some(_) => "pinned slabs, then by CUDA copies to cuda:0 (path: staged)",
        }
    } else {
        "the batch's own host memory (path: direct; no CUDA device)"
    };
    format!("{path}: {reads} through {mode} into {target}, because {}.", answer.reason)
}
