//! The command `strait`: measures how fast this machine moves shards to a device, says what holds it back, and proves
//! that every sample comes.

mod audit;
mod bench;
mod dataset;
mod doctor;
mod failure;
mod hash;
mod index;
mod inspect;
mod interrupt;
mod linux;
mod load;
mod size;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::failure::Failure;

const HELP_END: &str = "\
Examples:
  # what this machine can do for files under /data, and what to change
  strait doctor /data
  # measure with a sample dataset that is made for the purpose and removed
  strait bench
  # measure on your own files (they are only read)
  strait bench /data/*.bin
  # the same numbers for a program
  strait bench --json > result.json
  # what is in these shards?
  strait inspect /data/train
  # an index beside each shard, with checksums of every sample
  strait index /data/train --checksums
  # a checkpoint into device memory, next to what the disk can do
  strait load ./llama
  # a digest of every tensor of a checkpoint, and whether all is still as it was
  strait hash ./llama --per tensor --output ./llama/manifest.json
  strait hash --check ./llama/manifest.json
  # does every sample come once, on 8 ranks?
  strait audit /data --world 8

Exit codes:
  0    done
  1    it could not be done (standard error says what happened, why, what to do), or an audit or a comparison found something
  2    the command line was not understood; nothing was started
  130  interrupted (Ctrl-C, SIGTERM); what the command made was removed

Results go to standard output; progress and messages go to standard error. With --json, standard output is exactly \
one JSON object, also when a command that was understood fails ({\"error\": {..}}). STRAIT_LOG=debug shows the library's log.";

/// Streams training shards from NVMe straight into GPU memory: measure it, examine the machine, audit the order.
#[derive(Parser)]
#[command(name = "strait", version, after_help = HELP_END, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print exactly one JSON object on standard output instead of tables
    #[arg(long, global = true, display_order = 900)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Audit(audit::Options),
    Bench(bench::Options),
    Doctor(doctor::Options),
    Hash(hash::Options),
    Index(index::Options),
    Inspect(inspect::Options),
    Load(load::Options),
}

/// What a subcommand has found out: the same thing for people and for programs.
pub(crate) struct Answer {
    text: String,
    json: Value,
    exit_code: u8,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = tracing_subscriber::EnvFilter::try_from_env("STRAIT_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).without_time().init();
    interrupt::watch();
    let answer = match cli.command {
        Command::Audit(options) => audit::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Hash(options) => hash::run(&options),
        Command::Index(options) => index::run(&options),
        Command::Inspect(options) => inspect::run(&options, cli.json),
        Command::Load(options) => load::run(&options),
    };
    match answer {
        Ok(answer) => match print(if cli.json { answer.json.to_string() } else { answer.text }) {
            Ok(()) => ExitCode::from(answer.exit_code),
            Err(error) => {
                eprintln!("{}", Failure::unwritten(&error));
                ExitCode::FAILURE
            }
        },
        Err(failure) => {
            if cli.json {
                // Standard error says it too.
                let _ = print(failure.to_json().to_string());
            }
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Writes a result.
fn print(mut text: String) -> io::Result<()> {
    if text.is_empty() {
        return Ok(()); // raw bytes were written already
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    write(text.as_bytes())
}

/// Writes to standard output. A reader that went away (`strait doctor | head`) is not an error; a full disk is.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
